"""What can be promoted: a model without an export is refused with what makes one."""

from pathlib import Path

import pytest

from flows.registry import exports
from tasks.stage import artifact
from tasks.stage.errors import GateError

GRAPH = """
recipe: mine
sft: {sft: {from: base}}
dpo: {dpo: {from: sft}}
evaluate: [base, sft, dpo]
export: [dpo]
forms: [int8]
"""


@pytest.fixture
def graph(workspace: Path) -> Path:
    """The link to the active recipe's graph, and nothing exported."""
    folder = workspace / "params/mine"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(GRAPH)
    (workspace / "params/recipe.yaml").symlink_to("mine/recipe.yaml")
    return folder / "recipe.yaml"


def export(name: str) -> None:
    (artifact.ONNX / name).mkdir(parents=True)
    artifact.write_json(artifact.ONNX / name / artifact.MANIFEST, {})


@pytest.mark.usefixtures("graph")
def test_a_model_that_the_graph_exports_is_yet_to_be_run() -> None:
    with pytest.raises(GateError, match=r"dpo: not exported yet \(artifacts/onnx/dpo\); `polm run` exports"):
        exports.require("dpo")
    export("dpo")
    exports.require("dpo")


@pytest.mark.usefixtures("graph")
def test_a_model_that_the_graph_does_not_export_is_to_be_added() -> None:
    export("dpo")
    said = r"sft: .*add it to 'export' in params/mine/recipe\.yaml, and `polm run`; .* you can promote dpo"
    with pytest.raises(GateError, match=said):
        exports.require("sft")


@pytest.mark.usefixtures("graph")
def test_a_name_that_is_no_model_is_suggested_one() -> None:
    export("dpo")
    with pytest.raises(GateError, match=r"no exported model 'dpoo'.*did you mean 'dpo'.*params/mine/recipe\.yaml"):
        exports.require("dpoo")


@pytest.mark.usefixtures("workspace")
def test_without_a_graph_too() -> None:
    with pytest.raises(GateError, match=r"no exported model 'dpo' in artifacts/onnx"):
        exports.require("dpo")
