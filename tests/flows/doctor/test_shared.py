"""What `polm doctor` says of a server that lets everybody in, of a clock that is off, and of a DVC remote.

The server here stands in for MLflow's and Prefect's; `tests/infra/test_services.py` asks the real ones.
"""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.doctor import shared


class Open(BaseHTTPRequestHandler):
    """Answers everybody, by a clock of 1994."""

    def do_GET(self) -> None:
        self.send_response(401 if self.path == "/closed" else 200)
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "Sun, 06 Nov 1994 08:49:37 GMT" if self.path == "/old" else super().date_time_string(timestamp)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Open)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def project(workspace: Path) -> Path:
    """A DVC repository without a remote."""
    (workspace / ".dvc").mkdir()
    (workspace / ".git").mkdir()
    (workspace / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (workspace / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    return workspace


def test_a_server_that_lets_strangers_in(server: str) -> None:
    (finding,) = shared.strangers("MLflow", f"{server}/open")
    assert (finding.level, finding.check) == ("warn", "MLflow access")
    assert finding.found == "answers without credentials (200)" and "docs/services.md" in finding.remedy
    (finding,) = shared.strangers("MLflow", f"{server}/closed")
    assert finding.level == "ok"


def test_a_clock_that_is_off_and_how_much_that_matters(server: str) -> None:
    (finding,) = shared.clock("Prefect", shared._get(f"{server}/old", None))
    assert finding.level == "warn" and finding.found.endswith(" s from ours")
    (finding,) = shared.clock("DVC remote", shared._get(f"{server}/old", None), shared.SIGNED)
    assert finding.level == "fail", "S3 refuses what was signed then"
    (finding,) = shared.clock("Prefect", shared._get(f"{server}/now", None))
    assert finding.level == "ok"


def test_versions_are_compared_up_to_the_second_number() -> None:
    levels = [next(shared.versions("MLflow", theirs, "3.17.2")).level for theirs in ("3.17.9", "3.16.2", "")]
    assert levels == ["ok", "warn", "warn"]


def test_a_folder_as_remote_is_written_read_and_left_as_it_was(project: Path, tmp_path: Path) -> None:
    assert list(shared.dvc_remote()) == [], "there is none"
    remote = tmp_path / "remote"
    config = project / ".dvc/config"
    config.write_text(f"{config.read_text()}    remote = shared\n['remote \"shared\"']\n    url = {remote}\n")
    findings = {f.check: f for f in shared.dvc_remote()}
    assert findings["DVC remote"].found == f"DVC remote 'shared' ({remote}) is empty yet"
    assert findings["DVC remote rights"].found == "puts, reads and deletes objects"
    assert [path for path in remote.rglob("*") if path.is_file()] == []
    assert "DVC remote space" in {f.check for f in shared.dvc_remote()}


def test_a_remote_that_cannot_be_written(project: Path, tmp_path: Path) -> None:
    config = project / ".dvc/config"
    (tmp_path / "file").touch()
    url = tmp_path / "file/remote"
    config.write_text(f"{config.read_text()}    remote = shared\n['remote \"shared\"']\n    url = {url}\n")
    findings = list(shared._guarded("DVC remote", shared.dvc_remote))
    assert findings[-1].level == "fail" and "shared" in findings[-1].found
