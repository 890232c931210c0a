"""The shared services, started once for all the tests that ask them."""

from collections.abc import Iterator

import pytest

from flows.services import reach
from infra.services import layout as layouts
from tests.support import services, toy


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[toy.Toy]:
    """A project in which the services run, for all tests that are marked `services`."""
    (home := tmp_path_factory.mktemp("services") / "project").mkdir()
    project = toy.make(home)
    (home / ".polm").mkdir(exist_ok=True, mode=0o700)
    done = services.command(project, "start", "--first-port", str(services.free_ports()))
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield project
    finally:
        services.command(project, "destroy", "--yes")


@pytest.fixture
def layout(project: toy.Toy, monkeypatch: pytest.MonkeyPatch) -> layouts.Layout:
    """The services' layout, with the variables of their users set and the project as working directory."""
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(reach, "_answered", set[str]())
    monkeypatch.setattr(reach, "SECONDS", 60.0)  # on a machine that is busy with other tests
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    found = layouts.find()
    assert found is not None
    for name, value in layouts.variables(found).items():
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return found
