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
