"""Instructions: a reply that follows them passes, the plain answer does not, and nothing passes by saying nothing."""

from typing import Any

import pytest

from tasks.generators import instructed
from tasks.grading import answers as graders
from tasks.grading import instructions
from tasks.stage.errors import ConfigError
from tests.support.rewards import fastest

KINDS = [*instructed.SLOTS, *instructed.ALONE]


def rows(kinds: list[str], per_row: int = 1, count: int = 200) -> list[dict[str, Any]]:
    return list(instructed.questions(count, seed=5, digits=[1, 2, 3], kinds=kinds, per_row=per_row))


@pytest.mark.parametrize(
    ("check", "args", "passes", "fails"),
    [
        ("starts_with", {"text": "Sure!"}, ["Sure! 1", " Sure!"], ["sure! 1", "1 Sure!"]),
        ("ends_with", {"text": "Done."}, ["1. Done.", "Done.\n"], ["Done. 1", "1. Done"]),
        ("upper_case", {}, ["1. OK!", "Ä"], ["1. Ok", "1"]),
        ("lower_case", {}, ["1. ok"], ["1. Ok", "1"]),
        ("contains", {"word": "good", "times": 2}, ["Good, good."], ["good", "good good good", "goodgood"]),
        ("no_word", {"word": "="}, ["1 + 1 equals 2"], ["1 + 1 = 2"]),
        ("no_word", {"word": "sum"}, ["summer", "checksum"], ["The sum is 2", "SUM"]),
        (
            "json_with",
            {"key": "answer"},
            ['{"answer": 125}', '```json\n{"answer": "x"}\n```', '```\n{"answer": null}```'],
            ["125", '{"a": 1}', '["answer"]', '{"answer": 1} {"answer": 2}', '{"answer": 1, "answer": 2}', "```", "{"],
        ),
        ("json_with", {"key": "a", "value": "1"}, ['{"a": 1}', '{"a": "1"}'], ['{"a": 2}', '{"a": true}']),
        ("json_with", {"key": "a"}, [], ['{"a": NaN}', "[" * 10_000, "9" * 5_000]),
        ("in_brackets", {}, ["(125)", "1 + 1 = [2]", "(-1)"], ["125", "(1) (2)", "(1]", "(x)", "()"]),
        ("quoted", {}, ['"125"', "“125”"], ["125", '"1" "2"', '"x"', '""', "'1'"]),
        ("words_at_most", {"count": 2}, ["It is", "1"], ["It is 1"]),
        ("repeated", {"times": 2}, ["1 1", "1, 1.", "a b a b"], ["1", "1 2", "1 1 1", "1 1 1 1", "11", ". ."]),
        ("repeated", {"times": 2, "text": "5."}, ["5 5"], ["6 6"]),
        ("only_number", {}, ["125", " -1.5\n", "1,250"], ["125.", "1 2", "The answer is 125", "١٢"]),
    ],
)
def test_checks(check: str, args: dict[str, Any], passes: list[str], fails: list[str]) -> None:
    for response, expected in [*((r, True) for r in passes), *((r, False) for r in ["", " \n", *fails])]:
        assert instructions.followed(response, [{"check": check, **args}]) == [expected], response


def test_followed_keeps_the_order() -> None:
    asked = [{"check": "upper_case"}, {"check": "starts_with", "text": "OK"}, {"check": "only_number"}]
    assert instructions.followed("OK 1", asked) == [True, True, False]
    assert instructions.followed("OK 1", []) == []


def test_a_null_argument_is_one_not_given() -> None:
    assert instructions.followed("OK", [{"check": "upper_case", "text": None, "times": None}]) == [True]


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ({"check": "uper_case"}, r"instructions\[0\]: unknown check 'uper_case'; did you mean 'upper_case'\?"),
        ({"check": "followed"}, "unknown check 'followed'"),
        ({"check": "json_document"}, "unknown check 'json_document'"),
        ({}, "unknown check 'None'"),
        ({"check": "starts_with", "txt": "a"}, "'starts_with' missing a required argument.*its arguments are: text"),
        ({"check": "upper_case", "text": "a"}, "its arguments are: none"),
    ],
)
def test_a_wrong_instruction_is_an_error(instruction: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        instructions.followed("x", [instruction])


@pytest.mark.parametrize("check", [{"check": k} for k in ("in_brackets", "quoted", "only_number")])
def test_long_responses_are_checked_fast(check: dict[str, Any]) -> None:
    asked = [check, {"check": "repeated", "times": 2}, {"check": "json_with", "key": "a"}]
    for response in ("1" * 10_000, "(" * 10_000, '"' * 10_000, "1 " * 5_000, "```" + "\n" * 10_000 + "```"):
        assert fastest(instructions.followed, response, asked) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_reply_follows_and_the_plain_answer_does_not(kind: str) -> None:
    for row in rows([kind]):
        assert row["kinds"] == kind
        assert instructions.followed(row["reply"], row["instructions"]) == [True], row
        assert graders.instructions(row, [row["reply"]]) == {"followed": 1.0, "exact_match": 1.0}, row
        a, b = row["group"].split("+")
        for curt in (f"{a} + {b} = {row['answer']}", f"{b} + {a} = {row['answer']}."):
            assert instructions.followed(curt, row["instructions"]) == [False], row


@pytest.mark.parametrize("per_row", [2, 3, 5])
def test_generated_instructions_go_together(per_row: int) -> None:
    made = rows(list(instructed.SLOTS), per_row, count=1000)
    for row in made:
        assert len(row["instructions"]) == per_row
        assert graders.instructions(row, [row["reply"]]) == {"followed": 1.0, "exact_match": 1.0}, row
    assert {kind for row in made for kind in row["kinds"].split("+")} == set(instructed.SLOTS)


def test_rows_are_those_of_the_seed() -> None:
    assert rows(KINDS) == rows(KINDS)
    other = list(instructed.questions(200, seed=6, digits=[1, 2, 3], kinds=KINDS, per_row=1))
    assert other != rows(KINDS)
    assert {row["kinds"] for row in rows(KINDS)} == set(KINDS)
    assert {row["digits"] for row in rows(KINDS)} == {1, 2, 3}


def test_rows_are_short() -> None:
    assert max(len(row["reply"]) for row in rows(KINDS)) <= 45
    assert max(len(row["question"]) for row in rows(KINDS)) <= 60


@pytest.mark.parametrize(
    ("kinds", "per_row", "message"),
    [
        (["uper_case"], 1, "unknown kind 'uper_case'; did you mean 'upper_case'"),
        (["upper_case", "only_number"], 2, "'only_number' stands alone"),
        (["upper_case", "lower_case"], 2, "per_row is 2, but the kinds shape 1 parts"),
        (["upper_case"], 0, "per_row is 0"),
        ([], 1, "per_row is 1, but the kinds shape 0 parts"),
    ],
)
def test_kinds_that_cannot_be_drawn(kinds: list[str], per_row: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rows(kinds, per_row)
