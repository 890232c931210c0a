"""Property: a benchmark named in a recipe is frozen, asked, claimed, gated and shown, by commands alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.stage import artifact
from tests.support import benchmarks, own_data, working_copy

Make = Callable[..., artifact.Manifest]
CLAIM = "gsm8k.exact_match[strict-match]"
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_benchmark_goes_the_whole_way(
    workspace: Path,
    chat_model: Path,
    make_artifact: Make,
    forking_python: Path,
    prefect_url: str,
    mlflow_template: Path,
) -> None:
    model = benchmarks.wide(chat_model, workspace / "wide", make_artifact)
    own_data.prepare(workspace, model)
    benchmarks.gsm8k(workspace)
    benchmarks.arc_easy(workspace)
    working_copy.make(workspace)
    (workspace / ".polm").mkdir()
    shutil.copyfile(mlflow_template, workspace / ".polm/mlflow.db")
    words = ["--data", "data/tickets.jsonl", "--methods", "sft", "--benchmarks", "gsm8k,arc_easy", "--yes"]
    done = working_copy.polm(workspace, "new", "asked", "--model", "models/llama", *words, python=forking_python)
    assert done.returncode == 0, done.stdout + done.stderr
    recipe = workspace / "params/asked/recipe.yaml"
    text = recipe.read_text(encoding="utf-8")
    assert "claim: replies.nats_per_byte" in text
    recipe.write_text(text.replace("claim: replies.nats_per_byte", f'claim: "{CLAIM}"'), encoding="utf-8")
    for command in (["check"], ["run", "--jobs", "1"]):
        done = working_copy.polm(workspace, *command, python=forking_python, prefect=prefect_url)
        assert done.returncode == 0, done.stdout + done.stderr
    reports = workspace / "artifacts/reports"
    assert artifact.read_json(reports / "leaderboard.json")["headline"] == {
        "task": "gsm8k", "metric": "exact_match[strict-match]",
    }  # fmt: skip
    page = (reports / "index.html").read_text(encoding="utf-8")
    for said in (
        "exact_match[strict-match]",
        "arc_easy",
        "Ann has 5 limes in one bag",
        "openai/gsm8k · a local folder",
    ):
        assert said in page
    for asked in ("base", "sft", "sft_fp32", "sft_int8"):
        rows = artifact.read_jsonl(workspace / f"artifacts/metrics/{asked}/samples/gsm8k.jsonl")
        assert [row["id"].split("-")[1] for row in rows] == list("012345")
    forms = (artifact.read_json(workspace / f"artifacts/metrics/{name}/results.json") for name in ("sft", "sft_fp32"))
    exact, form = (results["tasks"]["gsm8k"]["metrics"] for results in forms)
    assert exact == form, "PyTorch and ONNX Runtime in fp32"
    done = working_copy.polm(workspace, "promote", "sft", python=forking_python)
    assert done.returncode == 2 and "6 rows, too few for an interval" in done.stderr
    gates = " ".join(done.stdout.split())
    assert f"{CLAIM}: claim of 'sft' in params/asked/recipe.yaml" in gates
    assert f"{CLAIM} − parent base > +0" in gates and "arc_easy.acc − parent base > -0.05" in gates
    assert "0 of 25 in 37 rows" in gates, "13 replies, and 6 questions of each benchmark"
