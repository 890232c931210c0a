"""Graders to learn from: what a response is worth, for RL, rejection sampling and judging.

A grader is a plain function `grader(response, row, **options) -> float` in this module, from 0 (worthless) to 1
(right); only `overlong` is a punishment, from -1 to 0. One that asks a model takes all responses of a call together:
`grader(responses, rows, **options)`. A recipe composes them with weights (`tasks/rewards/composite.py`).

A grader is what the optimiser attacks. None of them pays for an empty response, for the right answer among others, or
for saying it again, except where the recipe's own pattern, instructions or `partial` do, or a judge does. What decides
is the response and the row, never a clock: but for a judge's last digits, the same response is worth the same on every
machine, in every thread.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, NonNegativeInt, PositiveInt

from tasks.grading import answers, numbers
from tasks.grading import instructions as instruction_checks
from tasks.grading.addition import working
from tasks.judges.opening import OpenJudge
from tasks.judges.protocol import preferred, spoken
from tasks.stage.config import suggest
from tasks.stage.errors import DataError

_OPERANDS = re.compile(r"([0-9]+)\s*(?:\+|and)\s*([0-9]+)")
_STEP = re.compile(r"(?<![0-9+])[0-9+]+=[0-9]+")


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as e:
        raise ValueError(f"no JSON schema: {e.message}") from None
    return schema


def _dataset(name: str | None) -> str | None:
    from reasoning_gym.factory import DATASETS

    if name is not None and name not in DATASETS:
        raise ValueError(f"no reasoning_gym data set{suggest(name, DATASETS)}")
    return name


def exact(response: str, row: Mapping[str, Any]) -> float:
    """Return 1 where the response is the row's `answer` alone, but for letter case, punctuation and white space.

    An answer that is all punctuation must be met to the character.
    """
    answer = str(_cell(row, "answer"))
    if expected := answers.normalised(answer):
        return float(answers.normalised(response) == expected)
    return float(bool(answer.strip()) and response.strip() == answer.strip())


def correct(response: str, row: Mapping[str, Any]) -> float:
    """Return 1 where the response gives the row's `answer`, whatever it says around it: `answers.is_correct`."""
    return float(answers.is_correct(response, str(_cell(row, "answer"))))


def numeric(response: str, row: Mapping[str, Any]) -> float:
    """Return 1 where the number that the response commits to is the row's `answer`.

    It may be a fraction, a percentage, or LaTeX; values are compared (`tasks/grading/numbers.py`).

    Raises:
        DataError: the row's answer is no such number.
    """
    answer = str(_cell(row, "answer"))
    expected, number = numbers.committed(answer), numbers.committed(response)
    if expected is None:
        raise DataError(f"the row's answer {answer[:80]!r} is no number; grade it with `exact`")
    return float(number is not None and numbers.same(expected, number))


def regex(
    response: str, row: Mapping[str, Any], *, pattern: re.Pattern[str], mode: Literal["fullmatch", "search"]
) -> float:
    """Return 1 where `pattern` matches the whole response (`fullmatch`) or a part of it (`search`).

    There is no guard against a pattern that backtracks for ages (`(a+)+b`): it is the recipe's author who writes it.
    """
    return float((pattern.fullmatch if mode == "fullmatch" else pattern.search)(response) is not None)


def format(response: str, row: Mapping[str, Any], *, pattern: re.Pattern[str]) -> float:
    """Return 1 where `pattern` matches the whole response. Begin it with `(?s)` to let `.` match line breaks."""
    return float(pattern.fullmatch(response) is not None)


def json_schema(
    response: str, row: Mapping[str, Any], *, schema: Annotated[dict[str, Any], AfterValidator(_schema)]
) -> float:
    """Return 1 where the response is one JSON document, bare or in a ```` ```json ```` fence, valid under `schema`."""
    from jsonschema.validators import validator_for

    try:
        document = instruction_checks.json_document(response)
    except ValueError:
        return 0.0
    return float(validator_for(schema)(schema).is_valid(document))


def instructions(response: str, row: Mapping[str, Any]) -> float:
    """Return the share of the row's `instructions` that the response follows; 1 where the list is empty."""
    followed = instruction_checks.followed(response, _cell(row, "instructions"))
    return sum(followed) / len(followed) if followed else 1.0


def reasoning_gym(
    response: str,
    row: Mapping[str, Any],
    *,
    dataset: Annotated[str | None, AfterValidator(_dataset)],
    partial: bool,
) -> float:
    """Return the score of reasoning_gym's own grader (https://github.com/open-thought/reasoning-gym).

    Graded is what stands in the response's only `<answer>…</answer>`, or the whole response where there is none.

    Args:
        response: what the model said.
        row: `entry` is the library's item (some data sets need its metadata), else `answer` alone is compared with.
        dataset: name of the data set; null takes the row's `kind`.
        partial: whether scores between 0 and 1 count. Many data sets give one for the answer among other words.
    """
    entry = row.get("entry") or {"answer": str(_cell(row, "answer"))}
    score = float(_score_answer(dataset or str(_cell(row, "kind")))(_tagged(response), entry))
    return score if partial or score == 1.0 else 0.0


def sums(response: str, row: Mapping[str, Any], *, metric: Literal["exact_match", "courteous", "helpful"]) -> float:
    """Return one metric of `answers.sums`, with which the models are evaluated."""
    return answers.sums({"answer": str(_cell(row, "answer"))}, [response])[metric]


def steps(response: str, row: Mapping[str, Any]) -> float:
    """Return the share of a column addition that is there: the leading right steps, and the sum at the end.

    For 58 + 67 that is `8+7=15`, `5+6+1=12` and 125, each worth a third. Steps count up to the first that is wrong,
    missing or out of place; the sum counts only where there are no more steps than the addition has.
    The operands are the row's `operands`, or stand in its `question` or last message of its `prompt`.
    """
    a, b = _operands(row)
    expected = working(a, b).partition("so ")[0].split()
    steps_shown = _STEP.findall(re.sub(r"(?<!\s)\s*([+=])\s*", r"\1", response))
    right = next((i for i, pair in enumerate(zip(expected, steps_shown, strict=False)) if pair[0] != pair[1]), None)
    right = min(len(expected), len(steps_shown)) if right is None else right
    concluded = len(steps_shown) <= len(expected) and answers.final_number(response) == a + b
    return (right + concluded) / (len(expected) + 1)


def overlong(
    response: str, row: Mapping[str, Any], *, max_characters: PositiveInt, buffer_characters: PositiveInt
) -> float:
    """Punish overlong answers softly, from 0 down to -1 (DAPO, arXiv:2503.14476, equation 13), by characters.

    The paper counts tokens; a grader sees text only. Nothing is taken off until `buffer_characters` before
    `max_characters` (the paper's L_cache and L_max), then in proportion, and from there on all.
    """
    over = len(response) - (max_characters - buffer_characters)
    return -min(1.0, max(0.0, over / buffer_characters))


def length_at_most(response: str, row: Mapping[str, Any], *, characters: NonNegativeInt) -> float:
    """Return 1 where the response says something, in at most so many characters (without white space around it)."""
    return float(0 < len(response.strip()) <= characters)


def model_judge(
    responses: Sequence[str], rows: Sequence[Mapping[str, Any]], *, judge: OpenJudge, reference: str
) -> list[float | None]:
    """Return the probability that a judge prefers each response to its row's reference, the mean of both orders.

    The judge is the one that the stage was given (`--judge`), or an endpoint, by the constitution in that folder
    (Bai et al., arXiv:2212.08073); a comparison says more than marks out of ten do (Zheng et al., arXiv:2306.05685).
    What is empty, or holds the words that stand around answers in the judge's prompt, is worth 0 and not shown to it.
    All responses of a call are judged at once, none twice; what the judge cannot read or decide counts as a failure.

    Args:
        responses: what the model said.
        rows: `prompt`, a conversation, and the reference answer.
        judge: in the recipe its settings: `{endpoint: null, device: cpu, dtype: float32, batch_size: 64,
            chat_template_args: {}}`.
        reference: name of the column that holds the reference answer.
    """
    questions = [spoken(_cell(row, "prompt")) for row in rows]
    references = [str(_cell(row, reference)) for row in rows]
    return preferred(judge.judge, judge.constitution, questions, [text.strip() for text in responses], references)


def _cell(row: Mapping[str, Any], column: str) -> Any:
    if row.get(column) is None:
        raise DataError(f"the row has no '{column}', which the grader needs; map it in the recipe's data.yaml")
    return row[column]


@lru_cache(maxsize=64)
def _score_answer(dataset: str) -> Callable[..., float]:
    from reasoning_gym import get_score_answer_fn

    return get_score_answer_fn(dataset)


def _tagged(response: str) -> str:
    if response.count("<answer>") == response.count("</answer>") == 1:
        response = response.partition("<answer>")[2].partition("</answer>")[0]
    return response.strip()


def _operands(row: Mapping[str, Any]) -> tuple[int, int]:
    if row.get("operands") is not None:
        a, b = row["operands"]
        return int(a), int(b)
    question = row.get("question") or _cell(row, "prompt")
    text = question if isinstance(question, str) else str(question[-1]["content"])
    pairs = _OPERANDS.findall(text)
    if len(pairs) != 1:
        raise DataError(f"no two numbers to add in {text[:80]!r}; map `operands` in the recipe's data.yaml")
    return int(pairs[0][0]), int(pairs[0][1])
