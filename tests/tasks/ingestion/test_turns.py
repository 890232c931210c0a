"""Weights of messages: what a row says is not to be learnt is not, from the raw file to the labels of the loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import sft
from tasks.compression import held_out
from tasks.ingestion.mapping import validate
from tasks.ingestion.turns import WEIGHTS, pieces, unlearnt
from tasks.ingestion.values import BadRow
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.training import rows as training_rows
from tasks.training import supervised
from tests.conftest import TRAINER
from tests.support.data_stage import numbered, read, recipe, report, run, sets, write_rows

WHOLE = {"messages": "{messages}"}


def said(role: str, content: str, **keys: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **keys}


def pumps(count: int, key: str, off: Any, on: Any) -> list[dict[str, Any]]:
    """Conversations in which a wrong turn is context for the right one."""
    return [
        {
            "messages": [
                said("user", f"Stop pump {i}."),
                said("assistant", f"WRONG: starting pump {i}.", **{key: off}),
                said("user", "No, stop it."),
                said("assistant", f"Pump {i} is stopped.", **{key: on}),
            ]
        }
        for i in range(count)
    ]


def stage(folder: Path, items: list[Any], out: str = "out", near: bool = False) -> Path:
    """Run the data stage on rows of `messages`."""
    write_rows(folder, items)
    return run(folder, recipe(sets=sets(sft=(WHOLE, near)), max_bad_share=0.0), out)


def written(out: Path) -> list[dict[str, Any]]:
    return [row for split in ("train", "validation") for row in read(out / f"sft/{split}.jsonl")]


@pytest.mark.parametrize(("key", "off", "on"), [(k, 0, 1) for k in WEIGHTS] + [(k, False, True) for k in WEIGHTS])
def test_a_turn_of_weight_0_is_context(workspace: Path, key: str, off: Any, on: Any) -> None:
    out = stage(workspace, pumps(30, key, off, on))
    rows = written(out)
    for row in rows:
        assert [m["content"].split()[0] for m in row["prompt"]] == ["Stop", "WRONG:", "No,"]
        assert row["completion"][0]["content"].endswith("is stopped.")
        assert all(set(m) == {"role", "content"} for m in row["prompt"] + row["completion"])
        assert set(row) == {"id", "prompt", "completion", "source"}
    assert report(out)["sets"]["sft"]["turns_of_weight_0"] == len(rows)


def test_weight_1_leaves_no_trace(workspace: Path) -> None:
    plain = [{"messages": [said("user", r["question"]), said("assistant", r["answer"])]} for r in numbered(30)]
    given_ = [{"messages": [said("user", r["question"], loss=False), said("assistant", r["answer"], loss=True)]}
              for r in numbered(30)]  # fmt: skip
    outs = [stage(workspace, items, name) for items, name in ((plain, "plain"), (given_, "given"))]
    for name in ("sft/train.jsonl", "sft/validation.jsonl"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
    assert "turns_of_weight_0" not in report(outs[1])["sets"]["sft"]


def test_learnt_turns_on_both_sides_of_one_that_is_not_become_two_rows(workspace: Path) -> None:
    items = []
    for i, row in enumerate(numbered(30)):
        turns = [said("assistant", f"{row['answer']} {n}", weight=n % 2) for n in (1, 2, 3, 4)]
        asked = [said("user", f"{row['question']} {n} {i}") for n in (1, 2, 3, 4)]
        items.append({"messages": [m for pair in zip(asked, turns, strict=True) for m in pair]})
    out = stage(workspace, items)
    counts = report(out)["sets"]["sft"]["sources"]["mine"]
    rows = written(out)
    assert len(rows) == 2 * counts["kept"] == 2 * (30 - counts["in the test split"])
    assert len({row["id"] for row in rows}) == len(rows)
    files = report(out)["sets"]["sft"]["files"]
    assert sum(facts["rows"] for facts in files.values()) == len(rows)
    assert sorted({(len(row["prompt"]), len(row["completion"])) for row in rows}) == [(1, 1), (5, 1)]
    assert report(out)["sets"]["sft"]["turns_of_weight_0"] == 2 * counts["kept"]


@pytest.mark.parametrize("near", [False, True])
def test_one_conversation_may_come_once_for_each_turn_to_be_learnt(workspace: Path, near: bool) -> None:
    items = []
    for r in numbered(30):
        for on in (0, 1):
            turns = [said("user", r["question"]), said("assistant", r["answer"], weight=1 - on)]
            items.append({"messages": [*turns, said("user", "Sure?"), said("assistant", "I am sure.", weight=on)]})
    out = stage(workspace, items, near=near)
    rows = written(out)
    kept = report(out)["sets"]["sft"]["sources"]["mine"]
    assert kept.get("exact duplicate", 0) == kept.get("near-duplicate", 0) == 0
    assert sum(len(row["prompt"]) == 3 for row in rows) == sum(len(row["prompt"]) == 1 for row in rows) == len(rows) / 2


@given(st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=7), st.booleans(), st.integers(0, 3))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_each_learnt_turn_is_learnt_once_with_all_that_came_before_it(
    weights: list[int | None], system: bool, opening: int
) -> None:
    turns = [said("system", "Be brief.")] if system else []
    for i, weight in enumerate(weights):
        turns += [
            said("user", f"question {i}"),
            said("assistant", f"answer {i}", **({} if weight is None else {"weight": weight})),
        ]
    before = 2 * min(opening, len(weights) - 1) + system + 1
    for row, skipped in (({"messages": turns}, 0), ({"prompt": turns[:before], "completion": turns[before:]}, before)):
        learnt = [i for i, m in enumerate(turns) if m["role"] == "assistant" and m.get("weight") != 0 and i >= skipped]
        try:
            rows = pieces(validate("sft", row))
        except BadRow as e:
            refused = any(m.get("weight") == 1 for m in turns[:skipped])
            assert refused or not learnt, str(e)
            continue
        bare = [said(m["role"], m["content"]) for m in turns]
        found = []
        for piece in map(training_rows.parted, rows):
            whole = [*piece["prompt"], *piece["completion"]]
            assert whole == bare[: len(whole)], "the context is the conversation up to there"
            found += [i for i in range(len(piece["prompt"]), len(whole)) if whole[i]["role"] == "assistant"]
        assert found == learnt
        assert all(not unlearnt(piece) for piece in rows)


def asked(*assistant: dict[str, Any]) -> list[dict[str, Any]]:
    """A conversation that goes on with these messages of the assistant's, and ends with the user's."""
    return [said("user", "Q?"), *(m for turn in assistant for m in (turn, said("user", "Well?")))]


def says(content: str = "Yes.", **keys: Any) -> dict[str, Any]:
    return said("assistant", content, **keys)


OFF, ON = says("Eh?", weight=0), says("Eh?", weight=1)


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("sft", {"prompt": asked(ON), "completion": [says()]}, "'prompt' has a message with weight 1, and nothing"),
        ("sft", {"prompt": asked(), "completion": [says(train=False)]}, "'completion' has weight 0 on every message"),
        ("preferences", {"prompt": asked(), "chosen": [OFF], "rejected": [says()]}, "'chosen' .* weight 0"),
        ("preferences", {"chosen": [*asked(), says()], "rejected": [*asked(), OFF]}, "'rejected' .* weight 0"),
        (
            "preferences",
            {"chosen": [*asked(ON), says()], "rejected": [*asked(OFF), says("No.")]},
            "'prompt' .* weight 1",
        ),
        (
            "preferences",
            {"chosen": [*asked(OFF), says()], "rejected": [*asked(ON), says("No.")]},
            "'rejected' .* weight 1",
        ),
        (
            "feedback",
            {"prompt": asked(), "completion": [says(), *asked(), OFF], "label": True},
            "'completion' .* weight 0",
        ),
        ("prompts", {"prompt": asked(says(training=True)), "answer": "4"}, "'prompt' .* weight 1"),
        ("preferences", {"prompt": asked(), "chosen": [says(tool_calls=[{}])], "rejected": [says()]}, "'tool_calls'"),
        ("prompts", {"prompt": [said("user", "Q?", image="a.png")], "answer": "4"}, "'prompt' .* 'image'"),
    ],
)
def test_a_set_that_cannot_honour_a_weight_names_it(kind: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        validate(kind, row)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("preferences", {"prompt": asked(OFF), "chosen": [says()], "rejected": [says("No.", weight=1)]}),
        ("preferences", {"chosen": [*asked(OFF), says()], "rejected": [*asked(says("Eh?")), says("No.")]}),
        ("feedback", {"prompt": asked(OFF), "completion": [says(train=True)], "label": False}),
        ("prompts", {"prompt": asked(OFF), "answer": "4"}),
    ],
)
def test_a_weight_that_says_what_the_set_does_leaves_no_trace(kind: str, row: dict[str, Any]) -> None:
    kept = validate(kind, row)
    assert [m["content"] for m in kept["prompt"]] == ["Q?", "Eh?", "Well?"]
    assert all(set(m) == {"role", "content"} for key in kept if isinstance(kept[key], list) for m in kept[key])


@pytest.fixture
def weighed_data(workspace: Path, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """A data artifact in which some rows have a turn of weight 0."""
    plain = [{"messages": [said("user", r["question"]), said("assistant", r["answer"])]} for r in numbered(20)]
    out = stage(workspace, [*pumps(30, "weight", 0, 1), *plain], "data")
    make_artifact(out, stage="data")
    return out


def test_supervision_and_labels_leave_out_turns_of_weight_0(
    make_run: Callable[[str], Any], chat_model: Path, weighed_data: Path
) -> None:
    from trl import SFTConfig, SFTTrainer

    tokenizer = load_tokenizer(chat_model)
    settings_ = TRAINER | {"assistant_only_loss": True, "max_steps": 1, "save_steps": 1, "max_length": 256}
    trainer = SFTTrainer(
        model=str(chat_model),
        args=SFTConfig(output_dir="out", report_to="none", **settings_),
        train_dataset=training_rows.examples(weighed_data, "sft", "train"),
        processing_class=tokenizer,
    )
    learnt = []
    for example in trainer.train_dataset:
        batch = trainer.data_collator([example])
        runs = supervised._runs(batch["input_ids"][0].tolist(), (batch["labels"][0] != -100).tolist(), tokenizer)
        learnt += [part["text"].removesuffix("<|im_end|>") for part in runs if part["trained"]]
    rows = read(weighed_data / "sft/train.jsonl")
    assert learnt == [training_rows.parted(row)["completion"][0]["content"] for row in rows]
    assert any(text.endswith("is stopped.") for text in learnt)
    assert not any("WRONG" in text for text in learnt)
    made = make_run("sft")
    config = sft.Config(seed=0, threads=1, launch=None, dataset="sft", peft=None, trainer=settings_)
    sft.main(config, made, model=chat_model, data=weighed_data)
    audit = artifact.read_json(made.out / "supervision.json")
    assert audit["trained_tokens"] == sum(len(tokenizer(f"{text}<|im_end|>")["input_ids"]) for text in learnt)


def test_validation_rows_alone_may_have_turns_of_weight_0(workspace: Path) -> None:
    plain = [{"messages": [said("user", r["question"]), said("assistant", r["answer"])]} for r in numbered(4)]
    artifact.write_jsonl(workspace / "sft/train.jsonl", plain)
    artifact.write_jsonl(workspace / "sft/validation.jsonl", pieces(pumps(1, "weight", 0, 1)[0]))
    assert set(training_rows.examples(workspace, "sft", "train").column_names) == {"prompt", "completion"}
    artifact.write_jsonl(workspace / "sft/validation.jsonl", plain)
    assert training_rows.examples(workspace, "sft", "train").column_names == ["messages"]


def test_held_out_loss_is_of_the_learnt_turns(chat_model: Path) -> None:
    model, tokenizer = load_causal_lm(chat_model), load_tokenizer(chat_model)
    (row,) = pieces(pumps(1, "weight", 0, 1)[0])
    loss = held_out.loss_per_token(model, tokenizer, [row])
    assert loss["tokens"] == len(tokenizer("Pump 0 is stopped.<|im_end|>")["input_ids"])
    import torch

    ids = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=True, return_dict=True)[
        "input_ids"
    ]
    labels = torch.full((1, len(ids)), -100)
    end = len(ids) - len(tokenizer("\n")["input_ids"])
    labels[0, end - loss["tokens"] : end] = torch.tensor(ids[end - loss["tokens"] : end])
    with torch.inference_mode():
        expected = model(torch.tensor([ids]), labels=labels).loss.item()
    assert loss["nats_per_token"] == pytest.approx(expected, abs=1e-4)
