"""Judges: what is asked, what a verdict is, how far it can be trusted, and what the local judge learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import judge
from tasks.judges.local import LocalJudge
from tasks.judges.protocol import Constitution, Judgement, Pair, figures, judge_pairs, named_label
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.errors import ConfigError, ModelError
from tests.conftest import REPO, TRAINER
from tests.support.judges import CONSTITUTION, FixedJudge

BOOTSTRAP: dict[str, Any] = {"resamples": 200, "confidence": 0.95, "seed": 0}


def pair(a: str, b: str, gold: tuple[float, float] = (1.0, 0.0)) -> Pair:
    return Pair("q", (a, b), gold)


# What is asked, and what a verdict is.


def test_both_orders_are_asked() -> None:
    asked: list[str] = []

    def reply(prompt: str) -> float:
        asked.append(prompt)
        return float("A: right" in prompt)

    judged = judge_pairs(FixedJudge(reply), CONSTITUTION, [pair("right", "wrong"), pair("wrong", "right")])
    assert asked[:2] == ["q A: right B: wrong Which is better?", "q A: wrong B: right Which is better?"]
    assert [j.winner for j in judged] == [0, 1]


@pytest.mark.parametrize(
    ("forward", "reverse", "winner"),
    [(0.9, 0.1, 0), (0.1, 0.9, 1), (0.9, 0.9, None), (0.1, 0.1, None), (0.5, 0.1, None), (None, 0.1, None)],
)
def test_a_winner_won_in_both_orders(forward: float | None, reverse: float | None, winner: int | None) -> None:
    assert Judgement(forward, reverse).winner == winner


def test_a_judge_that_always_says_the_first_label_decides_nothing() -> None:
    pairs = [pair("a", "bb"), pair("aa", "b")]
    found = figures(pairs, judge_pairs(FixedJudge(lambda p: 0.8), CONSTITUTION, pairs), **BOOTSTRAP)
    assert (found["ties"], found["labelled"], found["position_bias"]) == (2, 0, 1.0)
    assert found["agreement"] is found["agreement_low"] is found["length_bias"] is None


def test_figures_of_hand_made_verdicts() -> None:
    pairs = [
        pair("long one", "short", (1, 0)),  # the judge and gold take the longer
        pair("long one", "short", (0, 1)),  # the judge takes the longer, gold the shorter
        pair("long one", "short", (1, 1)),  # gold does not know
        pair("short", "long one", (1, 0)),  # the judge takes the shorter, as gold
        pair("same", "size", (1, 0)),  # a tie
        pair("x", "yy", (1, 0)),  # not readable in one order
    ]
    first, second = Judgement(0.9, 0.2), Judgement(0.9, 0.8)
    found = figures(pairs, [first, first, first, first, second, Judgement(None, 0.3)], **BOOTSTRAP)
    assert found["pairs"] == 6
    assert found["labelled"] == 4
    assert found["ties"] == 2
    assert found["unreadable"] == 1
    assert found["gold_ties"] == 1
    assert found["agreement_pairs"] == 3
    assert found["agreement"] == pytest.approx(2 / 3, abs=1e-6)
    assert (found["agreement_low"] or 0) < 2 / 3 < (found["agreement_high"] or 0)
    assert found["position_bias"] == pytest.approx(6 / 11, abs=1e-6)
    assert found["length_bias"] == 3 / 4
    assert found["length_bias_gold"] == pytest.approx(1 / 3, abs=1e-6)


@pytest.mark.parametrize(
    ("reply", "first"),
    [
        ("A", 1.0),
        ("**B**.", 0.0),
        ("The better answer is A", 1.0),
        ("A or B", None),
        ("Alas, Both", None),
        ("", None),
        ("<think>A? no.</think>\nB", 0.0),
        ("<think>A is cut", None),
    ],
)
def test_a_reply_names_one_label_or_none(reply: str, first: float | None) -> None:
    assert named_label(reply, ("A", "B")) == first


@pytest.mark.parametrize("recipe", sorted((REPO / "params").glob("*/judge/constitution.yaml")), ids=str)
def test_every_recipes_constitution_asks_for_all_it_needs(recipe: Path) -> None:
    from tasks.judges.protocol import read_constitution

    prompt = read_constitution(recipe).prompt("What {is} it?", "this {x}", "that")
    assert all(text in prompt for text in ("What {is} it?", "this {x}", "that"))


def test_every_recipe_has_a_constitution() -> None:
    recipes = {path.parent.name for path in (REPO / "params").glob("*/judge.yaml")}
    assert recipes == {path.parent.parent.name for path in (REPO / "params").glob("*/judge/constitution.yaml")} != set()


@pytest.mark.parametrize("template", ["{question} {a}", "{question} {a} {b} {c}", "{question} {a} {b} {"])
def test_a_template_that_cannot_work_is_refused(template: str) -> None:
    values = {"principles": ["p"], "template": template, "labels": ["A", "B"]}
    with pytest.raises(ConfigError, match=r"x/constitution.yaml: 'template'"):
        parse(Path("x/constitution.yaml"), values, Constitution)


# The local judge.


def local(folder: Path, batch_size: int = 2, labels: tuple[str, str] = ("A", "B")) -> LocalJudge:
    return LocalJudge(folder, labels, batch_size=batch_size, device="cpu", dtype="float32", chat_template_args={})


def test_the_local_judge_compares_the_labels_whatever_the_batch(chat_model: Path) -> None:
    prompts = ["What is 1 + 2? A: 3 B: 4", "A", "Add 12 and 345. A: 357 B: 12 + 345 = 357. Happy to help!"]
    tokenizer, model = load_tokenizer(chat_model), load_causal_lm(chat_model)
    expected = []
    for prompt in prompts:
        ids = tokenizer(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
        logits = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        a, b = (logits[tokenizer.convert_tokens_to_ids(label)].exp().item() for label in "AB")
        expected.append(a / (a + b))
    for size in (1, 3):
        judged = local(chat_model, size)
        assert judged(prompts) == pytest.approx(expected, abs=1e-5)
        assert (judged.usage()["prompt_tokens"] or 0) > 0


def test_a_prompt_longer_than_the_judges_context_is_no_verdict(chat_model: Path) -> None:
    votes = local(chat_model)(["A", "long " * 300])
    assert votes[0] is not None
    assert votes[1] is None


def test_labels_of_several_tokens_are_refused(chat_model: Path) -> None:
    with pytest.raises(ModelError, match=r"the label 'first' is \d tokens; choose labels of one token"):
        local(chat_model, labels=("first", "second"))


def test_the_judge_stage_learns_both_orders(
    make_run: Callable[[str], Any], workspace: Path, chat_model: Path, sums_data: Path
) -> None:
    run = make_run("judge")
    (workspace / "params/test/judge").mkdir(parents=True)
    artifact.write_json(workspace / "params/test/judge/constitution.yaml", CONSTITUTION.model_dump(mode="json"))
    values = {
        "seed": 1,
        "threads": 2,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": "preferences",
        "constitution": "judge/constitution.yaml",
        "peft": None,
        "trainer": TRAINER
        | {"max_steps": 12, "save_steps": 12, "max_length": 256, "assistant_only_loss": True, "learning_rate": 3e-3},
    }
    folder = run.checkpoints
    judge.main(parse(Path("judge.yaml"), values, judge.Config), run, model=chat_model, data=sums_data)
    assert run.checkpoints != folder, "another constitution must not resume from this one's checkpoints"
    assert run.checkpoints.parent == folder.parent
    kept = Constitution.model_validate(artifact.read_json(run.out / "constitution.json"))
    assert kept == CONSTITUTION
    audit = artifact.read_json(run.out / "supervision.json")
    assert audit["rows"] == 2 * 64
    assert [part["text"] for part in audit["example"] if part["trained"]] == ["A<|im_end|>"]
    before, after = load_file(chat_model / "model.safetensors"), load_file(run.out / "model.safetensors")
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    losses = [row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 2, "it has learnt to reply with a label"
    assert local(run.out)(["Which is better?"])[0] is not None
