"""The report: lineage, paired differences, and a page that is whole, safe and the same bytes each time."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import _artifact as artifact
from tasks import _leaderboard, _page
from tasks._config import load, read_yaml
from tasks._errors import ArtifactError, ConfigError, DataError
from tasks._progress import Progress
from tasks._stage import Run, write_measurements
from tasks.report import Config, main
from tests.conftest import REPO
from tests.tasks import report_tree

TINY = REPO / "params" / "tiny" / "report.yaml"
PARAMS = Path("params/tiny/report.yaml")
"""The tiny recipe's file, with claims of the models that the tree has."""
FOLDERS = _page.FOLDERS


@pytest.fixture
def tree(workspace: Path, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    settings = read_yaml(TINY) | {"claims": {"sft": "sums.exact_match", "dpo": "sums.helpful"}}
    PARAMS.parent.mkdir(parents=True)
    with PARAMS.open("w") as f:
        YAML(typ="safe").dump(settings, f)
    report_tree.build(Path(), make_artifact, rows=60)
    return Path("artifacts")


def report(tree: Path, params: Path = PARAMS, out: str = "reports") -> Path:
    """Run the stage's `main` in this process."""
    with artifact.writing(tree / out, stage="report", params="0" * 64, inputs={}) as temp:
        run = Run(temp, params, out, Path(".checkpoints"), {}, Progress(out), main_process=True)
        main(load(params, Config), run, **{name: tree / name for name in FOLDERS})
    return tree / out


class Page(HTMLParser):
    """What a browser would find: open tags left over, tags used, addresses asked for, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag not in ("meta", "br", "img", "line", "path", "rect", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        if tag not in ("line", "path", "rect", "circle") or self.open[-1] == tag:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_parents_come_from_the_manifests(tree: Path) -> None:
    board = artifact.read_json(report(tree) / "leaderboard.json")
    assert {name: entry["parent"] for name, entry in board["models"].items()} == {
        "base": None,
        "sft": "base",
        "dpo": "sft",
        "reward": "sft",
    }
    assert _page.order(board) == ["base", "sft", "dpo", "reward"], "parents first"
    assert board["models"]["sft"]["parameters"] == 1200
    assert board["models"]["reward"]["tasks"] == {}


def test_verdicts_are_of_the_paired_difference(tree: Path) -> None:
    models = artifact.read_json(report(tree) / "leaderboard.json")["models"]
    helpful = {name: models[name]["tasks"]["sums"]["metrics"]["helpful"] for name in ("base", "sft", "dpo")}
    assert "difference" not in helpful["base"]
    assert helpful["dpo"]["difference"]["verdict"] == "better"
    assert helpful["dpo"]["difference"]["value"] == pytest.approx(helpful["dpo"]["value"] - helpful["sft"]["value"])
    loss = models["sft"]["tasks"]["reference"]["metrics"]["nats_per_byte"]["difference"]
    assert loss["value"] < 0, "a lower loss …"
    assert loss["verdict"] == "better", "… is better"
    assert models["dpo"]["tasks"]["reference"]["metrics"]["nats_per_byte"]["difference"]["verdict"] == "no difference"


def test_metrics_and_plots_for_dvc(tree: Path) -> None:
    out = report(tree)
    metrics = artifact.read_json(out / "metrics.json")
    assert set(metrics) == {"base", "sft", "dpo"}
    assert isinstance(metrics["dpo"]["sums"]["helpful"], float)
    assert {row["step"] for row in artifact.read_json(out / "plots" / "loss" / "sft.json")} == set(range(5, 125, 5))
    assert set(artifact.read_json(out / "plots" / "preference" / "dpo.json")[0]) == {"step", "accuracy", "margin"}
    assert not (out / "plots" / "preference" / "sft.json").exists()
    for path in (out / "plots").rglob("*.json"):
        assert len({frozenset(row) for row in artifact.read_json(path)}) == 1, "DVC drops rows with other keys"
    assert len(artifact.read_json(out / "plots" / "leaderboard.json")) == 3 * 4


def test_other_questions_are_an_error(tree: Path, make_artifact: Callable[..., artifact.Manifest]) -> None:
    path = tree / "metrics" / "sft" / "samples" / "sums.jsonl"
    rows = artifact.read_jsonl(path)
    artifact.write_jsonl(path, [{**rows[0], "id": "other"}, *rows[1:]])
    with pytest.raises(DataError, match=r"2 ids are on one side only"):
        report(tree)


def test_an_evaluation_of_another_model_is_an_error(
    tree: Path, make_artifact: Callable[..., artifact.Manifest]
) -> None:
    make_artifact(tree / "metrics" / "sft", stage="evaluate", model="f" * 64, data="e" * 64)
    with pytest.raises(ArtifactError, match="an evaluation of another version of sft; run `polm run`"):
        report(tree)


def test_unknown_headline_is_an_error(tree: Path, tmp_path: Path) -> None:
    params = tmp_path / "report.yaml"
    params.write_text(PARAMS.read_text().replace("metric: helpful", "metric: helpfull"))
    with pytest.raises(ConfigError, match=r"headline is 'sums\.helpfull'.*did you mean 'sums\.helpful'"):
        report(tree, params)


def test_two_runs_write_the_same_bytes(tree: Path) -> None:
    first, second = report(tree), report(tree, out="again")
    assert artifact.verify(first).files == artifact.verify(second).files


def test_page_read_back_from_disk_is_the_same(tree: Path) -> None:
    """JSON objects have no order: rendering from the file must not reshuffle models or colours."""
    out = report(tree)
    found = _page.folders(*(tree / name for name in FOLDERS))
    assert _page.render(found, artifact.read_json(out / "leaderboard.json")) == (out / "index.html").read_text()


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
    shutil.rmtree(tree / "onnx")
    shutil.rmtree(tree / "models" / "reward")
    less = Page((report(tree) / "index.html").read_text())
    assert "Export" not in less.text
    assert "Reward model" not in less.text
    assert "Supervision" in less.text
    assert less.open == []


def test_a_broken_artifact_is_no_missing_section(tree: Path) -> None:
    path = tree / "onnx" / "dpo" / "parity.json"
    parity = artifact.read_json(path)
    del parity["forms"]["int8"]["kl_per_token"]
    artifact.write_json(path, parity)
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
    command = [sys.executable, "-m", "tasks._local_report", str(PARAMS), str(out.parent), *outs]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(REPO), "PATH": ""})
    assert done.returncode == 0, done.stderr
    page = Page(out.read_text())
    for expected in ("1 min 23 s", "712 MB", "5.2 s", "2.5 ×", "01234567", "fedcba98"):
        assert expected in page.text, expected
    assert not page.tags & {"script", "img", "link"}


def test_forms_are_compared_with_pytorch_and_the_front_is_marked(tree: Path) -> None:
    out = report(tree)
    board = artifact.read_json(out / "leaderboard.json")
    (form,) = board["forms"]
    assert (form["model"], form["form"]) == ("dpo", "int4")
    difference = form["tasks"]["sums"]["metrics"]["exact_match"]["difference"]
    before = board["models"]["dpo"]["tasks"]["sums"]["metrics"]["exact_match"]["value"]
    after = form["tasks"]["sums"]["metrics"]["exact_match"]["value"]
    assert difference["value"] == pytest.approx(after - before) and difference["verdict"] == "worse"
    assert "dpo_int4" not in board["models"]
    rows = board["frontier"]["rows"]
    assert [row["bytes"] for row in rows] == sorted(row["bytes"] for row in rows)
    for row in rows:
        beats = [r for r in rows if r["bytes"] <= row["bytes"] and r["score"] >= row["score"]]
        assert row["front"] == all((r["bytes"], r["score"]) == (row["bytes"], row["score"]) for r in beats)
    assert artifact.read_json(out / "plots" / "frontier.json") == rows
    page = Page((out / "index.html").read_text())
    assert "dpo int4" in page.text and "Frontier" in page.text


def test_a_part_of_the_dag_has_a_page_and_a_leaderboard_of_its_own(tree: Path) -> None:
    """What lies there from another run stays out: it may be of other data."""
    from tasks import _local_report

    parts = ("data", "models/base", "models/sft", "metrics/base", "metrics/sft")
    _local_report.main(PARAMS, Path("local"), [tree / part for part in parts])
    board = artifact.read_json(Path("local/leaderboard.json"))
    assert set(board["models"]) == {"base", "sft"}
    assert [row["model"] for row in board["claims"]] == ["sft"], (
        "dpo, which the recipe claims something of, is not here"
    )
    assert "dpo" not in Page(Path("local/index.html").read_text()).text


def test_samples_show_every_pattern_before_repeating_one(tree: Path) -> None:
    board = artifact.read_json(report(tree) / "leaderboard.json")
    found = _page.folders(*(tree / name for name in FOLDERS))
    models = ["base", "sft", "dpo"]
    every = _page.samples(found, {**board, "page": {"samples": 10_000, "listed": 1}}, models)["sums"]
    patterns = [tuple(row["by"][m]["scores"]["helpful"] for m in models) for row in every]
    assert len(every) == 60
    assert len(set(patterns[: len(set(patterns))])) == len(set(patterns))


def test_the_judge_labels_are_in_the_lineage(tree: Path) -> None:
    nodes = {node["name"]: node for node in artifact.read_json(report(tree) / "leaderboard.json")["lineage"]}
    assert nodes["labels"]["inputs"] == {"data": "data", "model": "models/sft"}


def test_lineage_keeps_inputs_that_are_not_at_hand(
    workspace: Path, make_artifact: Callable[..., artifact.Manifest]
) -> None:
    for name in ("b", "a"):
        Path(name).mkdir()
    a = make_artifact(Path("a"), stage="one", model="f" * 64)
    make_artifact(Path("b"), stage="two", model=a.digest)
    nodes = _leaderboard.lineage({"b": Path("b"), "a": Path("a")})
    assert list(nodes) == ["a", "b"]
    assert nodes["b"].inputs == {"model": "a"}
    assert nodes["a"].inputs == {"model": "f" * 64}


def test_parameters_are_read_from_safetensors(chat_model: Path) -> None:
    from tasks._models import load_causal_lm

    facts = _leaderboard.weights(chat_model)
    assert facts["parameters"] == load_causal_lm(chat_model).num_parameters()
    assert facts["bytes"] == (chat_model / "model.safetensors").stat().st_size


def test_every_recipe_names_scores_that_its_evaluation_gives() -> None:
    from tasks import evaluate
    from tasks._config import read_yaml

    recipes = sorted((REPO / "params").glob("*/report.yaml"))
    assert len(recipes) >= 3
    for path in recipes:
        config = load(path, Config)
        choices = load(path.parent / "evaluate.yaml", evaluate.Config).tasks
        tasks = {t["task"]: t for t in (read_yaml(path.parent / choice.file) for choice in choices)}
        wanted = {f"{score.task}.{score.metric}" for score in (config.headline, config.frontier)}
        given = {f"{name}.{m['metric']}" for name, task in tasks.items() for m in task["metric_list"]}
        assert wanted | set(config.claims.values()) <= given, path


def test_a_claim_is_a_method_on_its_own_metric(tree: Path) -> None:
    out = report(tree)
    claims = artifact.read_json(out / "leaderboard.json")["claims"]
    assert [(row["model"], row["parent"], row["metric"]) for row in claims] == [
        ("sft", "base", "exact_match"),
        ("dpo", "sft", "helpful"),
    ]
    assert claims[1]["after"]["value"] - claims[1]["before"]["value"] == pytest.approx(claims[1]["difference"]["value"])
    assert "Each method on the metric it is there for" in Page((out / "index.html").read_text()).text


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"dop": "sums.helpful"}, r"claims names the model 'dop'; did you mean 'dpo'\?"),
        ({"dpo": "sums.helpfull"}, r"claims.dpo is 'sums.helpfull', which it was not scored on; did you mean"),
        ({"reward": "sums.helpful"}, r"claims.reward is 'sums.helpful', which it was not scored on"),
    ],
)
def test_a_claim_about_nothing_is_an_error(tree: Path, claims: dict[str, str], said: str) -> None:
    with PARAMS.open("w") as f:
        YAML(typ="safe").dump(read_yaml(TINY) | {"claims": claims}, f)
    with pytest.raises(ConfigError, match=said):
        report(tree)


def test_a_claim_can_be_over_another_model(tree: Path) -> None:
    with PARAMS.open("w") as f:
        YAML(typ="safe").dump(read_yaml(TINY) | {"claims": {"dpo": "sums.helpful"}, "over": {"dpo": "base"}}, f)
    (row,) = artifact.read_json(report(tree) / "leaderboard.json")["claims"]
    board = artifact.read_json(tree / "reports" / "leaderboard.json")["models"]
    means = [board[model]["tasks"]["sums"]["metrics"]["helpful"]["value"] for model in ("base", "dpo")]
    assert (row["parent"], row["before"]["value"], row["after"]["value"]) == ("base", *means)
    assert row["difference"]["value"] == pytest.approx(means[1] - means[0])
    assert row["difference"] != board["dpo"]["tasks"]["sums"]["metrics"]["helpful"]["difference"], "that is over sft"
    with PARAMS.open("w") as f:
        YAML(typ="safe").dump(read_yaml(TINY) | {"claims": {"dpo": "sums.helpful"}, "over": {"dpo": "reward"}}, f)
    with pytest.raises(ConfigError, match=r"over.dpo is 'reward', which was not evaluated"):
        report(tree, out="reports2")


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
    before = artifact.read_manifest(folder)
    make_artifact(folder, stage="ppo", **before.inputs)
    new = artifact.read_manifest(folder).digest
    for kind in ("metrics", "onnx"):
        make_artifact(
            tree / kind / "dpo", stage=kind, **{**artifact.read_manifest(tree / kind / "dpo").inputs, "model": new}
        )
    page = Page((report(tree) / "index.html").read_text())
    assert "reward hacked: right fell while the reward rose" in page.text
    assert "gold: right" in page.text
    assert "25 %" in page.text
