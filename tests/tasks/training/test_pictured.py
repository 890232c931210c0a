"""Rows with pictures before training, and the stages that take no model that sees: one clear line each."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import distill, export_onnx, kto, label, online_dpo, ppo, prune, refine, rejection, reward
from tasks.models.multimodal import load_processor
from tasks.stage import artifact
from tasks.stage.config import load
from tasks.stage.errors import ConfigError, DataError, ModelError
from tasks.training import fates, pictured
from tests.conftest import REPO
from tests.support import distill as distill_settings
from tests.support import label as label_settings
from tests.support import online_dpo as online_dpo_settings
from tests.support import ppo as ppo_settings
from tests.support import prune as prune_settings
from tests.support import refine as refine_settings
from tests.support import rl, supervised
from tests.support.pictures import TOKENS

MakeRun = Callable[..., Any]
SOURCE = Path("data/sft/train.jsonl")

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_tokens_of_pictures_are_counted_by_row(make_run: MakeRun, seeing_model: Path, pictures_data: Path) -> None:
    row = artifact.read_jsonl(pictures_data / "sft" / "train.jsonl")[0]
    asked = [{**row, "images": row["images"] * count} for count in (1, 2, 0)]
    reader = load_processor(seeing_model)
    found = pictured.counted(make_run("vlm"), asked, reader, SOURCE, pictures_data)
    assert [row[fates.IMAGE_TOKENS] for row in found] == [TOKENS, 2 * TOKENS, 0]
    words = asked[2:]
    assert pictured.counted(make_run("words"), words, reader, SOURCE, pictures_data) is words


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_a_placeholder_in_any_text_of_a_row_is_named(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path, column: str
) -> None:
    made = artifact.read_jsonl(pictures_data / "preferences" / "train.jsonl")[:3]
    made[2][column] = [{**made[2][column][0], "content": "An <image>."}]
    with pytest.raises(DataError, match=r"^data/sft/train.jsonl:3: a text has '<image>'"):
        pictured.counted(make_run("dpo"), made, load_processor(seeing_model), SOURCE, pictures_data)


KTO = rl.configured(kto, "preferences", {})
CAUSAL = "'fast_vlm' is no causal language model in transformers; of a model that sees, take the language model that it"
REFUSING: dict[str, tuple[Any, Any, str]] = {
    "online_dpo": (online_dpo, online_dpo_settings.configured(), CAUSAL),
    "kto": (kto, KTO, CAUSAL),
    "reward": (
        reward,
        supervised.configured(reward),
        "transformers cannot load it .*AutoModelForSequenceClassification",
    ),
    "ppo": (ppo, ppo_settings.configured(), "another vocabulary than"),
    "rejection": (rejection, rl.rejection_config(), CAUSAL),
    "refine": (refine, refine_settings.configured(), CAUSAL),
    "label": (label, label_settings.config(), CAUSAL),
    "distill": (distill, distill_settings.configured(), CAUSAL),
    "prune": (prune, prune_settings.configured(), CAUSAL),
    "export_onnx": (
        export_onnx,
        load(REPO / "params/tiny/export_onnx.yaml", export_onnx.Config),
        "gptq: its calibration rows are read without their pictures",
    ),
}
"""Stage to its settings and what it says of a model that sees."""


@pytest.mark.parametrize("name", REFUSING)
def test_a_stage_for_language_models_refuses_one_that_sees(
    make_run: MakeRun, seeing_model: Path, sums_data: Path, judge: Path, reward_model: Path, name: str
) -> None:
    """A `PolmError` is one line and exit code 2."""
    stage, config, message = REFUSING[name]
    more = {
        "online_dpo": {"judge": judge}, "label": {"judge": judge}, "ppo": {"reward": reward_model},
        "distill": {"teacher": seeing_model},
    }.get(name, {})  # fmt: skip
    run = replace(make_run(name), method={"prune": "wanda", "distill": "logits"}.get(name, name))
    with pytest.raises((ModelError, ConfigError), match=message):
        stage.main(config, run, model=seeing_model, data=sums_data, **more)
    assert not (run.out / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["online_dpo", "kto", "reward", "rejection", "refine"])
def test_a_stage_for_words_refuses_rows_with_pictures(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, judge: Path, name: str
) -> None:
    stage, config, _ = REFUSING[name]
    more = {"judge": judge} if name == "online_dpo" else {}
    with pytest.raises(ConfigError, match=r"the rows of .*/train.jsonl have pictures, and the model takes none"):
        stage.main(config, make_run(name), model=chat_model, data=pictures_data, **more)


@pytest.mark.slow
def test_the_command_ends_with_one_line_and_exit_code_2(
    workspace: Path, seeing_model: Path, sums_data: Path, make_artifact: Any
) -> None:
    for name, source in (("model", seeing_model), ("data", sums_data)):
        shutil.copytree(source, workspace / name)
    Path("params/mine").mkdir(parents=True)
    with Path("params/mine/kto.yaml").open("w") as f:
        YAML(typ="safe").dump(KTO.model_dump(), f)
    command = [sys.executable, "-m", "tasks.kto", "params/mine/kto.yaml", "--model", "model", "--data", "data"]
    done = subprocess.run(
        [*command, "--out", "out/kto"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPO)}
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if "'fast_vlm' is no causal language model" in line]
