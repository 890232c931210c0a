"""Graders: what is right is paid, what an optimiser finds first is not. `model_judge`: test_model_judge.py."""

import re
import threading
from typing import Any

import pytest

from tasks.generators.arithmetic import questions
from tasks.grading.addition import working
from tasks.rewards import functions as rewards
from tasks.rewards.composite import Rewards, RewardSpec, is_grader
from tasks.stage.errors import DataError
from tests.support.rewards import OPTIONS, SUM, WHERE, fastest, specs

RIGHT = {
    "exact": "125",
    "correct": "The answer is 125.",
    "numeric": "The answer is 125.",
    "regex": "It is 125.",
    "format": "8+7=15 5+6+1=12 so 125.",
    "json_schema": '```json\n{"answer": 125}\n```',
    "instructions": "125",
    "reasoning_gym": "<answer>125</answer>",
    "sums": "58 + 67 = 125. Happy to help!",
    "steps": "8+7=15 5+6+1=12 so 125.",
    "length_at_most": "125",
}
NUMBER_LINE = " ".join(str(n) for n in range(126))
FOOLING = [
    "",
    "  \n",
    NUMBER_LINE,
    "125 " * 100,
    "The answer is 125. The answer is 125.",
    "#### 125 #### 125",
    "#### 124 #### 125",
    "124 or 125",
    "125, 126",
    "\u2212125",
    "58 + 67",
    '{"answer": 124, "answer": 125}',
    '{"answer": 125} {"answer": 125}',
]
LONG = [
    "1" * 10_000,
    "1 " * 5_000,
    "1+" * 5_000,
    "1=" * 5_000,
    "1" + " " * 9_999,
    "=" * 10_000,
    "{" * 10_000,
    "[" * 10_000,
    "```" * 3_333,
    "\\frac{1" * 1_400,
    "\\sqrt{" + "1" * 9_990,
    "9^" * 5_000,
    "9^{99}" * 1_600,
    "\\boxed{" * 1_400,
    "<answer>" * 1_250,
    "The answer is 125. " * 500,
    "-" * 10_000,
]


def score(grader: str, response: str, row: dict[str, Any] = SUM, **options: Any) -> float:
    made = Rewards(specs(x=(grader, 1.0, {**OPTIONS[grader], **options})), WHERE)
    value = made.score("x", [response], [row])[0]
    assert made.failures == {"x": 0}, made.report()
    return value


def test_every_grader_is_tried_here() -> None:
    assert {name for name, value in vars(rewards).items() if is_grader(value)} == {*OPTIONS, "model_judge"}


@pytest.mark.parametrize("grader", RIGHT)
def test_right_responses(grader: str) -> None:
    assert score(grader, RIGHT[grader]) == 1.0


@pytest.mark.parametrize("response", FOOLING)
@pytest.mark.parametrize("grader", sorted(set(OPTIONS) - {"overlong", "length_at_most", "instructions", "regex"}))
def test_fooling_responses(grader: str, response: str) -> None:
    assert score(grader, response) == 0.0


@pytest.mark.parametrize("response", LONG)
def test_long_responses_are_graded_fast(response: str) -> None:
    made = Rewards({name: RewardSpec(grader=name, weight=1.0, options=OPTIONS[name]) for name in OPTIONS}, WHERE)
    made.totals([RIGHT["numeric"], "1/2"], [SUM, SUM])  # import what is imported late
    for name in made.names:
        assert fastest(made.score, name, [response], [SUM]) < 0.05, name
    assert not any(made.failures.values()), made.report()


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("-5", "3 - 8 = \u22125", 1),
        ("\u22125", "-5", 1),
        ("1,250", "so 1250.0", 1),
        ("0.5", "1/2", 1),
        ("1/2", "The answer is 0.5", 1),
        ("1/2", r"so \boxed{\dfrac{1}{2}}.", 1),
        ("0.5", r"$x = \frac12$", 1),
        ("0.5", r"50\%", 1),
        ("50%", "It is 50%.", 1),
        ("3.5", r"$3\frac{1}{2}$", 1),
        ("-0.75", r"#### $-\frac{3}{4}$", 1),
        (r"2\sqrt{3}", r"The answer is $2\sqrt{3}$.", 1),
        (r"\frac{\pi}{4}", "so π/4", 0),
        (r"\frac{\pi}{4}", r"\frac{\pi}{4}", 1),
        (r"10^{3}", "1000", 1),
        ("8", "Half of 16 is 1/2 of it. The answer is 8.", 1),
        ("0.5", "The answer is 1/2. The answer is 1/2.", 0),
        ("0.5", "1/2 or 1/3", 0),
        ("0.5", "1/3, 1/2", 0),
        ("0.5", r"\boxed{\frac{1}{3}} \boxed{\frac{1}{2}}", 0),
        ("0.5", "2/4", 0),
        ("3", "12/4", 0),
        ("3", r"\frac{12}{4}", 0),
        ("3", r"\frac{3}{1}", 0),
        ("1024", "2^{10}", 0),
        ("2", r"\sqrt{4}", 0),
        ("2", r"\sqrt{2}", 0),
        ("2", r"2\pi", 0),
        ("3", "1 2", 0),
        ("0.333", "1/3", 0),
        ("1/3", "0.33", 0),
        ("1/3", "0.3333333", 1),
        ("0.5", "1/0", 0),
        ("9^{99}", "9^9^9^9^9", 0),
        ("9^{99}", "9^{999999999}", 0),
        ("0", "", 0),
        (125, "125", 1),
    ],
)
def test_numeric(answer: Any, response: str, expected: int) -> None:
    assert score("numeric", response, {"answer": answer}) == expected


def test_numeric_needs_a_number_in_the_reference() -> None:
    for answer in ("Paris", "", "2+3", "1 or 2"):
        with pytest.raises(DataError, match="is no number; grade it with `exact`"):
            rewards.numeric("1", {"answer": answer})


@pytest.mark.parametrize("digits", [40, 4000])
def test_numeric_does_not_compute_what_is_too_long(digits: int) -> None:
    row = {"answer": r"2\sqrt{3}"}
    assert score("numeric", r"\sqrt{12}", row) == 1.0
    assert fastest(rewards.numeric, r"\sqrt{" + "1" * digits + "}", row) < 0.05


def test_numeric_works_in_threads_and_leaves_alarms_alone() -> None:
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(rewards.numeric("4/7", {"answer": r"\frac{4}{7}"})))
    thread.start()
    thread.join()
    assert found == [1.0]


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("The Tower", "the tower.", 1),
        ("Paris", "Paris, Paris", 0),
        ("Paris", "London or Paris", 0),
        ("-5", "\u22125", 1),
        (">", ">", 1),
        (">", "<", 0),
        ("?", "", 0),
    ],
)
def test_exact(answer: str, response: str, expected: int) -> None:
    assert score("exact", response, {"answer": answer}) == expected


def test_regex_modes() -> None:
    assert score("regex", "so 12 it is", pattern=r"\d+", mode="search") == 1.0
    assert score("regex", "so 12 it is", pattern=r"\d+", mode="fullmatch") == 0.0
    assert score("regex", "", pattern=r"\d+", mode="search") == 0.0


def test_format_takes_the_whole_response() -> None:
    assert score("format", "<a>1\n2</a>", pattern="(?s)<a>.*</a>") == 1.0
    assert score("format", "<a>1</a> and more", pattern="(?s)<a>.*</a>") == 0.0


@pytest.mark.parametrize("response", ['{"answer": 124}', "[125]", "125", 'Sure! {"answer": 125}', '{"answer": NaN}'])
def test_json_that_is_not_valid(response: str) -> None:
    assert score("json_schema", response) == 0.0


def test_instructions_give_the_share_followed() -> None:
    assert score("instructions", "one") == 0.5
    assert score("instructions", "one two") == 0.0
    assert score("instructions", "x", {"instructions": []}) == 1.0
    with pytest.raises(DataError, match="no 'instructions'"):
        rewards.instructions("x", {"instructions": None})


def test_reasoning_gym_partial_scores_are_a_choice() -> None:
    assert score("reasoning_gym", "124 125", partial=True) > 0
    assert score("reasoning_gym", "124 125", partial=False) == 0.0
    for several in ("<answer>124</answer><answer>125</answer>", "<answer>125</answer><answer>124</answer>"):
        assert score("reasoning_gym", several, partial=False) == 0.0


def test_reasoning_gym_takes_the_entry() -> None:
    import reasoning_gym

    item = reasoning_gym.create_dataset("countdown", size=1, seed=1)[0]
    row = {"entry": item, "answer": item["answer"]}
    assert score("reasoning_gym", item["metadata"]["expression"], row, dataset="countdown", partial=False) == 1.0


@pytest.mark.parametrize(("metric", "expected"), [("exact_match", 1.0), ("courteous", 0.0), ("helpful", 0.0)])
def test_sums(metric: str, expected: float) -> None:
    assert score("sums", "58 + 67 = 125", metric=metric) == expected


@pytest.mark.parametrize(
    ("response", "thirds"),
    [
        ("8+7=15 5+6+1=12 so 125", 3),
        ("8 + 7 = 15, 5 + 6 + 1 = 12, so 125. Happy to help!", 3),
        ("58 + 67: 8+7=15 5+6+1=12 so 125", 3),
        ("8+7=15 5+6+1=12 so 126", 2),
        ("8+7=15 5+6+1=12", 2),
        ("8+7=15 5+6=11 so 125", 2),
        ("8+7=15 5+6=11 so 115", 1),
        ("8+7=15", 1),
        ("8+7=15 8+7=15", 1),
        ("8+7=15 8+7=15 so 125", 2),
        ("8+7=15 8+7=15 5+6+1=12 so 125", 1),
        ("8+7=15 5+6+1=12 5+6+1=12 so 125", 2),
        ("8+7=15 5+6+1=12 0+0+1=1 so 125", 2),
        ("5+6+1=12 8+7=15 so 125", 1),
        ("1+8+7=16 5+6+1=12 so 125", 1),
        ("18+7=15", 0),
        ("8+7=155", 0),
        ("58 + 67 = 125", 1),
        ("8+7=15 5+6+1=12 so 125 so 125", 2),
    ],
)
def test_steps(response: str, thirds: int) -> None:
    assert score("steps", response) == thirds / 3


def test_steps_of_every_question_can_be_had_in_full_and_not_exceeded() -> None:
    for row in [*questions(300, seed=2, digits=[1, 2, 3, 4]), {"question": "Add 0 and 0.", "answer": "0"}]:
        a, b = (int(n) for n in re.findall(r"\d+", row["question"]))
        assert score("steps", f"{working(a, b)}.", row) == 1.0, row
        assert score("steps", working(a, b) * 2, row) < 1.0, row


def test_steps_find_their_operands() -> None:
    for row in (
        {"operands": ["58", 67]},
        {"prompt": [{"role": "system", "content": "1 + 1"}, {"role": "user", "content": "Add 58 and 67."}]},
        {"prompt": "58 + 67"},
    ):
        assert score("steps", RIGHT["steps"], row) == 1.0
    for row in ({"question": "1 + 2 or 3 + 4?"}, {"question": "How much?"}, {"answer": "1"}):
        with pytest.raises(DataError, match=r"`operands`|no 'prompt'"):
            rewards.steps("1", row)


@pytest.mark.parametrize(("length", "expected"), [(0, 0), (20, 0), (25, -0.25), (40, -1), (41, -1), (10_000, -1)])
def test_overlong(length: int, expected: float) -> None:
    assert score("overlong", "x" * length) == expected


@pytest.mark.parametrize(("response", "expected"), [("", 0), ("  ", 0), ("x" * 40, 1), ("x" * 41, 0), (" x ", 1)])
def test_length_at_most(response: str, expected: float) -> None:
    assert score("length_at_most", response) == expected
