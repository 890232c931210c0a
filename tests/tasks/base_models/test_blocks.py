"""A base model from conversations: what is learnt, in which order, by which tokenizer and shape."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import base
from tasks.base_models import blocks
from tasks.base_models.blocks import Conversations
from tasks.base_models.tokenizer import TokenizerConfig, train_tokenizer
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError
from tests.support.base_models import SCRATCH, configured

MakeRun = Callable[..., Any]
NAMES = ("Muluh", "Tehot", "Lokel", "Bafir")
TOWNS = ("Vogan", "Dehum", "Lihug", "Sovaj")
CONVERSED = SCRATCH | {
    "tokenizer": {"vocab_size": 320, "split_digits": True, "common_words": 0.5},
    "conversations": {"dataset": "sft", "short_rows": 0.5, "short_steps": 0.5},
    "model": {
        "model_type": "lfm2",
        "hidden_size": 32,
        "intermediate_size": 64,
        "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": 2,
        "layer_types": ["conv", "full_attention"],
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "block_size": 96,
}


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture
def people_data(make_artifact: Any, workspace: Path) -> Path:
    folder = workspace / "artifacts/media/people"
    rows = [
        {"id": f"{name} {town}", "messages": turns(f"{name} lives in {town}. Where?", town)}
        for name in NAMES
        for town in TOWNS
    ]
    artifact.write_jsonl(folder / "sft" / "train.jsonl", rows)
    make_artifact(folder, stage="data")
    return folder


def test_a_base_model_of_another_architecture_learns_answers_alone(make_run: MakeRun, people_data: Path) -> None:
    run = make_run("base")
    base.main(configured({"scratch": CONVERSED}), run, data=people_data)
    assert load_causal_lm(run.out).config.model_type == "lfm2"
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5
    tokenizer = load_tokenizer(run.out)
    made = tokenizer.apply_chat_template(turns("Muluh lives in Vogan. Where?", "Vogan"), tokenize=True)["input_ids"]
    seen = artifact.read_json(run.out / "metrics.json")["tokens"]
    assert abs(seen - 30 * 8 * len(made)) < 0.1 * seen, "padding counts as tokens"


def test_labels_are_the_answers_and_rows_rise_in_length() -> None:
    tokenizer = train_tokenizer(["Where does Muluh live? Vogan"] * 3, TokenizerConfig(
        vocab_size=280, split_digits=False, common_words=None
    ))  # fmt: skip
    long, short = turns("Where does Muluh live, and since when?", "Vogan"), turns("Where?", "Dehum")
    ids, labels = blocks.of_conversations(tokenizer, [long, short], 120)
    learnt = [tokenizer.decode(row[row != -100]) for row in labels]
    assert learnt == ["Dehum<|im_end|>\n", "Vogan<|im_end|>\n"] or learnt == ["Dehum<|im_end|>", "Vogan<|im_end|>"]
    assert (ids[0] != tokenizer.pad_token_id).sum() < (ids[1] != tokenizer.pad_token_id).sum()
    assert labels.shape == ids.shape == (2, 120)


def test_the_first_steps_take_the_shortest_rows_and_every_row_has_its_turn() -> None:
    config = Conversations(dataset="sft", short_rows=0.25, short_steps=0.4)
    order = blocks.order(40, 10, 8, config, seed=1)
    assert order.shape == (10, 8)
    assert order[:4].max() < 10, "a long row among the first steps"
    assert set(order[4:].flatten().tolist()) == set(range(40))
    assert (order == blocks.order(40, 10, 8, config, seed=1)).all()
    assert (order != blocks.order(40, 10, 8, config, seed=2)).any()


def test_rare_words_are_spelt_and_common_ones_are_tokens() -> None:
    texts = [f"{name} lives in {town}." for name in NAMES for town in TOWNS]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=400, split_digits=False, common_words=0.5))
    assert tokenizer.tokenize(" lives") == ["Ġlives"]
    assert len(tokenizer.tokenize(" Muluh")) >= len("Muluh")
    everything = train_tokenizer(texts, TokenizerConfig(vocab_size=400, split_digits=False, common_words=None))
    assert "Muluh" in everything.tokenize(" Muluh")[-1]


def test_a_conversation_longer_than_a_block_is_refused(make_run: MakeRun, people_data: Path) -> None:
    with pytest.raises(DataError, match=r"a conversation has \d+ tokens, and block_size is 8; raise block_size"):
        base.main(configured({"scratch": CONVERSED | {"block_size": 8}}), make_run("base"), data=people_data)


@pytest.mark.parametrize("kind", ["llamma", "vit"])
def test_an_architecture_that_is_no_decoder_is_refused(make_run: MakeRun, people_data: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"model_type is '{kind}', which transformers has no decoder for"):
        base.main(configured({"scratch": CONVERSED | {"model": {"model_type": kind}}}), make_run("b"), data=people_data)
