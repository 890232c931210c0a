"""Property: a recipe of `sft` and `dpo` that states no claim, report or gates is reported and promoted end to end."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.graph import Graph
from flows.registry import policy, promotion
from flows.terminal import leaderboard, summary
from flows.tracking import client
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, GateError
from tests.support import unstated
from tests.support.promotable import Make

NAME = f"polm-{unstated.RECIPE}"


@pytest.fixture
def project(tracking: Path, make_artifact: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project in the working directory, with an empty registry."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tracking / ".polm/dvc"))
    monkeypatch.setenv("COLUMNS", "250")
    unstated.build(make_artifact)
    return tracking


def state(change: dict[str, dict[str, str]]) -> None:
    """Add keys to models of the graph."""
    graph = {**unstated.GRAPH}
    for name, keys in change.items():
        graph[name] = {name: {**graph[name][name], **keys}}
    (unstated.PARAMS / "recipe.yaml").write_text(json.dumps(graph))


@pytest.mark.slow
def test_it_is_reported_and_promoted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = artifact.read_json(artifact.REPORTS / "leaderboard.json")
    claimed = [(row["model"], row["task"], row["metric"], row["difference"]["verdict"]) for row in scores["claims"]]
    assert claimed == [("sft", "sums", "exact_match", "better"), ("dpo", "sums", "helpful", "better")]
    assert scores["headline"] == {"task": "sums", "metric": "helpful"} and scores["frontier"]["metric"] == "helpful"
    said = "claim by default: sft sums.exact_match, dpo sums.helpful"
    assert [line for line in scores["by_default"] if line.startswith(said)]
    page = (artifact.REPORTS / "index.html").read_text()
    assert "Claim by default: sft sums.exact_match" in page and "polm show --defaults" in page
    assert leaderboard.read() == scores and Graph().unchanged("report"), "which DVC knows without a report.yaml"
    capsys.readouterr()
    summary.show()
    assert said in capsys.readouterr().out.replace("\n", " ")

    promotion.promote("dpo")
    said = capsys.readouterr().out
    assert "gates by default: mlflow/gates.yaml has no section 'mine'" in said
    assert "sums.helpful: claim by default: what dpo is there for, as params/mine/recipe.yaml states no claim" in said
    assert f"{NAME} v1 is the champion: dpo, int8" in said
    version = client.client().get_model_version_by_alias(NAME, "champion")
    folder = Path(client.client().download_artifacts(version.run_id, "evidence"))
    assert artifact.read_json(folder / "gates.json")["policy"]["quality"]["metric"] == "sums.helpful"

    with pytest.raises(GateError, match=r"sft is not promoted.*\n(.*\n)*.*regression: required sums\.helpful"):
        promotion.promote("sft")  # on its own metric no better, and on the champion's worse
    assert client.client().get_model_version_by_alias(NAME, "champion").version == version.version


@pytest.mark.slow
def test_a_section_overrides_key_by_key_and_a_claim_that_is_stated_counts(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state({"dpo": {"claim": "sums.courteous"}})
    with policy.POLICY.open("a") as f:
        f.write("mine:\n  quality: {gain: 0.9}\n")
    with pytest.raises(GateError, match=r"quality: required sums\.courteous − parent sft > \+0\.9"):
        promotion.promote("dpo")
    said = capsys.readouterr().out
    assert "gates by default" not in said and "claim of 'dpo' in params/mine/recipe.yaml" in said
    state({"sft": {"claim": "sums.exact_match"}})
    with pytest.raises(GateError, match=r"quality: required sums\.exact_match"):
        promotion.promote("dpo")
    assert "headline by default, as params/mine/recipe.yaml has no claim of 'dpo'" in capsys.readouterr().out
    state({"dpo": {"claim": "sums.helpfull"}})
    with pytest.raises(ConfigError, match=r"'sums\.helpfull' was not evaluated of dpo; did you mean 'sums\.helpful'"):
        promotion.promote("dpo")


@pytest.mark.slow
def test_what_is_printed_can_be_copied(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And then holds as it did by default."""
    summary.show_defaults()
    said = capsys.readouterr().out
    graph, settings, gates = (YAML(typ="safe").load(part) for part in said.split("\n\n"))
    assert graph == {
        "sft": {"sft": {"from": "base", "claim": "sums.exact_match"}},
        "dpo": {"dpo": {"from": "sft", "claim": "sums.helpful"}},
    }
    assert settings["headline"] == settings["frontier"] == {"task": "sums", "metric": "helpful"}
    before = policy.load_policy("mine")
    with policy.POLICY.open("a") as f:
        f.write(said.split("\n\n")[2])
    assert policy.load_policy("mine") == before and gates["mine"]["quality"] == {"metric": None, "gain": 0.0}
    (unstated.PARAMS / "report.yaml").write_text(said.split("\n\n")[1])
    (unstated.PARAMS / "recipe.yaml").write_text(json.dumps({**unstated.GRAPH, **graph}))
    summary.show_defaults()
    again = capsys.readouterr().out
    assert "it states its claims, so none is by default" in again and "mine/report.yaml: as it is" in again
