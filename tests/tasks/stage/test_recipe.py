"""A recipe's graph: what is read, what is wrong with it and how that is said, which files it needs."""

from pathlib import Path
from typing import Any

import pytest

from tasks.stage import blocks, dag, drawing, recipe
from tasks.stage.errors import ConfigError
from tests.support.graphs import BLOCKS, graph

SEEING: dict[str, Any] = {
    "media": {"photos": {}, "drawings": {}},
    "align": {"sight": {"from": "sft", "data": "photos"}},
    "vlm": {"vlm": {"from": "sight", "data": "photos", "claim": "digits.exact_match"}},
    "vlm_dpo": {"vlm_dpo": {"from": "vlm", "data": "photos"}},
    "evaluate_media": {"sight": "photos", "vlm": "photos"},
}
"""Keys of a graph with models that see."""
EXPORTED: dict[str, Any] = {
    "export_media": {"vlm": "photos"},
    "evaluate_onnx_media": {"vlm_int8": {"model": "vlm", "form": "int8", "data": "drawings"}},
}
"""Keys of a graph that exports one of them."""


def test_a_method_stands_in_a_graph_many_times_and_in_any_order(tmp_path: Path) -> None:
    read = graph(tmp_path)
    assert dag.problems(read, BLOCKS) == []
    assert [(depth, name) for depth, name, _ in drawing.tree(read)] == [
        (0, "base"), (1, "sft"), (2, "scorer"), (2, "grpo"), (3, "rft"), (4, "grpo_again"), (5, "ppo"), (4, "half"),
    ]  # fmt: skip


def test_the_files_of_a_graph(tmp_path: Path) -> None:
    read = graph(tmp_path)
    read.path.with_name("report.yaml").write_text("seed: 0\n")
    assert dag.files(read, BLOCKS) == {
        "data.yaml": "data",
        "base.yaml": "base",
        "sft.yaml": "sft",
        "scorer.yaml": "reward",
        "grpo.yaml": "grpo",
        "grpo_again.yaml": "grpo",
        "rft.yaml": "rejection",
        "ppo.yaml": "ppo",
        "small.yaml": "prune",
        "evaluate.yaml": "evaluate",
        "export_onnx.yaml": "export_onnx",
        "report.yaml": "report",
    }


def test_a_graph_needs_no_file_for_its_report(tmp_path: Path) -> None:
    assert "report.yaml" not in dag.files(graph(tmp_path), BLOCKS)


def test_a_graph_without_exports_needs_no_file_for_them(tmp_path: Path) -> None:
    assert "export_onnx.yaml" not in dag.files(graph(tmp_path, {"export": []}), BLOCKS)


def test_claims_and_what_they_are_compared_with(tmp_path: Path) -> None:
    read = graph(tmp_path)
    assert read.claims == {"sft": "sums.exact_match", "grpo_again": "sums.exact_match"}
    assert read.over == {"grpo_again": "grpo"}
    assert read.scored == ["base", "sft", "grpo", "grpo_again", "grpo_again_int8"]


def test_mermaid_draws_every_input(tmp_path: Path) -> None:
    drawn = drawing.mermaid(graph(tmp_path))
    assert "  base --> sft\n" in drawn
    assert "  scorer -. reward .-> ppo" in drawn


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sfft": {"cot": {"from": "sft"}}}, "unknown method 'sfft'; did you mean 'sft'?"),
        ({"sft": {"sft": {"from": "base", "clam": "x.y"}}}, "sft.sft: unknown key 'clam'; did you mean 'claim'?"),
        ({"rejection": {"rft": {"from": "gpro"}}}, "rejection.rft.from is 'gpro'; did you mean 'grpo'?"),
        ({"rejection": {"rft": {}}}, "rejection.rft: missing key 'from'"),
        ({"ppo": {"ppo": {"from": "sft"}}}, "ppo.ppo: missing key 'reward'"),
        ({"ppo": {"ppo": {"from": "sft", "reward": "sft"}}}, "ppo.ppo.reward is 'sft'"),
        ({"ppo": {"ppo": {"from": "scorer", "reward": "scorer"}}}, "ppo.ppo.from is 'scorer'"),
        ({"rejection": {"rft": {"from": "grpo_again"}}}, "grpo_again, rft: each is made from itself"),
        ({"evaluate": ["base", "stf"]}, "evaluate: 'stf' is no model that answers in this graph; did you mean 'sft'?"),
        ({"evaluate": ["scorer"]}, "evaluate: 'scorer' is no model that answers"),
        ({"evaluate": []}, "'evaluate' and 'evaluate_media' name no model"),
        ({"evaluate": ["base", "sft", "grpo_again"]}, "claim of 'grpo_again' needs the scores of 'grpo'"),
        ({"recipe": "yours"}, "recipe is 'yours', and the file is in 'mine'"),
        ({"sft": {"sft": {"from": "base", "over": "base"}}}, "'over' says with what a claim is compared"),
        ({"prune": {"half": {"from": "rft", "method": "wanda"}}}, "prune.half: missing key 'settings'"),
        ({"kto": {"data": {"from": "sft"}}}, "data.yaml is read by data and by kto.data"),
        ({"kto": {"recipe": {"from": "sft"}}}, "recipe.yaml is read by the graph itself and by kto.recipe"),
        ({"sft": {"sft": {"from": "base", "claim": "a.b", "over": "sft"}}}, "sft.sft.over is 'sft'"),
        ({"sft": {"sft": {"from": "base", "claim": "a.b", "over": "bse"}}}, "over is 'bse'; did you mean 'base'?"),
    ],
)
def test_a_graph_that_does_not_fit_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    problems = dag.problems(graph(tmp_path, changes), BLOCKS)
    assert any(message in problem for problem in problems), problems
    assert all(str(tmp_path / "mine/recipe.yaml") in problem for problem in problems)


def test_a_graph_of_models_that_see(tmp_path: Path) -> None:
    read = graph(tmp_path, SEEING)
    assert dag.problems(read, BLOCKS) == []
    assert read.kinds["photos"] == "media" and read.kinds["sight"] == "models"
    assert read.scored == ["base", "sft", "grpo", "grpo_again", "sight", "vlm", "grpo_again_int8"]
    named = [(depth, name) for depth, name, _ in drawing.tree(read)]
    assert [pair for pair in named if pair[1] in {"sight", "vlm", "vlm_dpo"}] == [
        (2, "sight"),
        (3, "vlm"),
        (4, "vlm_dpo"),
    ]
    assert not {"photos", "drawings"} & {name for _, name in named}, "a data set is made from no model"
    more = {
        "photos.yaml": "data", "drawings.yaml": "data", "sight.yaml": "align", "vlm.yaml": "vlm", "vlm_dpo.yaml": "dpo",
        "evaluate_photos.yaml": "evaluate",
    }  # fmt: skip
    assert dag.files(read, BLOCKS) == dag.files(graph(tmp_path), BLOCKS) | more
    exported = graph(tmp_path, SEEING | EXPORTED)
    assert dag.problems(exported, BLOCKS) == []
    assert exported.exported == ["grpo_again", "vlm"]
    assert exported.scored == [*read.scored, "vlm_int8"]
    more |= {"export_photos.yaml": "export_onnx", "evaluate_drawings.yaml": "evaluate"}
    assert dag.files(exported, BLOCKS) == dag.files(graph(tmp_path), BLOCKS) | more
    drawn = drawing.mermaid(read)
    assert "  photos -. data .-> vlm\n" in drawn and "  sight --> vlm\n" in drawn


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"evaluate_media": {"vml": "photos"}},
            "evaluate_media: 'vml' is no model that answers in this graph; did you",
        ),
        ({"evaluate_media": {"vlm": "photo"}}, "evaluate_media.vlm is 'photo'; did you mean 'photos'?"),
        ({"evaluate_media": {"vlm": "sft"}}, "evaluate_media.vlm is 'sft'; there are: drawings, photos; the data sets"),
        ({"evaluate_media": {"scorer": "photos"}}, "evaluate_media: 'scorer' is no model that answers"),
        ({"evaluate_media": {"photos": "photos"}}, "evaluate_media: 'photos' is no model that answers"),
        (
            {"evaluate": ["base", "sft", "grpo", "grpo_again", "vlm"]},
            "'vlm' stands in 'evaluate' and in 'evaluate_media'; its scores have one place",
        ),
        (
            {"evaluate_media": {"vlm": "photos"}},
            "claim of 'vlm' needs the scores of 'sight'; add it to 'evaluate_media', or leave the claim out",
        ),
        ({"evaluate_media": {}}, "claim of 'vlm' needs the scores of 'vlm'; add it to 'evaluate'"),
        (
            {"evaluate_media": {"sight": "drawings", "vlm": "photos"}},
            "claim of 'vlm' compares it with 'sight', which is asked about other data, 'drawings'; name the same",
        ),
        ({"align": {"sight": {"from": "photos", "data": "photos"}}}, "align.sight.from is 'photos'; there are: base"),
        (
            {"align": {"sight": {"from": "sft", "data": "sft"}}},
            "align.sight.data is 'sft'; there are: drawings, photos",
        ),
        (
            {"align": {"sight": {"from": "sft", "data": "data"}}},
            "align.sight.data is 'data'; there are: drawings, phot",
        ),
        ({"align": {"sight": {"from": "sft"}}}, "align.sight: missing key 'data'"),
        ({"media": {"photos": {"from": "base"}, "drawings": {}}}, "media.photos: unknown key 'from'"),
        ({"export": ["photos"]}, "export: 'photos' is no model that answers in this graph"),
        ({"export_media": {"vml": "photos"}}, "export_media: 'vml' is no model that answers in this graph; did you"),
        ({"export_media": {"vlm": "photo"}}, "export_media.vlm is 'photo'; did you mean 'photos'?"),
        (
            {"export": ["vlm"], "export_media": {"vlm": "photos"}},
            "'vlm' stands in 'export' and in 'export_media'; its forms have one place, so take one out",
        ),
        (EXPORTED | {"export_media": {}}, "evaluate_onnx_media.vlm_int8.model is 'vlm'; there are: none; name it"),
        (
            {**EXPORTED, "evaluate_onnx_media": {"vlm_int8": {"model": "vlm", "form": "int8", "data": "photo"}}},
            "evaluate_onnx_media.vlm_int8.data is 'photo'; did you mean 'photos'?; the data sets stand under 'media'",
        ),
        (
            EXPORTED | {"evaluate_media": {"sight": "photos", "vlm": "photos", "vlm_int8": "photos"}},
            "'vlm_int8' is a model and the form of an export; rename the model",
        ),
        ({"kto": {"evaluate_photos": {"from": "sft"}}}, "evaluate_photos.yaml is read by kto.evaluate_photos and by"),
    ],
)
def test_a_graph_of_models_that_see_that_does_not_fit_is_told(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    problems = dag.problems(graph(tmp_path, SEEING | changes), BLOCKS)
    assert any(message in problem for problem in problems), problems
    assert all(str(tmp_path / "mine/recipe.yaml") in problem for problem in problems)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"evaluate_media": ["vlm"]},
            "'evaluate_media' is ['vlm']; expected models and their data, e.g. {vlm: pictures}",
        ),
        ({"evaluate_media": {"vlm": 3}}, "'evaluate_media' is {'vlm': 3}; expected models and their data"),
        ({"evaluate_media": {"vlm": ["photos"]}}, "expected models and their data"),
        ({"export_media": ["vlm"]}, "'export_media' is ['vlm']; expected models and their data"),
        ({"evaluate_onnx_media": ["vlm"]}, "'evaluate_onnx_media' is ['vlm']; expected forms, e.g. {vlm_int8: {model"),
        ({"evaluate_onnx_media": {"vlm_int8": "photos"}}, "evaluate_onnx_media.vlm_int8 is 'photos'; write it like"),
        (
            {"evaluate_onnx_media": {"vlm": {"model": "vlm", "form": "int8", "data": "photos"}}},
            "evaluate_onnx_media.vlm: call it vlm_int8, after its form",
        ),
        (
            {"evaluate_onnx_media": {"vlm_int8": {"model": "vlm", "form": "int8", "data": "a b"}}},
            "write it like this: vlm_int8: {model: vlm, form: int8, data: pictures}",
        ),
        ({"evaluate_medium": {"vlm": "photos"}}, "evaluate_medium.vlm is 'photos'; expected a mapping"),
        ({"media": {"sft": {}}}, "'sft' stands under sft and under media; rename one"),
        ({"media": {"photos": None}}, "media.photos is None; expected a mapping"),
        ({"forms": None}, "missing key 'forms'"),
        ({"recipe": 7}, "'recipe' is 7"),
        ({"recipe": "my recipe"}, "'recipe' is 'my recipe'; a recipe's name is letters"),
        ({"prune": {"half": {"from": "sft", "settings": "../tiny/prune"}}}, "settings is '../tiny/prune'; name a file"),
        ({"prune": {"half": {"from": "sft", "method": "a; b"}}}, "method is 'a; b'; name an entry"),
        ({"evaluate": "sft"}, "'evaluate' is 'sft'; expected a list of names"),
        ({"evaluate": ["sft", "sft"]}, "'evaluate' names sft twice"),
        ({"sft": ["sft"]}, "'sft' is ['sft']; expected its models"),
        ({"sft": {"base": {"from": "base"}}}, "sft.base: 'base' is the model that base.yaml describes"),
        ({"sft": {"a/b": {"from": "base"}}}, "a model's name is letters"),
        ({"sft": {"sft": {"from": 3}}}, "sft.sft.from is 3; expected a name"),
        ({"sft": {"sft": None}}, "sft.sft is None; expected a mapping"),
        ({"kto": {"grpo": {"from": "sft"}}}, "'grpo' stands under grpo and under kto; rename one"),
    ],
)
def test_a_graph_of_another_form_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        graph(tmp_path, changes)
    assert message in str(caught.value)


def test_a_command_that_names_no_recipe_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "dvc.yaml"
    path.write_text("stages: {sft: {cmd: python -m tasks.sft --out x}, mine: {cmd: ./mine.sh, outs: [y]}}")
    with pytest.raises(ConfigError, match=r"stages\.sft\.cmd does not begin"):
        blocks.read(path)


def test_a_file_where_the_link_to_the_active_recipe_belongs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe.ACTIVE.parent.mkdir()
    recipe.ACTIVE.write_text("tiny/recipe.yaml")
    with pytest.raises(ConfigError, match=r"a file of its own and no link; `polm run --recipe NAME` links it"):
        dag.active()
