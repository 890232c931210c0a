"""Filters of a map: what each makes of a value, what each refuses, and names of columns that look like filters."""

import json
from typing import Any

import pytest

from tasks.ingestion.mapping import check_map, columns, render, validate
from tasks.ingestion.values import BadRow
from tasks.stage.errors import DataError

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def test_json_text_becomes_the_value_that_it_spells() -> None:
    assert render("{chat|json}", {"chat": json.dumps(TALK)}) == TALK
    assert render("{n|json}", {"n": 3}) == 3
    with pytest.raises(BadRow, match="'chat' is text that is no JSON"):
        render("{chat|json}", {"chat": "[{"})


@pytest.mark.parametrize("row", [{"input": None}, {}])
def test_a_default_stands_for_a_column_that_is_null_or_absent(row: dict[str, Any]) -> None:
    assert render("{input|default()}", row) == ""
    assert render("a {input|default(b: c)} d", row) == "a b: c d"
    with pytest.raises(BadRow, match="'input'"):
        render("{input}", row)
    assert render("{input|default(x)}", {"input": "y"}) == "y"


def test_a_column_with_a_default_need_not_be_in_the_source() -> None:
    check_map("map", "eval:x", {"question": "{q}{input|default()}", "answer": "{a}"}, {"q", "a"})
    with pytest.raises(DataError, match="no column 'input'"):
        check_map("map", "eval:x", {"question": "{input|default()}{input}", "answer": "{a}"}, {"q", "a"})


def test_a_name_with_something_else_behind_a_bar_is_a_name() -> None:
    assert columns("{a|b}") == {"a|b"}
    assert render("{a|b}", {"a|b": 1}) == 1
    assert columns("{a|json|turns}") == {"a"}
    assert render("{a|json:x(.)}", {"a": '"xy"'}) == "y"


def test_a_path_leads_through_mappings_and_lists() -> None:
    row = {"answers": {"text": ["x", "y"]}}
    assert render("{answers|get(text.0)}", row) == "x"
    assert render("{answers|get(text.-1)}", row) == "y"
    for path in ("text.2", "words", "text.x"):
        with pytest.raises(BadRow, match=f"nothing at '{path}'"):
            render(f"{{answers|get({path})}}", row)


def test_the_best_and_the_worst_of_ranked_answers() -> None:
    row = {"c": [{"r": "a", "s": {"n": 2}}, {"r": "b", "s": {"n": "7.5"}}, {"r": "c", "s": {"n": 1}}]}
    assert render("{c|best(s.n)|get(r)}", row) == "b"
    assert render("{c|worst(s.n)|get(r)}", row) == "c"
    with pytest.raises(BadRow, match="none better than another"):
        render("{c|best(s)}", {"c": [{"s": 1}, {"s": 1}]})
    with pytest.raises(BadRow, match="without a number at 's'"):
        render("{c|best(s)}", {"c": [{"s": "good"}, {"s": 1}]})
    with pytest.raises(BadRow, match="no list of at least two"):
        render("{c|best(s)}", {"c": [{"s": 1}]})


def test_turns_of_sharegpt_get_our_keys_and_roles_and_keep_their_weights() -> None:
    said = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "hi"},
        {"from": "gpt", "value": "ho", "weight": 0},
        {"from": "human", "value": "and?"},
        {"from": "gpt", "value": "so"},
    ]
    turns = render("{conversations|turns}", {"conversations": said})
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert turns[2] == {"role": "assistant", "content": "ho", "weight": 0}
    assert validate("sft", {"messages": turns})["messages"][2]["weight"] == 0


def test_tool_calls_and_their_results_become_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    said = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
        {"role": "assistant", "content": "42"},
    ]
    turns = render("{m|turns}", {"m": said})
    written = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    results = "<tool_response>\n4\n</tool_response>\n<tool_response>\n2\n</tool_response>"
    assert [turn["content"] for turn in turns] == ["hi", f"{written}\n{written}", results, "42"]
    assert validate("sft", {"messages": turns})["messages"] == turns


def test_a_transcript_is_parted_at_its_speakers() -> None:
    turns = render("{t|turns}", {"t": "\n\nHuman: Is it?\nReally?\n\nAssistant: Yes: it is."})
    assert turns == [
        {"role": "user", "content": "Is it?\nReally?"},
        {"role": "assistant", "content": "Yes: it is."},
    ]
    with pytest.raises(BadRow, match="text without turns"):
        render("{t|turns}", {"t": "Once upon a time"})


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        ({"value": "x"}, "a turn without a role"),
        ({"from": "narrator", "value": "x"}, "the role 'narrator'"),
        ({"from": "human", "value": [{"type": "image_url"}]}, "a part of the type 'image_url'"),
        ({"from": "human", "value": 3}, "a content that is int"),
        ("x", "a turn that is no mapping"),
    ],
)
def test_a_turn_that_is_none_is_a_bad_row(turn: Any, why: str) -> None:
    with pytest.raises(BadRow, match=why):
        render("{m|turns}", {"m": [turn]})


def test_the_first_and_the_last_of_a_role() -> None:
    row = {"m": [*TALK, {"role": "user", "content": "hu"}]}
    assert render("{m|first(user)} {m|last(user)} {m|last(assistant)}", row) == "hi hu ho"
    with pytest.raises(BadRow, match="no message of the role 'system'"):
        render("{m|first(system)}", row)
