"""Property: the report claims what was measured: lineage, paired differences, each method on its own metric."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.report import Config
from tasks.reporting import leaderboard
from tasks.reporting import page as html_page
from tasks.stage import artifact, recipe
from tasks.stage.config import load
from tasks.stage.errors import ArtifactError, ConfigError, DataError
from tests.conftest import REPO
from tests.support.reporting import PARAMS, Page, report, write_graph


def test_parents_come_from_the_manifests(tree: Path) -> None:
    board = artifact.read_json(report(tree) / "leaderboard.json")
    assert {name: entry["parent"] for name, entry in board["models"].items()} == {
        "base": None,
        "sft": "base",
        "dpo": "sft",
        "reward": "sft",
    }
    assert html_page.order(board) == ["base", "sft", "dpo", "reward"], "parents first"
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
    make_artifact(tree / "metrics/sft", stage="evaluate", **artifact.read_manifest(tree / "metrics/sft").inputs)
    with pytest.raises(DataError, match=r"2 ids are on one side only"):
        report(tree)


def test_an_evaluation_of_another_model_is_an_error(
    tree: Path, make_artifact: Callable[..., artifact.Manifest]
) -> None:
    inputs = artifact.read_manifest(tree / "metrics" / "sft").inputs
    base = artifact.read_manifest(tree / "models" / "base").digest
    make_artifact(tree / "metrics" / "sft", stage="evaluate", **inputs | {"model": base})
    with pytest.raises(ArtifactError, match="an evaluation of another version of sft; run `polm run`"):
        report(tree)


@pytest.mark.parametrize(
    ("made", "key", "of"), [("metrics/dpo_int4", "model", "onnx/dpo"), ("models/reward", "labels", "labels/label")]
)
def test_an_artifact_from_which_one_was_made_has_to_be_there(
    tree: Path, make_artifact: Callable[..., artifact.Manifest], made: str, key: str, of: str
) -> None:
    """The report may leave nothing out because it was not fetched: its bytes would depend on that."""
    labelled(tree, make_artifact)
    report(tree)
    (tree / of).rename(tree / "elsewhere")
    with pytest.raises(ArtifactError, match=f"artifacts/{made}: the {key} that it was made from is not here"):
        report(tree)


def labelled(tree: Path, make_artifact: Callable[..., artifact.Manifest]) -> None:
    """Say that the judge's labels trained `reward`."""
    folder = tree / "models" / "reward"
    before = artifact.read_manifest(folder)
    digest = artifact.read_manifest(tree / "labels" / "label").digest
    make_artifact(folder, stage=before.stage, **before.inputs, labels=digest)


def test_unknown_headline_is_an_error(tree: Path, tmp_path: Path) -> None:
    params = tmp_path / "report.yaml"
    shutil.copy(PARAMS.parent / recipe.FILE, tmp_path)
    params.write_text(PARAMS.read_text().replace("metric: helpful", "metric: helpfull"))
    with pytest.raises(ConfigError, match=r"headline is 'sums\.helpfull'.*did you mean 'sums\.helpful'"):
        report(tree, params)


def test_a_run_that_asked_the_headlines_task_nowhere_is_reported(tree: Path, tmp_path: Path) -> None:
    params = tmp_path / "report.yaml"
    shutil.copy(PARAMS.parent / recipe.FILE, tmp_path)
    text = PARAMS.read_text().replace("{task: sums, metric: helpful}", "{task: digits, metric: exact_match}")
    assert "task: digits" in text
    params.write_text(text)
    assert artifact.read_json(report(tree, params) / "leaderboard.json")["models"]["dpo"]["tasks"]["sums"]


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


def test_the_judge_labels_are_in_the_lineage(tree: Path, make_artifact: Callable[..., artifact.Manifest]) -> None:
    labelled(tree, make_artifact)
    nodes = {node["name"]: node for node in artifact.read_json(report(tree) / "leaderboard.json")["lineage"]}
    assert nodes["labels/label"]["inputs"] == {"data": "data", "model": "models/sft"}


def test_lineage_keeps_inputs_that_are_not_at_hand(
    workspace: Path, make_artifact: Callable[..., artifact.Manifest]
) -> None:
    for name in ("b", "a"):
        Path(name).mkdir()
    a = make_artifact(Path("a"), stage="one", model="f" * 64)
    make_artifact(Path("b"), stage="two", model=a.digest)
    nodes = leaderboard.lineage({"b": Path("b"), "a": Path("a")})
    assert list(nodes) == ["a", "b"]
    assert nodes["b"].inputs == {"model": "a"}
    assert nodes["a"].inputs == {"model": "f" * 64}


def test_parameters_are_read_from_safetensors(chat_model: Path) -> None:
    from tasks.models.folder import load_causal_lm

    facts = leaderboard.weights(chat_model)
    assert facts["parameters"] == load_causal_lm(chat_model).num_parameters()
    assert facts["bytes"] == (chat_model / "model.safetensors").stat().st_size


def test_every_recipe_names_scores_that_its_evaluation_gives() -> None:
    from tasks import evaluate, evaluate_rag
    from tasks.stage.config import read_yaml

    recipes = sorted((REPO / "params").glob("*/report.yaml"))
    assert len(recipes) >= 3
    for path in recipes:
        config = load(path, Config)
        graph = recipe.read(path.with_name(recipe.FILE))
        files = ["evaluate.yaml", *(f"evaluate_{data}.yaml" for data in set(graph.evaluate_media.values()))]
        choices = [choice for file in files for choice in load(path.parent / file, evaluate.Config).own]
        for data in {asked["data"] for asked in graph.evaluate_rag.values()}:
            choices += load(path.parent / f"evaluate_{data}.yaml", evaluate_rag.Config).own
        tasks = {t["task"]: t for t in (read_yaml(path.parent / choice.file) for choice in choices)}
        assert config.headline is not None and config.frontier is not None, path
        wanted = {f"{score.task}.{score.metric}" for score in (config.headline, config.frontier)}
        given = {f"{name}.{m['metric']}" for name, task in tasks.items() for m in task["metric_list"]}
        assert wanted | set(graph.claims.values()) <= given, path


def test_a_claim_is_a_method_on_its_own_metric(tree: Path) -> None:
    out = report(tree)
    claims = artifact.read_json(out / "leaderboard.json")["claims"]
    assert [(row["model"], row["parent"], row["metric"]) for row in claims] == [
        ("sft", "base", "exact_match"),
        ("dpo", "sft", "helpful"),
    ]
    assert claims[1]["after"]["value"] - claims[1]["before"]["value"] == pytest.approx(claims[1]["difference"]["value"])
    assert "Each method on the metric it is there for" in Page((out / "index.html").read_text()).text


def test_a_claim_of_a_metric_that_was_not_scored_is_an_error(tree: Path) -> None:
    write_graph({"dpo": "sums.helpfull"})
    with pytest.raises(
        ConfigError, match=r"claim of 'dpo' is 'sums\.helpfull', which it was not scored on; did you mean"
    ):
        report(tree)


def test_a_model_of_another_recipe_is_left_out(tree: Path) -> None:
    shutil.copytree(tree / "models" / "dpo", tree / "models" / "stray")
    assert "stray" not in artifact.read_json(report(tree) / "leaderboard.json")["models"]


@pytest.mark.parametrize("folder", ["models/reward", "metrics/dpo", "metrics/dpo_int4"])
def test_a_model_or_an_evaluation_that_is_missing_is_an_error(tree: Path, folder: str) -> None:
    shutil.rmtree(tree / folder)
    with pytest.raises(ArtifactError, match=f"{folder}: no manifest.json; this artifact was not made yet"):
        report(tree)


def test_a_claim_can_be_over_another_model(tree: Path) -> None:
    write_graph({"dpo": "sums.helpful"}, {"dpo": "base"})
    (row,) = artifact.read_json(report(tree) / "leaderboard.json")["claims"]
    board = artifact.read_json(tree / "reports" / "leaderboard.json")["models"]
    means = [board[model]["tasks"]["sums"]["metrics"]["helpful"]["value"] for model in ("base", "dpo")]
    assert (row["parent"], row["before"]["value"], row["after"]["value"]) == ("base", *means)
    assert row["difference"]["value"] == pytest.approx(means[1] - means[0])
    assert row["difference"] != board["dpo"]["tasks"]["sums"]["metrics"]["helpful"]["difference"], "that is over sft"
