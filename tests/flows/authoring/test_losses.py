"""What nothing would be learnt from: refused where it is most of a set, and said where it is a part."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.authoring import command
from tasks.stage.errors import ConfigError
from tests.support import data_stage, own_data


@pytest.fixture
def home(workspace: Path, chat_model: Path) -> Path:
    own_data.prepare(workspace, chat_model)
    return workspace


def new(name: str, rows: list[dict[str, Any]], methods: str = "sft", benchmarks: str | None = None) -> None:
    data_stage.write_rows(Path("data"), rows, f"{name}.jsonl")
    command.main(name, "models/llama", [f"data/{name}.jsonl"], methods, benchmarks, "CC0-1.0", yes=True)


def talks(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"question": own_data.question(i), "answer": own_data.reply(i), **more} for i in range(count)]


def rated(labels: list[bool]) -> list[dict[str, Any]]:
    return [{"prompt": own_data.question(i), "completion": own_data.reply(i), "label": v} for i, v in enumerate(labels)]


@pytest.mark.parametrize(
    ("rows", "methods", "benchmarks", "message"),
    [
        (
            talks(1),
            "sft",
            None,
            r"data/bad\.jsonl: about 1 usable and different rows for the set 'sft', and 20 or more",
        ),
        (talks(1) * 60, "sft", None, "about 1 usable and different rows"),
        ([*talks(16), *[{"question": f"Why {i}?", "answer": ""} for i in range(14)]], "sft", None, "about 16 usable"),
        ([row | {"question": "why " * 300} for row in talks(60)], "sft", None, "in 100% of the rows of the set 'sft'"),
        (rated([True] * 60), "kto", "gsm8k", "the verdict on all replies looked at is true"),
        (rated([True, False] * 30), "kto", None, "no answer to measure a model by.*`--methods sft,kto`"),
        (talks(60), "sft", "gsm8", "--benchmarks: .*no task 'gsm8'; did you mean 'gsm8k'"),
    ],
)
def test_rows_that_teach_nothing_are_refused(
    home: Path, rows: list[dict[str, Any]], methods: str, benchmarks: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        new("bad", rows, methods, benchmarks)
    assert not Path("params/bad").exists()


def test_what_is_not_learnt_is_said_and_not_counted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*talks(60, topic="lamps"), *talks(20, topic="lamps"), *[{"question": "Why?", "answer": ""}] * 20]
    new("some", rows)
    shown = capsys.readouterr().out
    assert "data/some.jsonl: nothing is learnt from column topic" in shown
    assert "20 of 100 rows looked at stand there already; each is learnt once" in shown
    assert "about 37 train" in shown, "of 60 rows: neither bad ones nor copies count"


def test_rows_that_will_be_cut_are_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("models/llama/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 128}))
    new("long", [row if i % 4 else row | {"answer": "Wait. " * 80 + str(i)} for i, row in enumerate(talks(60))])
    assert "of the rows of the set 'sft' are longer than 128 tokens, and are cut there" in capsys.readouterr().out
