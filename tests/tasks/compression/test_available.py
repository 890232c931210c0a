"""Rows that nobody named: the first sets that have some, measured on held-out rows and calibrated on training rows."""

from pathlib import Path
from typing import Any

import pytest

from tasks.compression import available, held_out
from tasks.compression.calibration import Calibration, conversation, draw
from tasks.models.folder import load_tokenizer
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError, DataError

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "2"},
]
ROWS: dict[str, list[dict[str, Any]]] = {
    "prompts/validation.jsonl": [{"id": "p", "prompt": [{"role": "user", "content": "P?"}], "answer": "p"}],
    "eval/a.jsonl": [{"id": f"a{i}", "question": f"A{i}?", "answer": f"a{i}"} for i in range(3)],
    "eval/b.jsonl": [{"id": "b", "question": "B?", "answer": "b"}],
    "sft/validation.jsonl": [{"id": "s", "messages": CHAT}],
    "sft/train.jsonl": [{"id": f"t{i}", "messages": [{**CHAT[1], "content": f"T{i}?"}, CHAT[2]]} for i in range(4)],
    "preferences/validation.jsonl": [
        {"id": "c", "prompt": CHAT[:2], "chosen": [CHAT[2]], "rejected": [{**CHAT[2], "content": "9"}]},
        {"id": "d", "chosen": CHAT[:3], "rejected": [*CHAT[:2], {**CHAT[2], "content": "9"}]},
    ],
    "preferences/train.jsonl": [{"id": "e", "prompt": CHAT[:2], "chosen": [CHAT[2]], "rejected": [CHAT[4]]}],
    "feedback/validation.jsonl": [{"id": "f", "prompt": CHAT[:2], "completion": [CHAT[2]], "label": True}],
    "feedback/train.jsonl": [
        {"id": name, "prompt": CHAT[:2], "completion": [CHAT[2]], "label": name == "good"} for name in ("bad", "good")
    ],
}
ANSWERS = {"answers": None, "answer_rows": 2, "prompts": None, "prompt_rows": 2}


def write(data: Path, *leave_out: str) -> Path:
    """Write the sets of `ROWS`, but for those whose folder is named."""
    for name, rows in ROWS.items():
        if name.split("/")[0] not in leave_out:
            artifact.write_jsonl(data / name, rows)
    return data


def asked(data: Path) -> list[tuple[str, str]]:
    return [(one.file, one.row["prompt"][-1]["content"]) for one in available.prompts(data)]


def test_prompts_come_from_the_first_sets_that_have_some(tmp_path: Path) -> None:
    assert asked(write(tmp_path / "1")) == [("prompts/validation.jsonl", "P?")]
    by_turns = [("eval/a.jsonl", "A0?"), ("eval/b.jsonl", "B?"), ("eval/a.jsonl", "A1?"), ("eval/a.jsonl", "A2?")]
    assert asked(write(tmp_path / "2", "prompts")) == by_turns
    (first,) = available.prompts(write(tmp_path / "3", "prompts", "eval"))
    assert first.row == {"id": "s", "prompt": CHAT[:2], "answer": "1"}, "the first turn, and the answer it was given"
    pairs = available.prompts(write(tmp_path / "4", "prompts", "eval", "sft"))
    assert [one.row["prompt"] for one in pairs] == [CHAT[:2]] * 2
    assert asked(write(tmp_path / "5", "prompts", "eval", "sft", "preferences")) == [
        ("feedback/validation.jsonl", "One?")
    ]
    with pytest.raises(DataError, match=r"no held-out prompt.*eval/\*\.jsonl.*add an `eval:` set"):
        available.prompts(write(tmp_path / "6", "prompts", "eval", "sft", "preferences", "feedback"))


def test_a_set_that_lost_all_its_rows_counts_as_none(tmp_path: Path) -> None:
    data = write(tmp_path)
    (data / "prompts/validation.jsonl").write_text("")
    assert asked(data)[0] == ("eval/a.jsonl", "A0?")


@pytest.mark.parametrize("name", ["sft/train", "preferences/train", "eval/a"])
def test_a_set_in_shards_is_refused_and_not_passed_over(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / f"{name}.jsonl").unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "00000.parquet").touch()
    if not name.startswith("sft"):
        (tmp_path / "sft/train.jsonl").unlink()
    with pytest.raises(ArtifactError, match=rf"{name}.jsonl: its rows are in shards"):
        available.answers(tmp_path, "train") if name.endswith("train") else held_out_questions(tmp_path)


def held_out_questions(data: Path) -> list[available.Taken]:
    """Prompts of the evaluation sets: the sets before them are taken away."""
    (data / "prompts/validation.jsonl").unlink()
    return available.prompts(data)


def test_rows_with_pictures_are_for_models_that_see(tmp_path: Path) -> None:
    row = {"id": "i", "question": "Which?", "answer": "5", "images": ["5.png"]}
    artifact.write_jsonl(tmp_path / "eval/seen.jsonl", [row, {"id": "w", "question": "Words?", "answer": "w"}])
    assert [one.row["question"] for one in available.prompts(tmp_path)] == ["Words?"]
    assert [one.row["images"] for one in available.prompts(tmp_path, media=True)] == [["5.png"]]


def test_what_changes_weights_is_of_training_rows_alone(tmp_path: Path) -> None:
    assert {one.file for one in available.answers(write(tmp_path / "1"), "train")} == {"sft/train.jsonl"}
    (pair,) = available.answers(write(tmp_path / "2", "sft"), "train")
    assert conversation(pair.row) == [*CHAT[:2], CHAT[2]] and "rejected" not in pair.row
    (good,) = available.answers(write(tmp_path / "3", "sft", "preferences"), "train")
    assert good.row["id"] == "good", "a bad answer is nothing to learn from"
    questions = write(tmp_path / "4", "sft", "preferences", "feedback")
    with pytest.raises(DataError, match="no train row with an answer"):
        available.answers(questions, "train")
    assert conversation(available.answers(questions, "validation")[0].row)[-1]["content"] == "a0"


def test_the_report_says_which_rows_were_taken(tmp_path: Path) -> None:
    base: dict[str, Any] = {**ANSWERS, "max_new_tokens": 4, "chat_template_args": {}}
    data = write(tmp_path, "prompts")
    taken = held_out.read(held_out.HeldOut(**base), data)
    assert taken.record == {
        "answers": {"files": {"sft/validation.jsonl": 1}, "rows": 1, "by_default": True},
        "prompts": {"files": {"eval/a.jsonl": 1, "eval/b.jsonl": 1}, "rows": 2, "by_default": True},
    }
    assert [row["question"] for row in taken.prompts] == ["A0?", "B?"]
    named = held_out.read(held_out.HeldOut(**(base | {"answers": "sft", "prompts": "feedback"})), data).record
    assert named["prompts"] == {"files": {"feedback/validation.jsonl": 1}, "rows": 1, "by_default": False}
    with pytest.raises(DataError, match=r"prompts/validation\.jsonl: no such data set"):
        held_out.read(held_out.HeldOut(**(base | {"prompts": "prompts"})), data)


def test_calibration_without_a_set_takes_what_there_is_and_counts_it(tmp_path: Path, chat_model: Path) -> None:
    data = write(tmp_path / "data")
    settings = Calibration(dataset=None, rows=128, max_length=64)
    ids, record = draw(settings, load_tokenizer(chat_model), data, 0, Path("quantize.yaml"))
    assert len(ids) == record["rows"] == 4 and record["files"] == {"sft/train.jsonl": 4} and record["split"] == "train"
