"""The `polm` command: what it says before anything runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import workspace
from flows.terminal import leaderboard
from flows.terminal.board import Board, duration, size
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError, ConfigError, PolmError
from tests.conftest import REPO
from tests.support import toy


@pytest.fixture
def project(workspace: Path) -> toy.Toy:
    return toy.make(workspace)


def test_help_names_every_command_and_imports_nothing_heavy(project: toy.Toy) -> None:
    code = """
import sys
from flows.cli import main
try:
    main()
except SystemExit:
    print("HEAVY", [m for m in ("prefect", "mlflow", "dvc", "torch", "psutil", "pydantic") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(f" {name} " in done.stdout for name in ("run", "show", "ui", "promote", "rollback", "doctor", "chat"))
    assert "HEAVY []" in done.stdout


def test_outside_a_project_the_way_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolmError, match=r"no dvc\.yaml here or in a folder above; go into your clone"):
        workspace.enter()


def test_the_root_is_found_from_a_folder_below(project: toy.Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in project.environment().items():
        monkeypatch.setenv(name, value)  # `enter` sets some of them, and the test must not
    monkeypatch.chdir(project.root / "params/toy")
    assert workspace.enter() == project.root
    assert (project.root / ".polm").stat().st_mode & 0o777 == 0o700
    assert Path.cwd() == project.root


def test_choosing_a_recipe_moves_the_link(project: toy.Toy) -> None:
    project.set("source", recipe="other")
    assert not workspace.choose_recipe("toy")
    assert workspace.choose_recipe("other")
    assert workspace.RECIPE.readlink() == Path("other/recipe.yaml")
    assert workspace.active_recipe() == "other"


def test_artifacts_of_another_recipe_are_set_aside(project: toy.Toy) -> None:
    for name in ("models/ours", "models/theirs", "metrics/theirs"):
        folder = Path("artifacts", name)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(name)
    Path("artifacts/models/notes").mkdir()
    moved = workspace.set_aside([Path("artifacts/models/ours")])
    assert moved == [Path("artifacts/metrics/theirs"), Path("artifacts/models/theirs")]
    assert Path(".polm/aside/models/theirs/manifest.json").read_text() == "models/theirs"
    assert sorted(p.name for p in Path("artifacts/models").iterdir()) == ["notes", "ours"]


def test_the_graph_is_printed_as_a_tree_and_in_mermaid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.terminal import graph_view

    monkeypatch.chdir(REPO)
    monkeypatch.setenv("COLUMNS", "160")
    graph_view.show(mermaid=False)
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "student_logits" in line]
    assert "distill.logits" in line and "teacher grpo" in line and "over student_alone" in line
    (ppo,) = [line for line in lines if " ppo  ppo" in line]
    assert ppo.index("ppo") > next(line for line in lines if " sft  sft" in line).index("sft")
    (vlm,) = [line for line in lines if " vlm  vlm" in line]
    assert "data pictures" in vlm and "claims digits.exact_match" in vlm and "(evaluated, exported)" in vlm
    assert not [line for line in lines if " pictures  media" in line], "a data set is no model"
    assert not any("(not evaluated)" in line for line in lines if "sight" in line or "vlm" in line)
    graph_view.show(mermaid=True)
    assert "  reward -. reward .-> ppo\n" in capsys.readouterr().out


def test_the_graph_says_what_is_left_out_here(project: toy.Toy, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.terminal import graph_view

    project.add_media("no_such_module_of_polm")
    graph_view.show(mermaid=False)
    said = capsys.readouterr().out
    (hearing,) = [line for line in said.splitlines() if "hearing  vlm" in line]
    (seeing,) = [line for line in said.splitlines() if "seeing  vlm" in line]
    assert "(left out here)" in hearing
    assert "(left out here)" not in seeing
    assert (
        "left out here, without no_such_module_of_polm: spoken, hearing; no_such_module_of_polm is in no extra" in said
    )


def test_a_recipe_without_a_graph_is_not_chosen(project: toy.Toy) -> None:
    Path("params/bare").mkdir()
    with pytest.raises(ConfigError, match=r"params/bare/recipe\.yaml: no such file; it is the recipe's graph"):
        workspace.choose_recipe("bare")
    assert workspace.active_recipe() == "toy"


def test_a_recipe_whose_graph_does_not_fit_is_not_chosen(project: toy.Toy) -> None:
    project.set("source", recipe="other")
    path = Path("params/other/recipe.yaml")
    path.write_text(path.read_text().replace("[base]", "[bse]"))
    with pytest.raises(ConfigError, match=r"evaluate: 'bse' is no model that answers in this graph; did you mean"):
        workspace.choose_recipe("other")
    assert workspace.active_recipe() == "toy"


def test_a_folder_in_place_of_the_link_is_told(project: toy.Toy) -> None:
    workspace.RECIPE.unlink()
    workspace.RECIPE.mkdir()
    with pytest.raises(ConfigError, match=r"params/recipe\.yaml: is a folder; `polm run --recipe NAME` links it"):
        workspace.active_recipe()


def test_a_link_to_nowhere_says_how_to_mend_it(project: toy.Toy) -> None:
    Path("params/toy/recipe.yaml").unlink()
    with pytest.raises(ConfigError, match=r"is a symbolic link to .*; `polm run --recipe NAME` links it"):
        workspace.active_recipe()


def test_an_unknown_recipe_changes_nothing_and_names_the_nearest(project: toy.Toy) -> None:
    before = workspace.RECIPE.read_text()
    with pytest.raises(ConfigError, match=r"params/tooy: no such recipe; did you mean 'toy'\?"):
        workspace.choose_recipe("tooy")
    assert workspace.RECIPE.read_text() == before


def test_a_recipe_file_without_recipe_is_named(project: toy.Toy) -> None:
    workspace.RECIPE.write_text("recip: toy\n")
    with pytest.raises(ConfigError, match=r"params/recipe\.yaml: missing key 'recipe'"):
        workspace.active_recipe()


@pytest.mark.parametrize("text", ["recipe:\n", "recipe: [toy]\n", "recipe: 7\n"])
def test_a_recipe_that_is_no_name_is_told(project: toy.Toy, text: str) -> None:
    workspace.RECIPE.write_text(text)
    with pytest.raises(ConfigError, match=r"params/recipe\.yaml: 'recipe' is .*; name a folder under params/"):
        workspace.active_recipe()


def test_a_recipe_file_that_would_be_waited_for_ends_the_run_at_once(project: toy.Toy) -> None:
    Path("params/toy/left.yaml").unlink()
    os.mkfifo("params/toy/left.yaml")
    code, said = project.polm("run")
    assert (code, said) == (2, "error: params/toy/left.yaml: is a named pipe; expected a YAML file\n")
    assert project.ran() == []


def test_a_project_without_recipes_says_so(project: toy.Toy) -> None:
    shutil.rmtree("params/toy")
    with pytest.raises(ConfigError, match="params/toy: no such recipe; there are none"):
        workspace.check_recipe("toy")


def test_the_lock_is_gone_with_its_holder_and_names_it(project: toy.Toy) -> None:
    code = """
import time
from flows import workspace
with workspace.run_lock():
    print("held", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=project.root, env=project.environment(), stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            with pytest.raises(PolmError, match=rf"process {holder.pid}\)"), workspace.run_lock():
                pass
        finally:
            holder.kill()
            holder.wait()
        with workspace.run_lock():
            assert (artifact.STATE / "run.lock").read_text() != str(holder.pid)


def test_each_run_has_logs_of_its_own(project: toy.Toy) -> None:
    assert len({workspace.new_run() for _ in range(3)}) == 3


def board(**differences: str) -> dict[str, object]:
    scores = {"value": 0.5, "low": 0.4, "high": 0.6}
    models = {}
    for name, parent in (("base", None), ("sft", "base")):
        metrics = {metric: dict(scores) for metric in ("right", "kind")}
        for metric, verdict in differences.items() if parent else ():
            metrics[metric]["difference"] = {"value": 0.1, "low": 0.1, "high": 0.1, "verdict": verdict}  # type: ignore[assignment]
        models[name] = {
            "stage": name,
            "digest": name,
            "parent": parent,
            "bytes": 3_400_000,
            "parameters": 1,
            "tasks": {"sums": {"metrics": metrics}},
        }
    return {
        "recipe": "toy",
        "headline": {"task": "sums", "metric": "right"},
        "confidence": 0.95,
        "models": dict(reversed(models.items())),
        "lineage": [{"digest": "base"}, {"digest": "sft"}],
    }


def test_the_leaderboard_puts_parents_and_the_headline_first(project: toy.Toy) -> None:
    leaderboard.FILE.parent.mkdir(parents=True)
    artifact.write_json(leaderboard.FILE, board(right="better", kind="worse"))
    artifact.STATE.mkdir()
    run = {"run_id": "abc", "version": "", "url": "", "artifact": "artifacts/models/sft"}
    (artifact.STATE / "mlflow_runs.json").write_text(json.dumps({"sft": run}))
    rows = leaderboard.rows(artifact.read_json(leaderboard.FILE))
    assert [row["model"] for row in rows] == ["base", "sft"]
    assert list(rows[1])[:4] == ["model", "trained with", "sums right", "sums kind"]
    assert (rows[1]["sums right"], rows[1]["sums kind"]) == ("0.500 ±0.100 ▲", "0.500 ±0.100 ▼")
    assert rows[0]["sums right"] == "0.500 ±0.100"
    assert (rows[1]["size"], rows[1]["MLflow run"], rows[0]["MLflow run"]) == ("3.4 MB", "abc", "")


def test_show_without_a_report_says_how_to_make_one(project: toy.Toy) -> None:
    from flows.terminal import summary

    with pytest.raises(ArtifactError, match="no report yet; make it with `polm run`"):
        summary.show()


def test_board_without_a_terminal_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.terminal.board import screen

    shown = Board(["sft", "dpo"], screen())
    with shown.shown():
        shown.state("sft", "starting", version="0123456789")
        shown.state("sft", "running")
        shown.event(
            "sft",
            {
                "time": 1.0,
                "done": 3,
                "total": 9,
                "label": "train",
                "metrics": {"epoch": 1, "entropy": 2, "grad_norm": 3, "loss": 0.12345},
            },
        )
        shown.state("sft", "done")
        shown.state("dpo", "skipped", note="needs sft")
    lines = [line[9:] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "sft@01234567 running"
    assert lines[1] == "sft@01234567 train 3/9  loss 0.1235  entropy 2  epoch 1"
    assert lines[2].startswith("sft@01234567 done in ")
    assert lines[3] == "dpo skipped: needs sft"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (9.97, "10.0 s"), (42.4, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (3_412_000, "3.41 MB"), (269_000_000_000, "269 GB")])
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text
