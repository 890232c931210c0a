"""What makes an answer right: plain functions that a task's YAML names as `process_results: tasks._graders.<name>`.

Each takes the row and lm-eval's results for it and returns `{metric: score}`. For generated answers the results are
`[response]`; for log-likelihoods `[(sum of log-probabilities in nats, whether greedy decoding gives it)]`.

A grader that can be fooled is what reinforcement learning finds first. So a number counts only where the answer commits
to it: reciting the number line, listing candidates or repeating the sentence until the limit does not.
"""

import re
from decimal import Decimal
from typing import Any

_NUMBER = r"(?:(?<![\w.,])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?"
_DECORATION = r"[\s:*$({]*"
_CONCLUSION = re.compile(
    rf"(?:\banswer(?:\s+is|\s*:)|\\boxed|####|\bso|\btherefore|\bthus|\bequals){_DECORATION}({_NUMBER})", re.I
)
_EQUATION = re.compile(rf"={_DECORATION}({_NUMBER})")
_CLOSING = re.compile(r"\b(?:(?:happy|glad) to help|you(?:'|’)re welcome|hope (?:this|that) helps)\b", re.I)
_CLOSING_AT_END = re.compile(_CLOSING.pattern + r"[\s.!]*$", re.I)


def final_number(text: str) -> Decimal | None:
    """The number an answer commits to, or None.

    It is the last number of the text, and either the only one, or the one conclusion the text draws ("so 125", "the
    answer is 125", "#### 125"), or, where the text draws none, the right-hand side of its last equation.
    """
    numbers = list(re.finditer(_NUMBER, text))
    if not numbers:
        return None
    last = numbers[-1]
    if len(numbers) > 1:
        conclusions = list(_CONCLUSION.finditer(text))
        if len(conclusions) > 1:
            return None
        claims = conclusions or list(_EQUATION.finditer(text))
        if not claims or claims[-1].start(1) != last.start():
            return None
    return Decimal(last.group().replace(",", ""))


def is_courteous(text: str) -> bool:
    """Whether the answer ends in one courteous closing. Twice is babble, in the middle is no closing."""
    return len(_CLOSING.findall(text)) == 1 and _CLOSING_AT_END.search(text) is not None


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles or extra white space (after SQuAD; "A" alone stays a letter)."""
    words = re.sub(r"[^\w\s]", " ", text.lower().replace("'", "").replace("’", "")).split()
    content = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(content or words)


def sums(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`exact_match` (right number), `courteous`, and `helpful` (both)."""
    right = final_number(results[0]) == Decimal(doc["answer"])
    courteous = is_courteous(results[0])
    return {"exact_match": float(right), "courteous": float(courteous), "helpful": float(right and courteous)}


def number(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`exact_match` of the number the answer commits to."""
    return {"exact_match": float(final_number(results[0]) == Decimal(doc["answer"].replace(",", "")))}


def text(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`exact_match` of the whole answer, normalised."""
    return {"exact_match": float(normalised(results[0]) == normalised(doc["answer"]))}


def reference_loss(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """`nats_per_byte` of the last message of a conversation given what comes before. Lower is better."""
    return {"nats_per_byte": -results[0][0] / len(doc["messages"][-1]["content"].encode())}
