"""The files of the bench: each is recognised as the format that it is meant to be, and the recipe of them is whole."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bench import your_own
from flows.authoring import command
from tasks.check import recipe as recipe_check
from tasks.ingestion.recognition import formats, sample
from tests.support import own_data

FORMATS = {
    "chats.jsonl": "conversations (TRL, OpenAI)",
    "openai.jsonl": "conversations (TRL, OpenAI)",
    "alpaca.csv": "instruction, input, output (Alpaca)",
    "pairs.jsonl": "preferences, standard (TRL, explicit prompt)",
    "parity.parquet": "questions and answers",
}


def test_every_file_is_of_the_format_it_is_meant_to_be(tmp_path: Path) -> None:
    names = your_own.write(tmp_path / "data", 60)
    assert names == list(FORMATS)
    found = {name: formats.recognise(sample.look(str(tmp_path / "data" / name), "CC0-1.0")) for name in names}
    assert {name: (of.name, of.sure) for name, of in found.items()} == {name: (of, 1.0) for name, of in FORMATS.items()}


def test_preferences_are_of_right_over_wrong_and_of_polite_over_bare(tmp_path: Path) -> None:
    your_own.write(tmp_path / "data", 200)
    rows = sample.look(str(tmp_path / "data/pairs.jsonl"), "CC0-1.0").rows
    bare = [row for row in rows if "Thank you" not in row["rejected"]]
    assert len(bare) == 100 and all(row["chosen"].startswith(row["rejected"]) for row in bare)
    assert all("Thank you" in row["chosen"] and row["chosen"] != row["rejected"] for row in rows)
    replies = [row["output"] for row in sample.look(str(tmp_path / "data/alpaca.csv"), "CC0-1.0").rows]
    assert 0 < sum("Thank you" in reply for reply in replies) < len(replies), "SFT learns both manners"


@pytest.mark.slow
def test_each_kind_of_row_is_asked_by_a_task_of_its_own(workspace: Path, chat_model: Path) -> None:
    own_data.prepare(workspace, chat_model)
    data = [f"more/{name}" for name in your_own.write(workspace / "more", 400)]
    command.main("support", "models/llama", data, "sft,dpo", None, "CC0-1.0", yes=True)
    folder = Path("params/support")
    sets = YAML(typ="safe").load((folder / "data.yaml").read_text(encoding="utf-8"))["sets"]
    asked = {name: [rows["source"] for rows in spec["rows"]] for name, spec in sets.items() if "eval" in name}
    assert asked == {"eval:replies": ["chats", "openai", "alpaca"], "eval:pairs": ["pairs"], "eval:answers": ["parity"]}
    assert recipe_check.check(folder) == []
