"""The report's page: whole, safe, the same bytes each time, with every section that there is something for."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.reporting import frontier
from tasks.reporting import page as html_page
from tasks.stage import artifact, recipe
from tasks.stage.lifecycle import write_measurements
from tests.conftest import REPO
from tests.support.relinking import remake
from tests.support.reporting import PARAMS, Page, graph, report


def test_page_read_back_from_disk_is_the_same(tree: Path) -> None:
    """JSON objects have no order: rendering from the file must not reshuffle models or colours."""
    out = report(tree)
    found = html_page.folders(tree, graph())
    assert html_page.render(found, artifact.read_json(out / "leaderboard.json")) == (out / "index.html").read_text()


def test_page_asks_for_nothing_and_runs_nothing(tree: Path) -> None:
    html = (report(tree) / "index.html").read_text()
    page = Page(html)
    assert page.open == [], "every tag is closed"
    assert not page.tags & {"script", "img", "iframe", "link", "object", "embed", "base", "form"}
    assert not [key for key, _ in page.attributes if key.startswith("on") or key == "src"]
    assert all(value.startswith("#") for key, value in page.attributes if key == "href")
    assert not re.search(r"https?:|url\(|@import", html)
    assert "default-src 'none'" in dict(page.attributes)["content"] or "default-src 'none'" in html


def test_what_a_model_writes_is_shown_and_not_obeyed(tree: Path) -> None:
    html = (report(tree) / "index.html").read_text()
    assert "&lt;script&gt;alert(" in html
    page = Page(html)
    assert '<script>alert("x")</script>' in page.text, "shown as it was written"
    assert "no answer <b>" in page.text, "also the reason of a rejected row"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", html), "control and direction characters are replaced"


def test_sections_without_artifacts_are_left_out(tree: Path) -> None:
    whole = Page((report(tree) / "index.html").read_text())
    for title in ("Answers, side by side", "Training", "Supervision", "Reward model", "Data", "Export", "Lineage"):
        assert title in whole.text
    file = PARAMS.parent / recipe.FILE
    artifact.write_json(file, artifact.read_json(file) | {"reward": {}, "export": [], "forms": []})
    less = Page((report(tree) / "index.html").read_text())
    assert "Export" not in less.text
    assert "Reward model" not in less.text
    assert "Supervision" in less.text
    assert less.open == []


def test_a_broken_artifact_is_no_missing_section(tree: Path, make_artifact: Callable[..., artifact.Manifest]) -> None:
    path = tree / "onnx" / "dpo" / "parity.json"
    parity = artifact.read_json(path)
    del parity["forms"]["int8"]["kl_per_token"]
    artifact.write_json(path, parity)
    remake(tree, path.parent, make_artifact)
    with pytest.raises(Exception, match="kl_per_token"):
        report(tree)


def test_page_with_measurements_and_runs(tree: Path) -> None:
    plain = (report(tree) / "index.html").read_text()
    assert "made in" not in plain
    assert "tokens/s" not in plain
    for path in tree.rglob(artifact.MANIFEST):
        measured: dict[str, Any] = {"seconds": 83.0, "import_seconds": 5.25, "peak_memory_bytes": 712_000_000}
        if path.parent.parent.name == "onnx":
            measured["tokens_per_second"] = {"pytorch": 400.0, "fp32": 500.0, "int8": 1000.0, "int4": 1200.0}
        write_measurements(path.parent, measured)
    run = {"version": "abc", "run_id": "0123456789", "url": "http://127.0.0.1:5000/#/x"}
    artifact.write_json(
        Path(".polm/mlflow_runs.json"),
        {
            "dpo": {**run, "artifact": "artifacts/models/dpo"},
            "evaluate@dpo": {**run, "run_id": "fedcba98765", "artifact": "artifacts/metrics/dpo"},
        },
    )
    out = Path(".polm/report/index.html")
    outs = [str(path.parent) for path in Path("artifacts").rglob(artifact.MANIFEST)]
    command = [sys.executable, "-m", "tasks.reporting.local", str(PARAMS), str(out.parent), *outs]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(REPO), "PATH": ""})
    assert done.returncode == 0, done.stderr
    page = Page(out.read_text())
    for expected in ("1 min 23 s", "712 MB", "5.2 s", "2.5 ×", "01234567", "fedcba98"):
        assert expected in page.text, expected
    assert not page.tags & {"script", "img", "link"}
    assert "against speed" in page.text
    rows = artifact.read_json(out.parent / "frontier_speed.json")
    assert [(row["name"], row["tokens_per_second"]) for row in rows] == [("dpo int4", 1200.0), ("dpo", 400.0)]
    assert rows[0]["front"] and rows[1]["front"] == (rows[1]["score"] > rows[0]["score"])


def test_the_faster_and_better_are_on_the_front() -> None:
    rows = [
        {"name": n, "model": "m", "form": n, "bytes": 1, "score": s} for n, s in (("a", 1.0), ("b", 2.0), ("c", 3.0))
    ]
    speeds = {"onnx/m": {"tokens_per_second": {"a": 30.0, "b": 10.0, "c": 20.0}}}
    for higher, expected in ((True, ["a", "c"]), (False, ["a"])):
        found = frontier.by_speed({"rows": rows, "higher_is_better": higher}, speeds)
        assert [row["name"] for row in found] == ["a", "c", "b"]
        assert [row["name"] for row in found if row["front"]] == expected
    assert not frontier.by_speed({"rows": rows, "higher_is_better": True}, {})


def test_samples_show_every_pattern_before_repeating_one(tree: Path) -> None:
    board = artifact.read_json(report(tree) / "leaderboard.json")
    found = html_page.folders(tree, graph())
    models = ["base", "sft", "dpo"]
    every = html_page.samples(found, {**board, "page": {"samples": 10_000, "listed": 1}}, models)["sums"]
    patterns = [tuple(row["by"][m]["scores"]["helpful"] for m in models) for row in every]
    assert len(every) == 60
    assert len(set(patterns[: len(set(patterns))])) == len(set(patterns))


def test_the_benchmarks_that_were_frozen_are_named_with_their_origin(tree: Path) -> None:
    leaderboard = artifact.read_json(report(tree) / "leaderboard.json")
    path = tree / "data/report.json"
    files: dict[str, dict[str, str | None]] = {"a" * 40: {"hf://a": None}, "": {"a.parquet": "0" * 64}}
    sources = {
        config: {
            "dataset": "cais/<b>mmlu",
            "config": config,
            "revision": revision or None,
            "licence": None,
            "files": of,
        }
        for config, (revision, of) in enumerate([*files.items(), *files.items()])
    }
    tasks = {str(n): {"documents": 20, "of": 100 + n, "num_fewshot": 5} for n in range(4)}
    said = {"mmlu": {"lm_eval": "0.4.13", "sources": sources, "tasks": tasks}}
    artifact.write_json(path, artifact.read_json(path) | {"benchmarks": said})
    page = Page(html_page.render(html_page.folders(tree, graph()), leaderboard))
    assert page.open == []
    origins = f"cais/<b>mmlu · {'a' * 40}, cais/<b>mmlu · a local folder"
    row = f"mmlu lm_eval 0.4.13 {origins} unknown 80 406 5"
    assert "".join(row.split()) in "".join(page.text.split())


def test_a_hacked_reward_is_flagged_on_the_page(tree: Path, make_artifact: Callable[..., artifact.Manifest]) -> None:
    folder = tree / "models" / "dpo"
    rises, falls = {"start": 0.1, "end": 0.9, "t": 8.0}, {"start": 0.6, "end": 0.2, "t": -6.0}
    curve = [{"step": i, "reward": 0.1 * i, "rewards/right/mean": 0.6 - 0.05 * i} for i in range(8)]
    artifact.write_jsonl(folder / "curves.jsonl", curve)
    artifact.write_json(
        folder / "reward.json",
        {
            "gold": "right",
            "graders": {"right": {"weight": 0.0, "raised": 0.25, "trend": falls}},
            "trend": rises,
            "hacked": True,
            "kl": 0.3,
        },
    )
    remake(tree, folder, make_artifact, stage="ppo")
    page = Page((report(tree) / "index.html").read_text())
    assert "reward hacked: right fell while the reward rose" in page.text
    assert "gold: right" in page.text
    assert "25 %" in page.text
