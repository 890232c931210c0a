"""The training stages on a real, small model: what they learn from, what moves, what is written."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import dpo, reward, sft
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.stage.config import read_yaml
from tasks.stage.errors import ConfigError, DataError
from tasks.training import rows
from tasks.training import trainer as training
from tests.conftest import REPO
from tests.support.supervised import configured

MakeRun = Callable[[str], Any]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_sft_moves_every_weight_and_learns(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("sft")
    sft.main(configured(sft, assistant_only_loss=True, max_steps=12), run, model=chat_model, data=sums_data)
    before, after = weights(chat_model), weights(run.out)
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    losses = [row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["steps"] == 12
    assert figures["trainable_parameters"] == figures["parameters"] > 0
    assert "runtime" not in json.dumps(figures)


def test_supervision_audit_shows_what_carries_loss(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("sft")
    sft.main(configured(sft, assistant_only_loss=True, max_steps=1), run, model=chat_model, data=sums_data)
    audit = artifact.read_json(run.out / "supervision.json")
    row = artifact.read_jsonl(sums_data / "sft" / "train.jsonl")[0]
    trained = "".join(part["text"] for part in audit["example"] if part["trained"])
    assert trained == row["messages"][1]["content"] + "<|im_end|>"
    assert audit["rows"] == 64
    assert 0 < audit["share"] < 1


def test_sft_refuses_to_train_on_everything(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    with pytest.raises(DataError, match=r"every token of .* would be trained on"):
        sft.main(configured(sft, assistant_only_loss=False), make_run("sft"), model=chat_model, data=sums_data)


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


def test_packing_does_not_leak_attention_between_rows(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    from trl import SFTTrainer

    config = configured(sft, assistant_only_loss=True, packing=True)
    trainer = SFTTrainer(
        model=load_causal_lm(chat_model),
        args=training.arguments(sft.trainer_class(), config, make_run("sft")),
        train_dataset=rows.examples(sums_data, "sft", "train"),
        processing_class=load_tokenizer(chat_model),
    )
    batch = trainer.data_collator([trainer.train_dataset[0]])
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    assert len(starts) > 1, "nothing was packed"
    model = load_causal_lm(chat_model).eval()
    packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
    for start, end in zip(starts, [*starts[1:], packed.shape[0]], strict=True):
        alone = model(input_ids=batch["input_ids"][:, start:end]).logits[0]
        torch.testing.assert_close(packed[start:end], alone, atol=1e-5, rtol=1e-4)


def test_accumulation_and_batch_size_share_one_trajectory(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    curves = []
    for size, accumulate in ((8, 1), (2, 4)):
        run = make_run(f"sft{size}")
        sizes: dict[str, Any] = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate}
        config = configured(sft, assistant_only_loss=True, **sizes)
        sft.main(config, run, model=chat_model, data=sums_data)
        curves.append([row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row])
    assert curves[0] == pytest.approx(curves[1], rel=2e-3)


def test_dpo_prefers_the_chosen_answers(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("dpo")
    losses: dict[str, Any] = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0], "max_steps": 16}
    dpo.main(configured(dpo, beta=0.5, **losses), run, model=chat_model, data=sums_data)
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["eval_rewards/margins"] > 0
    assert figures["eval_rewards/accuracies"] > 0.5
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert any("rewards/margins" in row for row in curve)


def test_reward_model_tells_the_sides_apart(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("reward")
    reward.main(configured(reward, max_steps=24, learning_rate=3e-3), run, model=chat_model, data=sums_data)
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["pair_accuracy_low"] <= figures["pair_accuracy"] <= figures["pair_accuracy_high"]
    assert figures["pair_accuracy"] > 0.6
    table = artifact.read_json(run.out / "calibration.json")
    assert sum(part["pairs"] for part in table) == 16
    assert all(0.5 <= part["predicted"] <= 1 for part in table)


def test_too_few_held_out_pairs_are_refused_before_training(
    make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    run = make_run("reward")
    config = configured(reward).model_copy(update={"calibration_bins": 99})
    with pytest.raises(DataError, match="16 held-out pairs for 99 calibration bins"):
        reward.main(config, run, model=chat_model, data=sums_data)
    assert not (run.out / "curves.jsonl").exists()


def test_calibration_bins_by_the_size_of_the_margin() -> None:
    table = reward.calibration([0.1, -0.1, 3.0, 3.0], 2)
    assert [part["observed"] for part in table] == [0.5, 1.0]
    assert table[1]["predicted"] == pytest.approx(1 / (1 + math.exp(-3)), abs=1e-6)
    with pytest.raises(DataError, match=r"1 held-out pairs for 2"):
        reward.calibration([0.5], 2)


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
    assert not (tmp_path / "checkpoint-12").exists()
