"""An adapter from elsewhere: merged to the bit of what PEFT answers with it, or refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.stage.errors import ModelError
from tests.support.model_folders import MakeRun, change, cut, drop, logits, put, read

IDS = [5, 9, 200, 31, 7]


@pytest.fixture
def folder(chat_model: Path, workspace: Path) -> Path:
    return Path(shutil.copytree(chat_model, workspace / "m", ignore=shutil.ignore_patterns("manifest.json")))


def trained(folder: Path, out: Path, tokens: int = 0, config: str = "LoraConfig", **settings: Any) -> Any:
    """An adapter of random numbers, as a trainer would leave it; returns PEFT's model with it."""
    import peft
    import torch

    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    if tokens:
        spare = model.config.vocab_size - len(tokenizer) + tokens
        tokenizer.add_tokens([f"<extra_{number}>" for number in range(spare)], special_tokens=True)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    made = peft.get_peft_model(model, getattr(peft, config)(task_type="CAUSAL_LM", **settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)
    made.peft_config["default"].base_model_name_or_path = str(folder)
    made.save_pretrained(out)
    (out / "README.md").unlink()
    tokenizer.save_pretrained(out)
    return made.eval()


LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
MERGED: dict[str, dict[str, Any]] = {
    "LoRA": LORA,
    "DoRA": LORA | {"use_dora": True},
    "rank-stabilised, with patterns": LORA | {"use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "LoRA of a tied embedding": {"r": 4, "target_modules": ["q_proj", "embed_tokens"]},
    "a head trained in full": LORA | {"modules_to_save": ["lm_head"]},
    "an embedding trained in full": LORA | {"modules_to_save": ["embed_tokens"]},
    "both trained in full": LORA | {"modules_to_save": ["embed_tokens", "lm_head"]},
    "a resized vocabulary": LORA | {"modules_to_save": ["embed_tokens", "lm_head"], "tokens": 2},
    "a resized embedding beside": LORA | {"tokens": 2},
    "rows of the embedding": LORA | {"trainable_token_indices": {"embed_tokens": [3, 4]}},
    "LoHa": {"config": "LoHaConfig", "r": 4, "target_modules": ["q_proj", "up_proj"]},
}


@pytest.mark.parametrize("kind", MERGED)
def test_a_merged_adapter_answers_as_peft_does_with_it(
    kind: str, folder: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    made = trained(folder, tmp_path / "a", **MERGED[kind])
    expected = logits(made, IDS)
    plain = logits(load_causal_lm(folder), IDS)
    out = read(folder, make_run, tmp_path, adapter="a")
    got = logits(load_causal_lm(out), IDS)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-4
    assert (got[..., :320] - plain).abs().max() > 1e-2, "the adapter changes something"
    assert len(load_tokenizer(out)) == len(load_tokenizer(tmp_path / "a"))
    assert artifact.read_json(out / "origin.json")["adapter"] == "a"
    assert not (out / "adapter_config.json").exists()


def test_an_adapter_alone_is_no_model(folder: Path, make_run: MakeRun, tmp_path: Path) -> None:
    trained(folder, tmp_path / "alone", **LORA)
    shutil.rmtree(folder)
    (tmp_path / "alone").rename(folder)
    with pytest.raises(
        ModelError, match=r"adapter_config\.json: an adapter of .*/m: give the base model .* `adapter:`"
    ):
        read(folder, make_run, tmp_path)


def test_an_adapter_beside_a_model_leaves_open_which_is_meant(folder: Path, make_run: MakeRun, tmp_path: Path) -> None:
    trained(folder, folder, **LORA)
    with pytest.raises(ModelError, match=r"nothing says which is meant: remove the adapter if it has been merged, or"):
        read(folder, make_run, tmp_path)


def weights(edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        held = load_file(folder / "adapter_model.safetensors")
        edit(held)
        save_file(held, folder / "adapter_model.safetensors")

    return rewrite


def lose_one(held: dict[str, Any]) -> None:
    held.pop(min(held))


def empty_all(held: dict[str, Any]) -> None:
    """Leave what a sharded save without gathering leaves."""
    for name in held:
        held[name] = held[name].new_zeros(0)


def spoil(held: dict[str, Any]) -> None:
    held[min(held)][0, 0] = float("nan")


def other_layer(held: dict[str, Any]) -> None:
    name = min(held)
    held[name.replace("layers.0", "layers.7")] = held[name].clone()


def still(held: dict[str, Any]) -> None:
    for name, weight in held.items():
        if "lora_B" in name:
            weight.zero_()


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (drop(CONFIG), r"a: no adapter_config\.json; `adapter:` takes a folder that PEFT wrote, or null"),
    "no weights": (drop(WEIGHTS), r"a: no adapter_model\.safetensors; save the adapter again"),
    "config cut short": (cut(CONFIG, 50), r"adapter_config\.json: not JSON"),
    "config is a list": (put(CONFIG, "[]"), r"adapter_config\.json: holds a list"),
    "a type that PEFT does not know": (change(CONFIG, peft_type="LORE"), r"adapter_config\.json: PEFT cannot read it"),
    "a classifier's": (change(CONFIG, task_type="SEQ_CLS"), r"adapter_config\.json: an adapter for SEQ_CLS; take one"),
    "a pickle": (put("adapter_model.bin", b"\x80\x04."), r"adapter_model\.bin: a pickle can run code"),
    "weights cut short": (cut(WEIGHTS, 900), r"adapter_model\.safetensors: cut short, or no safetensors"),
    "half of a pair": (weights(lose_one), r"adapter_model\.safetensors: lacks .*lora_A"),
    "weights of another layer": (weights(other_layer), r"adapter_model\.safetensors: has no place for its .*layers\.7"),
    "weights of no size": (
        weights(empty_all),
        r"adapter_model\.safetensors: PEFT cannot load it \(RuntimeError: .*size mism",
    ),
    "not a number": (weights(spoil), r"a: .*lora_A.* holds numbers that are not finite"),
    "modules of another model": (change(CONFIG, target_modules=["c_attn"]), r"a: PEFT cannot put this adapter on m"),
    "modules that were not saved": (
        change(CONFIG, modules_to_save=["lm_head"]),
        r"adapter_model\.safetensors: lacks lm_head, trained in full by adapter_config\.json; save it again",
    ),
    "another rank": (
        change(CONFIG, r=8),
        r"adapter_model\.safetensors: PEFT cannot load it \(RuntimeError: .*size mismatch",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_adapter_is_refused_by_name(kind: str, folder: Path, make_run: MakeRun, tmp_path: Path) -> None:
    breaking, message = BROKEN[kind]
    trained(folder, tmp_path / "a", **LORA)
    breaking(tmp_path / "a")
    with pytest.raises(ModelError, match=message):
        read(folder, make_run, tmp_path, adapter="a")


def test_a_soft_prompt_cannot_be_merged(folder: Path, make_run: MakeRun, tmp_path: Path) -> None:
    trained(folder, tmp_path / "a", config="PromptTuningConfig", num_virtual_tokens=4)
    with pytest.raises(ModelError, match=r"adapter_config\.json: PROMPT_TUNING is a soft prompt.* cannot be merged"):
        read(folder, make_run, tmp_path, adapter="a")


def test_an_adapter_of_another_shape_is_refused(folder: Path, make_run: MakeRun, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    trained(folder, tmp_path / "a", **LORA)
    config = LlamaConfig(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    config.update({"num_attention_heads": 2, "num_key_value_heads": 2})
    LlamaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(
        ModelError, match=r"adapter_model\.safetensors: PEFT cannot load it .*take the model that it was"
    ):
        read(folder, make_run, tmp_path, adapter="a")


def test_what_cannot_be_told_is_a_warning(
    folder: Path, make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(folder, tmp_path / "a", **LORA)
    change(CONFIG, base_model_name_or_path="org/other")(tmp_path / "a")
    weights(still)(tmp_path / "a")
    read(folder, make_run, tmp_path, adapter="a")
    assert any("trained on org/other, and merged into m" in message for message in caplog.messages)
    assert any("every lora_B is zero" in message for message in caplog.messages)


def test_no_such_adapter(folder: Path, make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"adapter org/none: no such folder; give one, or a hub id with its revision"):
        read(folder, make_run, tmp_path, adapter="org/none")


def test_an_adapter_of_the_hub_needs_a_network(
    folder: Path, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"nobody/nothing@main: cannot be fetched"):
        read(folder, make_run, tmp_path, adapter="nobody/nothing@main")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
