import json

import pytest

from harness import POSTGRES, Server, Simulator, run


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


@pytest.fixture
def cli(gateway):
    """The command line over the API, as an owner; `cli.json` reads what it prints."""
    def call(*args, check=0, stdin=None, key=None, url=None, **env):
        env = {"TOLLGATE_URL": url or gateway.base_url, "TOLLGATE_ADMIN_KEY": key or gateway.admin_key, **env}
        env = {name: value for name, value in env.items() if value is not None}
        return run(*args, env=env, check=check, stdin=stdin)

    call.json = lambda *args, **more: json.loads(call(*args, "-o", "json", **more).stdout)
    return call


FIGURES = pytest.StashKey()


def pytest_configure(config):
    config.stash[FIGURES] = []
    config.addinivalue_line("markers", "embedded: is about the embedded database, and not run on PostgreSQL")


def pytest_collection_modifyitems(config, items):
    if POSTGRES:
        left_out = [item for item in items if item.get_closest_marker("embedded")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def report(request):
    """Says a figure of an experiment, which is printed when all is over."""
    return request.config.stash[FIGURES].append


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[FIGURES]:
        terminalreporter.section("experiments")
        for figure in config.stash[FIGURES]:
            terminalreporter.write_line(figure)
