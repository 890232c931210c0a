"""Property: rows are read in their shapes, conversations, pairs and feedback, and what is wrong with them is said."""

from pathlib import Path
from typing import Any

import pytest

from tasks.stage.errors import DataError
from tests.support.data_stage import SFT, numbered, preferences, read, recipe, rows, run, sets, write_rows


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"chosen": "Same.", "rejected": "Same."}, "chosen and rejected are equal"),
        ({"chosen": "Same thing.", "rejected": " Same  thing.\n"}, "chosen and rejected are equal"),
        ({"chosen": "a@b.example.org", "rejected": "c@d.example.org"}, "chosen and rejected are equal"),
        ({"chosen": "Yes.", "rejected": ""}, "assistant's content' is empty"),
    ],
)
def test_bad_preference_pairs(workspace: Path, bad: dict[str, str], reason: str) -> None:
    good = [row | {"chosen": row["answer"], "rejected": "No idea."} for row in numbered(30)]
    out = preferences(workspace, [*good, {"question": "Q?", **bad}])
    (reject,) = read(out / "rejects.jsonl")
    assert reject["line"] == 31
    assert reason in reject["reason"]


def test_pairs_without_a_prompt_column_are_split_after_what_they_share(workspace: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    items = []
    for row in numbered(30):
        prompt = [system, {"role": "user", "content": row["question"]}]
        sides = {"chosen": row["answer"], "rejected": "No idea."}
        items.append({side: [*prompt, {"role": "assistant", "content": text}] for side, text in sides.items()})
    same = {"chosen": items[0]["chosen"], "rejected": items[0]["chosen"]}
    out = preferences(workspace, [*items, same], {"chosen": "{chosen}", "rejected": "{rejected}"})
    row = read(out / "preferences/train.jsonl")[0]
    assert [m["role"] for m in row["prompt"]] == ["system", "user"]
    assert [m["role"] for m in row["chosen"] + row["rejected"]] == ["assistant", "assistant"]
    assert [r["reason"] for r in read(out / "rejects.jsonl")] == ["chosen and rejected are equal"]


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        (["user", "user", "assistant"], "does not alternate"),
        (["assistant", "user", "assistant"], "does not alternate"),
        (["user", "assistant", "user"], "ends with user"),
        (["system"], "does not alternate"),
        (["user", "robot"], "has the role 'robot'"),
    ],
)
def test_conversations_take_turns(workspace: Path, roles: list[str], reason: str) -> None:
    def conversation(i: int, roles: list[str]) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": f"text {i} {j}"} for j, role in enumerate(roles)]}

    good = [conversation(i, ["system", "user", "assistant", "user", "assistant"]) for i in range(30)]
    write_rows(workspace, [*good, conversation(99, roles)])
    out = run(workspace, recipe(sets=sets(sft=({"messages": "{messages}"}, False))))
    assert [(r["line"], reason in r["reason"]) for r in read(out / "rejects.jsonl")] == [(31, True)]


def test_feedback_has_one_answer_and_a_thumb(workspace: Path) -> None:
    items = [row | {"liked": i % 2 == 0} for i, row in enumerate(numbered(40))]
    items[3]["liked"] = "yes"
    template = {
        "prompt": [{"role": "user", "content": "{question}"}],
        "completion": [{"role": "assistant", "content": "{answer}"}],
        "label": "{liked}",
    }
    write_rows(workspace, items)
    out = run(workspace, recipe(sets={"feedback": {"near_duplicates": False, "rows": [rows("mine", template)]}}))
    kept = read(out / "feedback/train.jsonl")
    assert {row["label"] for row in kept} == {True, False}
    assert kept[0]["completion"][0]["role"] == "assistant"
    assert [row["reason"] for row in read(out / "rejects.jsonl")] == ["'label' is 'yes', not true or false"]
    spelt = [row | {"liked": row["liked"] if row["liked"] == "yes" else str(row["liked"])} for row in items]
    write_rows(workspace, spelt)  # as a CSV holds them
    again = run(workspace, recipe(sets={"feedback": {"near_duplicates": False, "rows": [rows("mine", template)]}}))
    assert read(again / "feedback/train.jsonl") == kept


def test_a_kind_of_set_may_come_several_times_by_name(workspace: Path) -> None:
    write_rows(workspace, numbered(60))
    every = {name: {"near_duplicates": False, "rows": [rows("mine", SFT)]} for name in ("sft", "sft:rationales")}
    out = run(workspace, recipe(sets=every))
    ids = [{row["messages"][0]["content"] for row in read(out / f"{n}/train.jsonl")} for n in ("sft", "sft-rationales")]
    assert ids[0] == ids[1], "a row is in one split, whatever set it is in"


def test_an_sft_row_may_say_what_is_learnt_of_it(workspace: Path) -> None:
    turns = [{"role": "user", "content": "{question}"}, {"role": "assistant", "content": "{answer}"}]
    check, said = {"role": "user", "content": "Check it."}, {"role": "assistant", "content": "Right."}
    template = {"prompt": [*turns, check], "completion": [said]}
    write_rows(workspace, numbered(30))
    out = run(workspace, recipe(sets=sets(sft=(template, False))))
    row = read(out / "sft/train.jsonl")[0]
    assert [m["role"] for m in row["prompt"] + row["completion"]] == ["user", "assistant"] * 2
    assert "messages" not in row
    for bad, reason in (
        ({"prompt": turns, "completion": [said]}, "'prompt' ends with assistant"),
        ({"prompt": turns[:1], "completion": [check]}, "'completion' does not alternate"),
        ({"completion": [said]}, "needs prompt"),
    ):
        with pytest.raises(DataError, match=reason):
            run(workspace, recipe(sets=sets(sft=(bad, False)), max_bad_share=0.5))
