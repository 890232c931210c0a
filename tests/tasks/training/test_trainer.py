"""The training stages on a real, small model: what they learn from, what moves, what is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import sft
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.stage.config import read_yaml
from tasks.stage.errors import ConfigError, DataError
from tasks.training import rows
from tasks.training import trainer as training
from tests.conftest import REPO
from tests.support.supervised import configured

MakeRun = Callable[..., Any]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_supervision_audit_shows_what_carries_loss(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("sft")
    sft.main(configured(sft, assistant_only_loss=True, max_steps=1), run, model=chat_model, data=sums_data)
    audit = artifact.read_json(run.out / "supervision.json")
    row = artifact.read_jsonl(sums_data / "sft" / "train.jsonl")[0]
    trained = "".join(part["text"] for part in audit["example"] if part["trained"])
    assert trained == row["messages"][1]["content"] + "<|im_end|>"
    assert audit["rows"] == 64
    assert 0 < audit["share"] < 1


def test_lora_stores_the_merged_model_and_the_adapter(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("sft")
    sft.main(configured(sft, LORA, assistant_only_loss=True), run, model=chat_model, data=sums_data)
    assert (run.out / "adapter/adapter_model.safetensors").exists()
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["trainable_parameters"] < figures["parameters"]
    from peft import PeftModel

    ids = torch.tensor([load_tokenizer(chat_model)("What is 12 + 34?")["input_ids"]])
    adapted = PeftModel.from_pretrained(load_causal_lm(chat_model), run.out / "adapter")
    merged = load_causal_lm(run.out)
    torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)


def test_accumulation_and_batch_size_share_one_trajectory(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    curves = []
    for size, accumulate in ((8, 1), (2, 4)):
        run = make_run(f"sft{size}")
        sizes: dict[str, Any] = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate}
        config = configured(sft, assistant_only_loss=True, **sizes)
        sft.main(config, run, model=chat_model, data=sums_data)
        curves.append([row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row])
    assert curves[0] == pytest.approx(curves[1], rel=2e-3)


def test_a_misspelt_trainer_key_names_file_key_and_the_nearest(
    make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'trainer.learning_rat'; did you mean 'learning_rate'\?"):
        sft.main(configured(sft, learning_rat=1), make_run("sft"), model=chat_model, data=sums_data)
    with pytest.raises(ConfigError, match=r"trainer.output_dir is set by the stage itself"):
        sft.main(configured(sft, output_dir="x"), make_run("sft2"), model=chat_model, data=sums_data)


def test_a_diverged_loss_stops_the_stage(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    config = configured(sft, assistant_only_loss=True, learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(DataError, match=r"lower trainer.learning_rate"):
        sft.main(config, make_run("sft"), model=chat_model, data=sums_data)


def test_a_checkpoint_between_two_log_entries_is_refused(make_run: MakeRun) -> None:
    config = configured(sft, logging_steps=2, save_steps=3)
    with pytest.raises(ConfigError, match=r"trainer.save_steps is 3, no multiple of trainer.logging_steps \(2\)"):
        training.arguments(sft.trainer_class(), config, make_run("sft"))


def test_every_recipe_saves_on_a_log_entry() -> None:
    files = [path for path in (REPO / "params").glob("*/*.yaml") if "trainer" in (settings := read_yaml(path))]
    assert len(files) > 30
    for path in files:
        settings = read_yaml(path)["trainer"]
        assert settings["save_steps"] % settings["logging_steps"] == 0, path


def test_a_mean_of_nothing_is_left_out_of_the_curves() -> None:
    assert training._clean({"step": 2, "clip_ratio/low_min": None, "step_time": 0.3, "loss": 0.5}) == {
        "loss": 0.5,
        "step": 2,
    }


def test_a_data_set_that_the_recipe_does_not_make(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such data set; add `sft:mine` to the recipe's data.yaml"):
        rows.examples(tmp_path, "sft:mine", "train")


def test_a_half_written_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    for step, whole in ((2, True), (10, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / training.COMPLETE).touch()
    assert training._last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    training._remove_halves(tmp_path)
    assert training._last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-12").exists()
