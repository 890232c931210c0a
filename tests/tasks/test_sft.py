"""The sft stage: every weight moves, packed rows stay apart, and it refuses to train on all tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import sft
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.stage.errors import DataError
from tasks.training import rows
from tasks.training import trainer as training
from tests.support.supervised import configured

MakeRun = Callable[..., Any]


def test_sft_moves_every_weight_and_learns(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("sft")
    sft.main(configured(sft, assistant_only_loss=True, max_steps=12), run, model=chat_model, data=sums_data)
    before, after = (load_file(folder / "model.safetensors") for folder in (chat_model, run.out))
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    losses = [row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["steps"] == 12
    assert figures["trainable_parameters"] == figures["parameters"] > 0
    assert "runtime" not in json.dumps(figures)


def test_sft_refuses_to_train_on_everything(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    with pytest.raises(DataError, match=r"every token of .* would be trained on"):
        sft.main(configured(sft, assistant_only_loss=False), make_run("sft"), model=chat_model, data=sums_data)


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
