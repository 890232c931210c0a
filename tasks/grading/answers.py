"""Graders, which decide whether an answer is right. A task's YAML names one as `process_results: NAME`.

A grader takes a row and lm-eval's results for it, and returns `{metric: score}`. For generated answers the results are
`[response]`; for log-likelihoods `[(sum of log-probabilities in nats, whether greedy decoding gives it)]`.

Reinforcement learning soon finds a grader that can be fooled. So a number counts only where the answer commits
to it: reciting the number line, listing candidates or repeating the sentence until the limit does not.
"""

import re
from decimal import Decimal
from typing import Any

from tasks.grading.instructions import followed, json_document, repeated_unit

_NUMBER = r"(?:(?<![\w.,])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?"
_DECORATION = r"[\s:*$({]*"
_CLAIMS = tuple(
    re.compile(rf"(?:{marker}){_DECORATION}({_NUMBER})", re.I)
    for marker in (r"\banswer(?:\s+is|\s*:)|\\boxed|####", r"\bso|\btherefore|\bthus|\bequals")
)
"""Patterns by which an answer states its result, the plainest first."""
_EQUATION = re.compile(rf"={_DECORATION}({_NUMBER})")
_ADDITION = re.compile(r"([0-9]+) \+ ([0-9]+) = ([0-9]+)\b")
_CLOSING = re.compile(r"\b(?:(?:happy|glad) to help|you(?:'|’)re welcome|hope (?:this|that) helps)\b", re.I)
_CLOSING_AT_END = re.compile(_CLOSING.pattern + r"[\s.!]*$", re.I)


def final_number(text: str) -> Decimal | None:
    """Return the number that an answer commits to, or None.

    It is the last number of the text, and either the only one, or the one conclusion the text draws ("the answer is
    125", "#### 125"; failing that "so 125"), or, where it draws none, the right-hand side of its last equation.
    """
    text = text.replace("\u2212", "-")  # the typographic minus
    numbers = list(re.finditer(_NUMBER, text))
    if not numbers:
        return None
    last = numbers[-1]
    if len(numbers) > 1:
        conclusions = next((matches for claim in _CLAIMS if (matches := list(claim.finditer(text)))), [])
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
    """Lower the case, and drop punctuation and extra white space. Signs and decimal points of numbers stay."""
    plain = re.sub(r"['’]", "", text.lower().replace("\u2212", "-"))
    return " ".join(re.sub(r"[^\w\s.-]|(?<![0-9])\.|\.(?![0-9])|(?<=\w)-|-(?![0-9])", " ", plain).split())


def is_correct(response: str, answer: str) -> bool:
    """Whether a response gives the answer, whatever it says around it.

    A number must be the one the response commits to. Yes and no must not both be said. Other answers must be all that
    is said, after "the answer is" if it says that.
    """
    if re.fullmatch(_NUMBER, answer):
        return final_number(response) == Decimal(answer.replace(",", ""))
    statements = re.split(r"\banswer(?:\s+is|\s*:)", response, flags=re.I)
    if normalised(answer) in ("yes", "no"):
        return {"yes", "no"} & set(normalised(response).split()) == {normalised(answer)}
    return len(statements) <= 2 and normalised(statements[-1]) == normalised(answer)


def sums(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return `exact_match` (right number), `courteous`, and `helpful` (both)."""
    right = final_number(results[0]) == Decimal(doc["answer"])
    courteous = is_courteous(results[0])
    return {"exact_match": float(right), "courteous": float(courteous), "helpful": float(right and courteous)}


def pictures(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return `exact_match` (the answer, before any courteous closing), `courteous`, and `helpful` (both)."""
    courteous = is_courteous(results[0])
    right = is_correct(_CLOSING_AT_END.sub("", results[0]).strip(), doc["answer"])
    return {"exact_match": float(right), "courteous": float(courteous), "helpful": float(right and courteous)}


def pictured_sums(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return `exact_match` (the sum of the numbers shown) and `adds_up` (what the answer says it read, added rightly).

    An answer that is wrong and adds up has misread a number; one that does not add up has lost the arithmetic.
    """
    right = final_number(results[0]) == Decimal(doc["answer"])
    said = _ADDITION.search(results[0])
    adds_up = said is not None and int(said[1]) + int(said[2]) == int(said[3])
    return {"exact_match": float(right), "adds_up": float(adds_up)}


def instructions(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return `followed` (share of the row's instructions) and `exact_match` (right number, wrapped as they demand).

    A row without instructions breaks none: `followed` is 1. A wrapping that was not demanded is no excuse: `125 125`
    commits to a number only where the row asks to say it twice.
    """
    demands = doc.get("instructions") or []
    verdicts = followed(results[0], demands)
    content = results[0].replace("\u2212", "-")
    for instruction, is_followed in zip(demands, verdicts, strict=True):
        if is_followed and instruction["check"] == "json_with":
            content = str(json_document(content)[instruction["key"]])
        elif is_followed and instruction["check"] == "repeated":
            content = repeated_unit(content, instruction["times"])
        elif is_followed and instruction["check"] in ("in_brackets", "quoted"):
            content = re.sub(r"[\[\]()\"“”]", " ", content)
    right = final_number(content) == Decimal(doc["answer"])
    return {"followed": sum(verdicts) / len(verdicts) if verdicts else 1.0, "exact_match": float(right)}


def number(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return `exact_match` of the number that the answer commits to."""
    return {"exact_match": float(final_number(results[0]) == Decimal(doc["answer"].replace(",", "")))}


def text(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return `correct` (the answer, in whatever words) and `exact_match` (the answer and nothing else, normalised)."""
    exact = normalised(results[0]) == normalised(doc["answer"])
    return {"correct": float(exact or is_correct(results[0], doc["answer"])), "exact_match": float(exact)}


def answer_loss(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Return `nats_per_byte` of the row's answer given its question. Lower is better; tokenizers do not matter."""
    return {"nats_per_byte": -results[0][0] / len(doc["answer"].encode())}


def preferred(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Return `accuracy` (the row's `answer` is likelier than its `worse`) and `nats_per_byte` of the answer.

    The log-likelihoods, of the answer first, are divided by the bytes: the longer of two replies is never likelier.
    """
    sides = [doc[side] for side in ("answer", "worse")[: len(results)]]
    losses = [-result[0] / len(side.encode()) for result, side in zip(results, sides, strict=True)]
    return {"accuracy": float(losses[0] < losses[-1]), "nats_per_byte": losses[0]}


def reference_loss(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Return `nats_per_byte` of a conversation's last message given those before it. Lower is better."""
    return {"nats_per_byte": -results[0][0] / len(doc["messages"][-1]["content"].encode())}
