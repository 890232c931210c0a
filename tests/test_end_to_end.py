"""The real DAG on a small recipe of its own: run, run again, reproduce elsewhere, edit, promote, corrupt.

The recipe's graph is none of those that ship: `grpo` stands in it twice, before and after rejection sampling, the
teacher and the members of the merge are others, and a generator, a grader of the evaluation and a grader of the reward
are files of the recipe's own. The models learn nothing in a few steps; that they help is measured by `polm run` and
`bench/seeds.py`.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import REPO
from tests.support.forking import Forking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL: dict[str, dict[str, Any]] = {
    "base": {
        "source.scratch.steps": 4,
        "source.scratch.model.hidden_size": 64,
        "source.scratch.model.intermediate_size": 128,
        "source.scratch.model.num_hidden_layers": 2,
        "source.scratch.model.num_attention_heads": 2,
        "source.scratch.model.num_key_value_heads": 2,
    },
    "sft": {"trainer.max_steps": 4},
    "dpo": {"trainer.max_steps": 3},
    "grpo": {"trainer.max_steps": 2, "trainer.per_device_train_batch_size": 16, "trainer.max_completion_length": 12},
    "grpo_again": {
        "trainer.max_steps": 2,
        "trainer.per_device_train_batch_size": 16,
        "trainer.max_completion_length": 12,
        "graders.right.grader": "graders.odd",
        "graders.right.options": {},
    },
    "rft": {
        "rounds": 1,
        "prompts_per_round": 16,
        "sampling.max_new_tokens": 8,
        "graders.right.grader": "graders.odd",
        "graders.right.options": {},
        "replay": {},
        "trainer.max_steps": 2,
    },
    "merge": {
        "methods.linear.grid.weight": [[0.5, 0.5]],
        "metrics": {
            "sums.helpful": {
                "dataset": "prompts",
                "rows": 8,
                "grader": "sums",
                "weight": 1.0,
                "options": {"metric": "helpful"},
            }
        },
        "sampling.max_new_tokens": 8,
    },
    "distill": {
        "student.layers": [0],
        "student.largest_share": 0.9,
        "trainer.max_steps": 2,
        "methods": {
            "logits": {"teacher_weight": 1.0, "beta": 0.0, "temperature": 1.0, "on_policy": None, "answers": None}
        },
    },
    "export_onnx": {
        "parity.prompts": 4,
        "parity.max_new_tokens": 8,
        "speed.new_tokens": 8,
        "speed.repeats": 1,
        "forms.int4.thresholds.kl_per_token": 5.0,
        "forms.int4.thresholds.argmax_agreement": 0.0,
    },
    "data": {
        "sources.direct.options.count": 3000,
        "sources.worked.options.count": 500,
        "sources.conversations.generator": "generators.conversations",
        "sources.conversations.options.count": 500,
        "sources.preferences.options.count": 700,
        "sources.questions.options.count": 300,
        "sources.sums.options.count": 600,
        "sources.long_sums.options.count": 600,
        "sources.long_questions.options.count": 300,
        "sources.rationales.options.count": 300,
        "sources.feedback.options.count": 300,
        "sources.judgements.options.count": 300,
        "sources.instructions.options.count": 300,
        "sources.instructions_test.options.count": 600,
    },
}
GRAPH = """
recipe: micro
sft:
  sft: {from: base, claim: sums.exact_match}
dpo:
  dpo: {from: sft}
grpo:
  grpo: {from: sft, claim: sums.exact_match}
  grpo_again: {from: rft, claim: long_sums.exact_match, over: grpo}
rejection:
  rft: {from: grpo}
merge:
  merged: {from: sft, first: dpo, second: rft, settings: merge, method: linear}
distill:
  student: {from: rft, teacher: rft, settings: distill, method: logits}
evaluate: [base, sft, dpo, grpo, grpo_again]
export: [dpo]
forms: [int8]
"""
OWN = {
    "generators.py": '''
"""Conversations of this recipe's own."""
from tasks.generators import arithmetic


def conversations(count, seed, digits, courteous_share):
    """Yield the rows of `arithmetic`, marked."""
    for row in arithmetic.conversations(count, seed, digits, courteous_share):
        yield row | {"own": True}
''',
    "graders.py": '''
"""Graders of this recipe's own."""


def brief(doc, results):
    """One for an answer of at most 40 characters."""
    return {"brief": float(len(results[0]) <= 40)}


def odd(response, row):
    """One for an answer with an odd number of characters, as a model that has learnt nothing writes now and then."""
    return float(len(response) % 2)
''',
}
FRESH = frozenset(
    {"tasks.fingerprint", "tasks.data", "tasks.base", "tasks.sft", "artifacts/metrics/base", "tasks.report"}
)
"""Words that mark the stages of `dvc repro` which are fresh processes; the others fork, as those of `polm run` do."""
EVALUATED = {"base", "sft", "dpo", "grpo", "grpo_again"}
yaml = YAML()


def change(path: Path, key: str, value: Any) -> None:
    """Set a dotted key of a YAML file; it must exist."""
    document = yaml.load(path)
    *parents, last = key.split(".")
    section = document
    for name in parents:
        section = section[name]
    assert last in section, f"{path}: no key {key}"
    section[last] = value
    yaml.dump(document, path)


def command(
    folder: Path, *words: str, path: Path | None = None, warm: bool = True, prefect: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a working copy, with its own code and nothing of the outer environment's servers.

    Args:
        folder: the working copy.
        words: the command.
        path: where programs are looked for first; None: where this interpreter is.
        warm: whether `polm run` has parents of its own to fork from.
        prefect: address of the Prefect server of a run; None: it starts its own.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "POLM_", "DVC_"))}
    environment |= {
        "PATH": os.pathsep.join([*([str(path)] if path else []), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(folder),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder / ".polm/dvc"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
        "POLM_WARM": str(int(warm)),
    }
    if prefect:
        environment["PREFECT_API_URL"] = f"{prefect}/api"
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def polm(
    folder: Path, *words: str, python: Path | None = None, prefect: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `polm`; a program that is given runs its stages, and whatever else, and `polm` has no warm parents."""
    instead = f"import sys; sys.executable = {str(python or sys.executable)!r}; "
    ours = [sys.executable, "-c", f"{instead}from flows.cli import main; main()", *words]
    return command(folder, *ours, warm=not python, prefect=prefect)


def locked(folder: Path) -> dict[str, list[Any]]:
    """Outputs' hashes of every stage in `dvc.lock`."""
    stages = YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]
    return {name: [(out["path"], out["md5"]) for out in stage["outs"]] for name, stage in stages.items()}


def states(folder: Path) -> dict[str, str]:
    """How each stage ended in the newest run."""
    newest = max((folder / ".polm/logs").glob("*/summary.json"), key=lambda p: p.stat().st_mtime_ns)
    return {name: row["state"] for name, row in json.loads(newest.read_text()).items()}


def write_recipe(folder: Path) -> None:
    """Write the recipe `micro`: the files of `tiny` that its graph needs, made small, and its own."""
    recipe, tiny = folder / "params/micro", folder / "params/tiny"
    recipe.mkdir()
    for name in ("data", "base", "sft", "dpo", "grpo", "rft", "merge", "distill", "evaluate", "export_onnx", "report"):
        shutil.copy(tiny / f"{name}.yaml", recipe)
    shutil.copy(tiny / "grpo.yaml", recipe / "grpo_again.yaml")
    shutil.copytree(tiny / "eval", recipe / "eval")
    for stage, values in SMALL.items():
        for key, value in values.items():
            change(recipe / f"{stage}.yaml", key, value)
    task = yaml.load(recipe / "eval/sums.yaml")
    task |= {"task": "brief", "process_results": "graders.brief"}
    task["metric_list"] = [{"metric": "brief", "aggregation": "mean", "higher_is_better": True}]
    yaml.dump(task, recipe / "eval/brief.yaml")
    evaluation = yaml.load(recipe / "evaluate.yaml")
    for choice in evaluation["tasks"]:
        choice["limit"] = 100
    evaluation["tasks"].append({"file": "eval/brief.yaml", "limit": 8, "group_by": []})
    yaml.dump(evaluation, recipe / "evaluate.yaml")
    (recipe / "recipe.yaml").write_text(GRAPH)
    for name, text in OWN.items():
        (recipe / name).write_text(text)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree with a recipe `micro`, committed."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (REPO / name).is_file() and not name.startswith("tests/") and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name, follow_symlinks=False)
    write_recipe(folder)
    policy = folder / "mlflow/gates.yaml"
    policies = yaml.load(policy)
    policies["micro"] = copy.deepcopy(policies["tiny"])
    policies["micro"]["regression"]["brief.*"] = None
    yaml.dump(policies, policy)
    for words in (
        ["git", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "m"],
    ):
        subprocess.run(words, cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def python(forking: Forking, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `python` all of whose stages fork; those of the first run have parents of their own."""
    return forking.write_python(tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="module")
def finished(fresh: Path) -> Path:
    """The clone after `polm run` with its own warm parents, and beside it an untouched one for `dvc repro`."""
    shutil.copytree(fresh, fresh.with_name(fresh.name + "-second"), symlinks=True)
    done = polm(fresh, "run", "--recipe", "micro")
    assert done.returncode == 0, done.stdout + done.stderr
    return fresh


def test_the_whole_pipeline_runs(finished: Path) -> None:
    assert set(states(finished).values()) == {"done"}
    assert len(states(finished)) >= 11
    page = (finished / ".polm/report/index.html").read_text()
    assert "<h1" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://127.0.0.1", "")
    metrics = json.loads((finished / "artifacts/reports/metrics.json").read_text())
    assert set(metrics) == EVALUATED
    assert all("brief" in tasks for tasks in metrics.values()), "the recipe's own grader"


def test_the_chain_of_the_graph_is_that_of_the_manifests(finished: Path) -> None:
    board = json.loads((finished / "artifacts/reports/leaderboard.json").read_text())
    parents = {name: (entry["stage"], entry["parent"]) for name, entry in board["models"].items()}
    assert parents.keys() == EVALUATED | {"rft", "merged", "student"}
    assert parents["grpo"] == ("grpo", "sft")
    assert parents["rft"] == ("rejection", "grpo")
    assert parents["grpo_again"] == ("grpo", "rft")
    assert parents["merged"] == ("merge", "sft")
    assert parents["student"] == ("distill", "rft")
    claims = {row["model"]: row["parent"] for row in board["claims"]}
    assert claims == {"sft": "base", "grpo": "sft", "grpo_again": "grpo"}


def test_running_again_starts_nothing(finished: Path) -> None:
    before = sorted((finished / ".polm/logs").iterdir())
    done = polm(finished, "run")
    assert done.returncode == 0
    assert "nothing changed" in done.stdout
    assert sorted((finished / ".polm/logs").iterdir()) == before


def test_dvc_repro_in_another_clone_gives_the_same_hashes(finished: Path, forking: Forking, tmp_path: Path) -> None:
    second = finished.with_name(finished.name + "-second")
    (second / "params/recipe.yaml").unlink()
    (second / "params/recipe.yaml").symlink_to("micro/recipe.yaml")
    done = command(second, "dvc", "repro", path=forking.write_python(tmp_path, fresh=FRESH).parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert locked(second) == locked(finished)


def test_a_model_that_is_no_better_is_not_promoted(finished: Path) -> None:
    done = polm(finished, "promote", "dpo")
    assert done.returncode == 2
    assert "quality: required" in done.stderr
    assert "found" in done.stderr


def test_one_changed_value_runs_that_stage_and_what_follows(finished: Path, python: Path, prefect_url: str) -> None:
    change(finished / "params/micro/dpo.yaml", "trainer.beta", 0.2)
    assert ran(finished, python, prefect_url) == {
        "fingerprint", "dpo@dpo", "evaluate@dpo", "export_onnx@dpo", "evaluate_onnx@dpo-int8", "merge@merged",
        "report",
    }  # fmt: skip


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def ran(folder: Path, python: Path, prefect: str) -> set[str]:
    """Run the pipeline; returns the stages that were not up to date."""
    done = polm(folder, "run", python=python, prefect=prefect)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name for name, state in states(folder).items() if state != "cached"}


def test_a_better_sentence_in_code_of_all_trainers_and_another_entry_of_methods_train_nothing(
    finished: Path, python: Path, prefect_url: str
) -> None:
    edit(finished / "tasks/training/trainer.py", '"""', '"""Better said: ')
    change(finished / "params/micro/merge.yaml", "methods.slerp.grid.t", [0.4])
    assert ran(finished, python, prefect_url) == {"fingerprint"}


def test_a_generator_of_the_recipes_own_makes_the_data_anew(finished: Path, python: Path) -> None:
    edit(finished / "params/micro/generators.py", '{"own": True}', '{"own": True, "more": 1}')
    done = command(finished, "dvc", "repro", "data", path=python.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall("^Running stage '(.+)'", done.stdout, re.MULTILINE) == ["fingerprint", "data"]


def test_a_flipped_byte_in_an_artifact_is_noticed(finished: Path) -> None:
    weights = finished / "artifacts/models/sft/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    mode = weights.stat().st_mode
    weights.unlink()
    weights.write_bytes(bytes(content))
    weights.chmod(mode)
    words = ["params/micro/evaluate.yaml", "--model", "artifacts/models/sft", "--data", "artifacts/data"]
    done = command(finished, sys.executable, "-m", "tasks.evaluate", *words, "--out", "artifacts/metrics/sft")
    assert done.returncode == 2
    assert "artifacts/models/sft/model.safetensors: corrupted" in done.stderr
    assert "polm run" in done.stderr
