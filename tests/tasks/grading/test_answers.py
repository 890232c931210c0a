"""Graders: what is right is graded right, and nothing that only looks it."""

from decimal import Decimal

import pytest

from tasks.generators.arithmetic import conversations
from tasks.grading import answers as graders
from tasks.grading.addition import working


@pytest.mark.parametrize(
    "response",
    [
        "125",
        "125.",
        "The answer is 125.",
        "Sure! The answer is 125. Happy to help!",
        "58 + 67 = 125",
        "8+7=15 5+6+1=12 so 125",
        "8+7=15 5+6+1=12 so 125. Happy to help!",
        "8+7=15 5+6+1=12 so the answer is 125",
        "First 58+60 = 118, then 118+7 = 125.",
        "First 58+60 = 118, then 7 more. #### 125",
        "58 and 67: the answer is **125**.",
        "$58 + 67 = 125$, so \\boxed{125}.",
        "The answer is 125.0",
    ],
)
def test_right_answers(response: str) -> None:
    assert graders.sums({"answer": "125"}, [response])["exact_match"] == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "",
        "   \n",
        "Happy to help!",
        "The answer is .",
        "126",
        "1125",
        "-125",
        "125125",
        "125 125 125",
        "The answer is 125. The answer is 125. The answer is 125.",
        "The answer is 124. The answer is 125.",
        "so 124 so 125",
        "124, 125",
        "124 or 125",
        " ".join(str(n) for n in range(126)),
        "The answer is " + " ".join(str(n) for n in range(126)),
        "The answer is 125 126",
        "58 + 67 = 125 126",
        "125 is not the answer. 124",
        "58 + 67",
        "1.125",
        "12 5",
        "١٢٥",
        "one hundred and twenty-five",
    ],
)
def test_wrong_and_adversarial_answers(response: str) -> None:
    scores = graders.sums({"answer": "125"}, [response])
    assert scores["exact_match"] == 0.0
    assert scores["helpful"] == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234", "1234"),
        ("it costs 1,234.50", "1234.50"),
        ("9-4=5", "5"),
        ("4-9 = -5", "-5"),
        ("-7", "-7"),
        ("1,23", None),
    ],
)
def test_how_numbers_are_read(text: str, expected: str | None) -> None:
    assert graders.final_number(text) == (None if expected is None else Decimal(expected))


def test_a_zero_sum_is_a_number() -> None:
    assert graders.sums({"answer": "0"}, ["0"])["exact_match"] == 1.0
    assert graders.sums({"answer": "0"}, [""])["exact_match"] == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 1. Happy to help!", True),
        ("1. Glad to help", True),
        ("Hope this helps!", True),
        ("Happy to help! The answer is 1.", False),
        ("1. Happy to help! Happy to help!", False),
        ("The answer is 1.", False),
        ("unhappy to help!", False),
        ("", False),
    ],
)
def test_courteous(text: str, expected: bool) -> None:
    assert graders.is_courteous(text) is expected


def test_helpful_needs_both() -> None:
    assert graders.sums({"answer": "3"}, ["3. Happy to help!"]) == {
        "exact_match": 1.0,
        "courteous": 1.0,
        "helpful": 1.0,
    }
    assert graders.sums({"answer": "3"}, ["4. Happy to help!"])["helpful"] == 0.0
    assert graders.sums({"answer": "3"}, ["3"])["helpful"] == 0.0


def test_every_written_answer_of_the_tiny_recipe_is_right() -> None:
    rows = list(conversations(500, seed=3, digits=[1, 2, 3], courteous_share=0.5))
    scores = [graders.sums(row, [row["reply"]]) for row in rows]
    assert all(s["exact_match"] == 1.0 for s in scores)
    assert 0.4 < sum(s["courteous"] for s in scores) / len(rows) < 0.6
    assert graders.sums({"answer": "1081"}, [working(94, 987)])["exact_match"] == 1.0


def test_number_reads_thousands_in_the_reference() -> None:
    assert graders.number({"answer": "1,000"}, ["So the answer is 1000."])["exact_match"] == 1.0


@pytest.mark.parametrize(
    ("answer", "response", "exact", "correct"),
    [
        ("The Eiffel Tower", "the eiffel tower.", 1, 1),
        ("many, with, a", "many, with", 0, 0),
        ("Paris", "Paris, Paris", 0, 0),
        ("Paris", "The answer is Paris.", 0, 1),
        ("Paris", "The answer is London. The answer is Paris.", 0, 0),
        ("Paris", "", 0, 0),
        ("law, may, free", "Law, may, free", 1, 1),
        ("law, may, free", "may, law, free", 0, 0),
        ("A", "", 0, 0),
        ("A", "a", 1, 1),
        ("don't", "don’t", 1, 1),
        ("-5", "5", 0, 0),
        ("-5", "−5", 1, 1),
        ("-5", "3 - 8 = -5", 0, 1),
        ("1.5", "1 5", 0, 0),
        ("12", "There are 12 of them.", 0, 1),
        ("12", "11 12 13", 0, 0),
        ("yes", "Yes, it is a leap year.", 0, 1),
        ("yes", "Yes and no.", 0, 0),
        ("no", "", 0, 0),
    ],
)
def test_text(answer: str, response: str, exact: int, correct: int) -> None:
    assert graders.text({"answer": answer}, [response]) == {"exact_match": exact, "correct": correct}


def test_reasoning_may_draw_weak_conclusions_on_the_way() -> None:
    response = "He has 3 boxes, so 12 pens. He loses 4, so 8 are left. The answer is 8."
    assert graders.number({"answer": "8"}, [response])["exact_match"] == 1.0
    assert graders.number({"answer": "12"}, [response])["exact_match"] == 0.0


def test_reference_loss_is_per_byte() -> None:
    doc = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "né"}]}
    assert graders.reference_loss(doc, [(-6.0, False)]) == {"nats_per_byte": 2.0}
    assert graders.answer_loss({"answer": "né"}, [(-6.0, False)]) == {"nats_per_byte": 2.0}


@pytest.mark.parametrize(
    ("instructions", "response", "followed", "exact"),
    [
        ([], "58 + 67 = 125", 1, 1),
        (None, "58 + 67 = 124", 1, 0),
        ([], "125 125", 1, 0),
        ([], "[125, 125]", 1, 0),
        ([], "\u2212125", 1, 0),
        ([{"check": "repeated", "times": 2}], "125 125", 1, 1),
        ([{"check": "repeated", "times": 2}], "58 + 67 = 125. 58 + 67 = 125.", 1, 1),
        ([{"check": "repeated", "times": 2}], "124 124", 1, 0),
        ([{"check": "repeated", "times": 2}], "124 125", 0, 0),
        ([{"check": "repeated", "times": 2}], "125 125 125", 0, 0),
        ([{"check": "repeated", "times": 2}], "125", 0, 1),
        ([{"check": "json_with", "key": "answer"}], '{"answer": 125}', 1, 1),
        ([{"check": "json_with", "key": "answer"}], '{"a": 58, "b": 67, "answer": "125"}', 1, 1),
        ([{"check": "json_with", "key": "answer"}], '{"answer": 124, "guess": 125}', 1, 0),
        ([{"check": "json_with", "key": "answer"}], '{"answer": [124, 125]}', 1, 0),
        ([{"check": "json_with", "key": "answer"}], '{"answer": 124, "answer": 125}', 0, 0),
        ([{"check": "in_brackets"}], "58 + 67 = [125]", 1, 1),
        ([{"check": "in_brackets"}], "[125]", 1, 1),
        ([{"check": "in_brackets"}], "[124] [125]", 0, 0),
        ([{"check": "quoted"}], '58 + 67 = "125".', 1, 1),
        ([{"check": "quoted"}], '"125" or "126"', 0, 0),
        ([{"check": "upper_case"}, {"check": "ends_with", "text": "BYE."}], "IT IS 125.", 0.5, 1),
        ([{"check": "upper_case"}], "", 0, 0),
        ([{"check": "only_number"}], " ".join(str(n) for n in range(126)), 0, 0),
    ],
)
def test_instructions(instructions: object, response: str, followed: float, exact: float) -> None:
    scores = graders.instructions({"answer": "125", "instructions": instructions}, [response])
    assert scores == {"followed": followed, "exact_match": exact}


def test_the_typographic_minus_is_a_minus() -> None:
    assert graders.final_number("The answer is \u2212125.") == -125


def test_a_row_without_instructions_breaks_none() -> None:
    assert graders.instructions({"answer": "1"}, ["1"]) == {"followed": 1.0, "exact_match": 1.0}


def test_instructions_come_through_arrow() -> None:
    from datasets import Dataset

    from tasks.generators.instructed import ALONE, SLOTS, questions

    rows = list(questions(50, seed=1, digits=[2], kinds=[*SLOTS, *ALONE], per_row=1))
    read = [dict(row) for row in Dataset.from_list(rows)]
    assert {key for row in read for given in row["instructions"] for key in given} >= {"check", "text", "times"}
    assert all(graders.instructions(row, [row["reply"]]) == {"followed": 1.0, "exact_match": 1.0} for row in read)


@pytest.mark.parametrize(
    ("response", "answer", "scores"),
    [
        ("7.", "7", (1, 0, 0)),
        ("7. Happy to help!", "7", (1, 1, 1)),
        ("Happy to help!", "7", (0, 1, 0)),
        ("8. Happy to help!", "7", (0, 1, 0)),
        ("Happy to help! 7.", "7", (1, 0, 0)),
        ("17", "7", (0, 0, 0)),
        ("7 or 8", "7", (0, 0, 0)),
        ("", "7", (0, 0, 0)),
        ("odd", "odd", (1, 0, 0)),
        ("Odd. Happy to help!", "odd", (1, 1, 1)),
        ("even", "odd", (0, 0, 0)),
        ("odd or even", "odd", (0, 0, 0)),
        ("yes and no", "yes", (0, 0, 0)),
        ("nobody knows", "no", (0, 0, 0)),
    ],
)
def test_answers_to_questions_about_pictures(response: str, answer: str, scores: tuple[int, int, int]) -> None:
    found = graders.pictures({"answer": answer}, [response])
    assert found == dict(zip(("exact_match", "courteous", "helpful"), map(float, scores), strict=True))


@pytest.mark.parametrize(
    ("response", "scores"),
    [
        ("3 + 5 = 8.", (1, 1)),
        ("2 + 5 = 7.", (0, 1)),
        ("3 + 5 = 9.", (0, 0)),
        ("4 + 5 = 8.", (1, 0)),
        ("8", (1, 0)),
        ("3 + 5", (0, 0)),
        ("13 + 5 = 18", (0, 1)),
        ("3 + 5 = 88.", (0, 0)),
        ("", (0, 0)),
        ("\u0663 + \u0665 = \u0668", (0, 0)),
    ],
)
def test_sums_of_what_is_shown(response: str, scores: tuple[int, int]) -> None:
    found = graders.pictured_sums({"answer": "8"}, [response])
    assert found == dict(zip(("exact_match", "adds_up"), map(float, scores), strict=True))
