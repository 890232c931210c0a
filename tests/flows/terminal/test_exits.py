"""Exit codes and messages: what is outside of polm is said in one line, and no command ends in a traceback for it."""

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flows import workspace
from flows.services.dashboards import free_port
from flows.terminal import exits, leaderboard
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError, PolmError, refusal
from tests.support import toy

STRANGER = 12345
"""A user that is not us."""


@pytest.fixture
def project(workspace: Path) -> toy.Toy:
    made = toy.make(workspace)
    shutil.copyfile(toy.REPO / "pyproject.toml", workspace / "pyproject.toml")
    return made


def namespaces() -> bool:
    """Whether this system gives user namespaces."""
    command = ["unshare", "--map-root-user", "--mount", "true"]
    found = shutil.which("unshare") is not None
    return found and subprocess.run(command, capture_output=True, check=False).returncode == 0


in_namespace = pytest.mark.skipif(not namespaces(), reason="this system gives no user namespace")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")


def outside(project: toy.Toy, *arguments: str, shell: str = "") -> tuple[int, str]:
    """Run `polm` in a user namespace, where the files of other users are out of our reach even for root."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", f'{shell} exec "$@"', "sh", *toy.POLM, *arguments]
    done = subprocess.run(
        command,
        cwd=project.root,
        env=project.environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def give_away(path: Path) -> None:
    for part in [path, *path.rglob("*")]:
        os.chown(part, STRANGER, STRANGER, follow_symlinks=False)


def report() -> None:
    """A leaderboard as a run leaves it."""
    metric = {"value": 0.5, "low": 0.4, "high": 0.6}
    entry = {"stage": "base", "digest": "d", "bytes": 3, "tasks": {"sums": {"metrics": {"right": metric}}}}
    artifact.write_json(
        leaderboard.FILE,
        {
            "recipe": "toy",
            "headline": {"task": "sums", "metric": "right"},
            "confidence": 0.95,
            "models": {"base": entry},
            "claims": [],
            "lineage": [{"name": "models/base", "digest": "d"}],
        },
    )


def one_line(said: str) -> bool:
    return said.startswith("error: ") and said.count("\n") == 1


@in_namespace
@as_root
@pytest.mark.parametrize("theirs", [".", ".polm"])
def test_in_a_copy_of_somebody_else_commands_that_read_work(project: toy.Toy, theirs: str) -> None:
    leaderboard.FILE.parent.mkdir(parents=True)
    report()
    Path(".polm").mkdir(mode=0o700)
    project.root.chmod(0o755)
    give_away(project.root / theirs)
    for arguments in (("run",), ("promote", "sft")):
        code, said = outside(project, *arguments)
        assert code == 2 and one_line(said), said
        assert f"{project.root}/.polm: permission denied" in said and "belongs to user" in said
    code, said = outside(project, "show")
    assert code == 0 and "0.500 ±0.100" in said
    code, said = outside(project, "doctor")
    assert code == 1 and "Traceback" not in said and "state" in said and "threads" in said
    code, said = outside(project, "chat", "--folder", "artifacts/nothing", "hi")
    assert code == 2 and one_line(said) and "artifacts/nothing: no genai_config.json" in said
    assert not [*Path(".polm").iterdir()]


@in_namespace
@as_root
def test_a_folder_that_cannot_be_looked_into_is_not_one_without_dvc_yaml(project: toy.Toy) -> None:
    project.root.chmod(0o700)
    os.chown(project.root, STRANGER, STRANGER)
    code, said = outside(project, "show")
    assert code == 2 and one_line(said) and "permission denied" in said and "belongs to user" in said


@in_namespace
def test_on_a_read_only_file_system(project: toy.Toy) -> None:
    leaderboard.FILE.parent.mkdir(parents=True)
    report()
    frozen = "mount --bind . . && mount -o remount,ro,bind . . && cd . && cd $PWD &&"
    code, said = outside(project, "run", shell=frozen)
    assert code == 2 and one_line(said) and f"{project.root}/.polm: the file system is read-only" in said
    code, said = outside(project, "show", shell=frozen)
    assert code == 0 and "0.500 ±0.100" in said
    assert not Path(".polm").exists()


@in_namespace
def test_a_user_without_a_name_and_a_home(project: toy.Toy) -> None:
    """A container that is run with a user of its own has neither."""
    environment = project.environment()
    environment.pop("HOME", None)
    code = "from flows import workspace; workspace.enter(); from dvc.repo import Repo; Repo()"
    command = ["unshare", "--user", "--map-user=54321", "--map-group=54321", sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@in_namespace
def test_a_full_disk_is_named(project: toy.Toy) -> None:
    Path(".polm").mkdir()
    full = "mount -t tmpfs -o size=64k none .polm && { dd if=/dev/zero of=.polm/fill bs=1k 2>/dev/null; true; } &&"
    code, said = outside(project, "run", shell=full)
    assert code == 2 and one_line(said) and f"{project.root}/.polm: the disk is full" in said
    code, said = outside(project, "doctor", shell=full)
    assert code == 1 and "Traceback" not in said and "the disk is full" in said
    assert project.ran() == []


@pytest.mark.parametrize("is_what", ["is a file", "is a symbolic link to nowhere", "is a named pipe"])
def test_what_stands_in_the_place_of_the_state(project: toy.Toy, is_what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in project.environment().items():
        monkeypatch.setenv(name, value)
    path = project.root / ".polm"
    {
        "is a file": path.touch,
        "is a symbolic link to nowhere": lambda: path.symlink_to("nowhere"),
        "is a named pipe": lambda: os.mkfifo(path),
    }[is_what]()
    with pytest.raises(PolmError, match=rf"\.polm: {is_what}.*move that away"):
        workspace.enter()
    assert workspace.enter(writes=False) == project.root


def test_a_state_open_to_others_is_closed(project: toy.Toy) -> None:
    state = project.root / ".polm"
    state.mkdir(mode=0o777)
    state.chmod(0o777)
    workspace.own(state)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_dvc_yaml_that_is_no_file_is_not_a_missing_one(project: toy.Toy) -> None:
    Path("dvc.yaml").unlink()
    Path("dvc.yaml").mkdir()
    with pytest.raises(PolmError, match=r"dvc\.yaml: is a folder; restore the file"):
        workspace.enter()


def test_the_module_is_the_command(project: toy.Toy) -> None:
    def said(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], env=project.environment(), capture_output=True, text=True, check=False
        )

    module = said("-m", "flows.cli", "--help")
    assert module.stdout == said("-c", "from flows.cli import main; main()", "--help").stdout
    assert "Usage: polm" in module.stdout and module.returncode == 0
    assert said("-m", "flows.cli", "show").returncode == 2
    assert said("-m", "flows.cli", "sow").returncode == 2


@pytest.mark.parametrize("arguments", [["--help"], ["show"]])
def test_a_reader_that_goes_away_is_no_failure(project: toy.Toy, arguments: list[str]) -> None:
    leaderboard.FILE.parent.mkdir(parents=True)
    report()
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*toy.POLM, *arguments], env=project.environment(), stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (exits.UNREAD, b"")


@pytest.mark.parametrize("arguments", [["--help"], ["show"]])
def test_an_output_that_cannot_be_written_is_said(project: toy.Toy, arguments: list[str]) -> None:
    leaderboard.FILE.parent.mkdir(parents=True)
    report()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*toy.POLM, *arguments],
            env=project.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2 and one_line(done.stderr) and "the disk is full" in done.stderr


def test_a_bug_keeps_its_traceback() -> None:
    for bug in (ValueError("x"), KeyError("x"), OSError(errno.EINVAL, "invalid"), FileExistsError(17, "x", "/tmp")):
        assert exits.explain(bug) is None


def test_a_missing_file_of_the_repository_is_named() -> None:
    assert exits.explain(FileNotFoundError(2, "x", "pyproject.toml")) == (
        "pyproject.toml: no such file; restore it with `git checkout pyproject.toml`"
    )


def test_a_full_disk_is_found_behind_the_errors_of_libraries(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    said = refusal(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert said is not None and "the disk is full" in said
    assert refusal(SafetensorError("header too large")) is None


def test_a_checkpoint_that_torch_could_not_write_whole_is_no_bug(tmp_path: Path) -> None:
    import torch

    with pytest.raises(RuntimeError) as full:
        torch.save({"weight": torch.zeros(100_000)}, "/dev/full")
    said = refusal(full.value)
    assert said is not None and "torch could not write all of a file: no room is left" in said
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04" + bytes(500))
    with pytest.raises(RuntimeError, match="PytorchStreamReader") as torn:
        torch.load(tmp_path / "torn.pt", weights_only=True)
    assert refusal(torn.value) is None, "a file that cannot be read is no full disk"


def test_a_file_system_without_locks_is_not_another_process(project: toy.Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ArtifactError, match="cannot be locked"), artifact.lock(Path("artifacts/x")):
        pass
    with pytest.raises(PolmError, match="cannot be locked"), workspace.run_lock():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("service", ["MLflow", "Prefect"])
def test_a_run_does_not_begin_without_its_servers(
    project: toy.Toy, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"MLflow": "MLFLOW_TRACKING_URI", "Prefect": "PREFECT_API_URL"}[service]
    address = f"http://me:secret@127.0.0.1:{free_port()}"
    monkeypatch.setenv(name, address)
    code, said = project.polm("run")
    assert code == 2 and said.count("error: ") == 1 and "Traceback" not in said
    assert f"{service} at http://me:***@127.0.0.1" in said and "connection refused, tried for 0." in said
    assert name in said and project.ran() == []
