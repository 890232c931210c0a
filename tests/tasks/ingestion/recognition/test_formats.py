"""Formats: rows as others publish them are recognised, and their maps make rows of every set that they name."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.ingestion.mapping import check_map
from tasks.ingestion.recognition.formats import mapped, recognise
from tasks.ingestion.recognition.sample import look
from tasks.stage.errors import DataError
from tests.support.data_stage import write_rows

ASKED, SAID = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
OTHER = {"role": "assistant", "content": "b"}
FORMATS: dict[str, tuple[dict[str, Any], str, str]] = {
    "openai": ({"messages": [ASKED, SAID]}, "sft", "conversations"),
    "tools": (
        {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
        "sft",
        "conversations in other keys",
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        "sft",
        "conversations in other keys",
    ),
    "json": ({"chat": json.dumps([ASKED, SAID])}, "sft", "conversations kept as JSON"),
    "transcript": ({"text": "### Human: q\n### Assistant: a"}, "sft", "conversations in other keys"),
    "alpaca": ({"instruction": "q", "input": None, "output": "a"}, "sft", "instruction, input, output"),
    "answers": ({"question": "q", "reply": "a", "topic": "t"}, "sft", "questions and answers"),
    "squad": ({"context": "c", "question": "q", "answers": {"text": ["a"]}}, "sft", "questions and answers about"),
    "completion": ({"prompt": "q", "completion": "a"}, "sft", "questions and answers"),
    "completions": ({"prompt": [ASKED], "completion": [SAID]}, "sft", "prompt and completion"),
    "pairs": ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preferences", "preferences, standard"),
    "implicit": ({"chosen": [ASKED, SAID], "rejected": [ASKED, OTHER]}, "preferences", "preferences, conversational"),
    "explicit": ({"prompt": [ASKED], "chosen": [SAID], "rejected": [OTHER]}, "preferences", "preferences, convers"),
    "mixed": ({"prompt": "q", "chosen": [SAID], "rejected": [OTHER]}, "preferences", "preferences, a prompt of text"),
    "ranked": (
        {"instruction": "q", "completions": [{"response": "b", "score": 1}, {"response": "a", "score": 2}]},
        "preferences",
        "ranked answers",
    ),
    "unpaired": ({"prompt": "q", "completion": "a", "label": True}, "feedback", "unpaired"),
    "texts": ({"text": "once"}, "pretrain", "texts"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_recognised_and_its_maps_make_rows(workspace: Path, name: str) -> None:
    row, kind, title = FORMATS[name]
    write_rows(workspace, [row] * 3)
    found = recognise(look("rows.jsonl", "CC0-1.0"))
    assert found.name.startswith(title)
    assert next(iter(found.maps)) == kind
    assert found.sure == 1
    for other, maps in found.maps.items():
        for template in maps:
            name_of_set = "eval:x" if other == "eval" else other
            check_map("map", name_of_set, template, set(row))
            assert mapped(name_of_set, template, row)


def test_a_pair_is_the_right_way_round_whatever_its_form(workspace: Path) -> None:
    for name in ("pairs", "implicit", "explicit", "mixed", "ranked"):
        write_rows(workspace, [FORMATS[name][0]] * 3)
        found = recognise(look("rows.jsonl", "CC0-1.0"))
        assert found.after["chosen"] == [SAID], name
        assert found.after["rejected"] == [OTHER], name
        asked = mapped("eval:x", found.maps["eval"][0], FORMATS[name][0])
        assert (asked["question"], asked["answer"], asked["worse"]) == ("q", "a", "b"), name


def test_the_answer_behind_four_hashes_is_what_is_checked(workspace: Path) -> None:
    write_rows(workspace, [{"question": "q", "answer": "1 + 1\n#### 2"}] * 3)
    found = recognise(look("rows.jsonl", "CC0-1.0"))
    assert mapped("prompts", found.maps["prompts"][0], found.before)["answer"] == "2"
    assert found.after["messages"][1]["content"] == "1 + 1\n#### 2"


@pytest.mark.parametrize(
    ("value", "key"), [("a.png", "images"), ({"bytes": None, "path": "a.wav"}, "audio"), (["a.jpg", "b.jpg"], "images")]
)
def test_pictures_and_sounds_are_seen(workspace: Path, value: Any, key: str) -> None:
    write_rows(workspace, [{"shown": value, "question": "q", "answer": "a"}] * 3)
    found = recognise(look("rows.jsonl", "CC0-1.0"))
    assert found.media == key
    assert found.maps["sft"][0][key] == ["{shown}"]


def test_how_sure_it_is_and_why_rows_are_bad(workspace: Path) -> None:
    write_rows(workspace, [*[{"question": "q", "answer": "a"}] * 3, {"question": "q", "answer": None}])
    found = recognise(look("rows.jsonl", "CC0-1.0"))
    assert found.sure == 0.75
    assert found.reasons == {"'answer' is null": 1}


def test_what_is_not_recognised_is_named_with_its_columns_and_a_map(workspace: Path) -> None:
    write_rows(workspace, [{"foo": "x", "bar": 1}] * 3)
    with pytest.raises(DataError, match=r"rows\.jsonl: its format is not known; its columns are foo, bar.*map: \{"):
        recognise(look("rows.jsonl", "CC0-1.0"))
    write_rows(workspace, [{"question": "q", "answer": None}] * 3)
    with pytest.raises(DataError, match="3 of 3 rows fail: 'answer' is null"):
        recognise(look("rows.jsonl", "CC0-1.0"))


def test_lines_that_are_no_rows_are_counted(workspace: Path) -> None:
    write_rows(workspace, [{"question": "q", "answer": "a"}, "{", "[]"])
    sample = look("rows.jsonl", "CC0-1.0")
    assert (sample.total, sample.unreadable, sample.at_least) == (1, 2, False)
    write_rows(workspace, ["{"])
    with pytest.raises(DataError, match="not one row that can be read, of 1 lines"):
        look("rows.jsonl", "CC0-1.0")


@pytest.mark.parametrize("label", [("good", "bad"), (1, 0), ("thumbs", "none"), ("true", "false")])
def test_a_verdict_that_is_not_true_or_false_is_no_answer_to_learn_from(tmp_path: Path, label: tuple[Any, Any]) -> None:
    rows = [{"prompt": f"q{i}", "completion": f"a{i}", "label": label[i % 2]} for i in range(10)]
    write_rows(tmp_path, rows, "rated.jsonl")
    sample = look(str(tmp_path / "rated.jsonl"), "CC0-1.0")
    if label == ("true", "false"):
        assert recognise(sample).name.startswith("unpaired")
    elif label == ("thumbs", "none"):  # no verdict that is known: a topic, for instance
        assert recognise(sample).name == "questions and answers"
    else:
        with pytest.raises(DataError, match=r"column 'label' is a verdict, .* write it so for `--methods kto`"):
            recognise(sample)


def test_a_label_that_is_the_answer_is_no_verdict(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"question": f"q{i}", "label": ("yes", "no")[i % 2]} for i in range(10)], "asked.jsonl")
    assert recognise(look(str(tmp_path / "asked.jsonl"), "CC0-1.0")).name == "questions and answers"


def test_columns_of_several_types_are_described(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": {"text": "a"} if i % 2 else "a"} for i in range(10)]
    write_rows(tmp_path, rows, "mixed.jsonl")
    with pytest.raises(DataError, match=r"columns are question, answer \(5 text, 5 objects\)"):
        recognise(look(str(tmp_path / "mixed.jsonl"), "CC0-1.0"))
