"""Optional packages of data sets: what is left out without them, and that nothing else is."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tasks.stage import blocks, dag, needs, recipe
from tasks.stage.errors import ConfigError
from tests.conftest import REPO
from tests.support.data_stage import numbered, run, write_rows
from tests.support.data_stage import recipe as data_recipe

BLOCKS = blocks.read(REPO / "dvc.yaml")
ABSENT = "no_such_module_of_polm"
HERE = "json, os.path"
UNKNOWN = f"{ABSENT} is in no extra of polm: install the package that has it, or correct `needs`"
GRAPH: dict[str, Any] = {
    "recipe": "mine",
    "sft": {"sft": {"from": "base", "claim": "sums.exact_match"}},
    "media": {"photos": {}, "spoken": {"needs": ABSENT}},
    "align": {"sight": {"from": "sft", "data": "photos"}, "hearing": {"from": "sft", "data": "spoken"}},
    "vlm": {
        "vlm": {"from": "sight", "data": "photos", "claim": "digits.exact_match"},
        "heard": {"from": "hearing", "data": "spoken", "claim": "said.exact_match"},
        "both": {"from": "heard", "data": "photos"},
        "compared": {"from": "sight", "data": "photos", "claim": "digits.exact_match", "over": "both"},
    },
    "merge": {"merged": {"from": "sft", "first": "vlm", "second": "heard", "settings": "m", "method": "linear"}},
    "evaluate": ["base", "sft"],
    "evaluate_media": {
        "sight": "photos", "vlm": "photos", "compared": "photos", "hearing": "spoken", "heard": "spoken",
        "both": "photos",
    },
    "export": ["sft", "merged"],
    "forms": ["int8"],
    "export_media": {"vlm": "photos", "heard": "spoken", "sight": "spoken"},
    "evaluate_onnx_media": {
        "vlm_fp32": {"model": "vlm", "form": "fp32", "data": "photos"},
        "heard_fp32": {"model": "heard", "form": "fp32", "data": "spoken"},
    },
}  # fmt: skip
GONE = {"spoken", "hearing", "heard", "both", "merged"}


def graph(folder: Path, module: str = ABSENT, **changes: Any) -> recipe.Graph:
    """Read `GRAPH`, whose data set `spoken` needs `module`."""
    path = folder / "mine" / recipe.FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(GRAPH | {"media": {"photos": {}, "spoken": {"needs": module}}} | changes))
    return recipe.read(path)


def test_a_graph_with_needs_fits(tmp_path: Path) -> None:
    read = graph(tmp_path, f"{HERE}, {ABSENT}")
    assert dag.problems(read, BLOCKS) == []
    assert read.models["spoken"].needs == ("json", "os.path", ABSENT)
    assert read.models["spoken"].parents == {}
    assert read.models["photos"].needs == ()


def test_what_needs_a_missing_module_and_what_is_made_from_it_is_left_out(tmp_path: Path) -> None:
    read = graph(tmp_path)
    assert needs.missing(read) == {"spoken": (ABSENT,)}
    assert needs.left_out(read) == dict.fromkeys(sorted(GONE, key=list(read.models).index), (ABSENT,))
    rest = needs.without(read)
    assert set(rest.models) == set(read.models) - GONE
    assert rest.evaluate == ("base", "sft")
    assert rest.evaluate_media == {"sight": "photos", "vlm": "photos", "compared": "photos"}
    assert (rest.export, rest.export_media, list(rest.evaluate_onnx_media)) == (
        ("sft",),
        {"vlm": "photos"},
        ["vlm_fp32"],
    )
    assert "sft_int8" in rest.scored
    assert "merged_int8" not in rest.scored
    assert dag.problems(rest, BLOCKS) == [], "a claim over a model that is left out goes too"
    assert needs.folders(read) == {
        *(Path("models", name) for name in ("hearing", "heard", "both", "merged")), Path("media/spoken"),
        *(Path("metrics", name) for name in ("hearing", "heard", "both", "merged_int8", "heard_fp32")),
        *(Path("onnx", name) for name in ("merged", "heard", "sight")),
    }  # fmt: skip


def test_nothing_is_left_out_where_all_is_here(tmp_path: Path) -> None:
    read = graph(tmp_path, HERE)
    assert needs.without(read) is read
    assert (needs.missing(read), needs.left_out(read), needs.folders(read)) == ({}, {}, set())
    assert list(needs.notices(read)) == []


def test_it_is_said_in_a_line_with_the_remedy(tmp_path: Path) -> None:
    (notice,) = needs.notices(graph(tmp_path))
    assert notice == f"left out here, without {ABSENT}: spoken, hearing, heard, both, merged; {UNKNOWN}"
    assert needs.remedy(("espeakng_loader",)) == "`pip install 'polm[speech]'`"
    said = "`pip install 'polm[vision]'`; espeakng_loder is in no extra of polm; did you mean espeakng_loader?"
    assert needs.remedy(("torchvision", "espeakng_loder")) == said, "no package of a misspelt name is advised"
    media = {"photos": {"needs": f"{ABSENT}.part"}, "spoken": {"needs": ABSENT}}
    two = graph(tmp_path, media=media, merge={}, export=[])
    assert needs.left_out(two)["both"] == (ABSENT, f"{ABSENT}.part")
    assert len(list(needs.notices(two))) == 3, "a line for each set of modules"


def test_extras_install_what_they_are_named_for() -> None:
    extras = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    locked = (REPO / "infra/requirements.lock").read_text(encoding="utf-8")
    graphs = [recipe.read(path) for path in (REPO / "params").glob(f"*/{recipe.FILE}")]
    shipped = {module for graph in graphs for model in graph.models.values() for module in model.needs}
    assert shipped
    assert shipped <= needs.EXTRAS.keys()
    for module, extra in needs.EXTRAS.items():
        names = {Requirement(text).name.replace("-", "_") for text in extras[extra]}
        assert module in names
        if module in shipped:
            assert all(f"\n{name.replace('_', '-')}==" in locked for name in names), "`make setup` installs the lock"


@pytest.mark.parametrize("value", ["", " ", "a-b", "a,,b", "1a", "a b", "a;b", "../a"])
def test_needs_are_names_of_modules(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"media\.spoken\.needs is .*; name Python modules"):
        graph(tmp_path, value)


def test_a_model_has_no_needs_of_its_own(tmp_path: Path) -> None:
    read = graph(tmp_path, sft={"sft": {"from": "base", "needs": "json"}})
    assert any("sft.sft: unknown key 'needs'" in problem for problem in dag.problems(read, BLOCKS))


def test_the_stage_of_such_a_data_set_fails_with_a_clear_line(workspace: Path) -> None:
    write_rows(workspace, numbered(40))
    values = {"recipe": "mine", "media": {"data": {"needs": ABSENT}}, "evaluate": [], "export": [], "forms": []}
    (workspace / recipe.FILE).write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=rf"media\.data\.needs: no module {ABSENT} here; {UNKNOWN}"):
        run(workspace, data_recipe())
    (workspace / recipe.FILE).write_text(json.dumps(values | {"media": {"data": {"needs": HERE}}}))
    assert (run(workspace, data_recipe()) / "report.json").exists()
    (workspace / recipe.FILE).write_text(json.dumps(values | {"media": {"other": {"needs": ABSENT}}}))
    assert (run(workspace, data_recipe()) / "report.json").exists()
