"""Fixtures: processes that a test session starts once, when the first test asks for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forking import HARNESS, LAUNCHED, LIBRARIES, Forking


@pytest.fixture(scope="session")
def forking() -> Iterator[Forking]:
    """What the commands of stages, and launchers of several processes, can fork from."""
    with Forking((*LIBRARIES, *HARNESS, *LAUNCHED), hash_seed="1") as forking:
        yield forking


@pytest.fixture(scope="session")
def other_forking() -> Iterator[Forking]:
    """The same with other hashes of strings, and so with other orders of sets."""
    with Forking(hash_seed="2") as forking:
        yield forking


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prefect server with a database of its own: a run that starts its own takes ten seconds longer."""
    from flows.services import dashboards

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("prefect"))
        patch.setenv("PREFECT_HOME", str(Path.cwd()))
        server = dashboards.prefect_server("test", dashboards.free_port(), ui=False)
        try:
            server.wait()
        except BaseException:
            server.end()
            raise
    yield server.url
    server.end()
