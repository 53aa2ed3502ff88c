import pytest

from harness import Server, Simulator


@pytest.fixture
def simulator(tmp_path):
    simulator = Simulator(tmp_path)
    yield simulator
    simulator.stop()


@pytest.fixture
def server(tmp_path):
    """A server without an upstream."""
    home = tmp_path / "server"
    home.mkdir()
    server = Server(home)
    yield server
    server.finish()


@pytest.fixture
def gateway(server, simulator):
    """A server whose models are the simulated provider's."""
    server.upstream(simulator)
    return server


FIGURES = pytest.StashKey()


def pytest_configure(config):
    config.stash[FIGURES] = []


@pytest.fixture
def report(request):
    """Says a figure of an experiment, which is printed when all is over."""
    return request.config.stash[FIGURES].append


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[FIGURES]:
        terminalreporter.section("experiments")
        for figure in config.stash[FIGURES]:
            terminalreporter.write_line(figure)
