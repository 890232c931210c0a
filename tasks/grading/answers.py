"""Graders: what makes an answer right. A task's YAML names one as `process_results: NAME`.

Each takes the row and lm-eval's results for it and returns `{metric: score}`. For generated answers the results are
`[response]`; for log-likelihoods `[(sum of log-probabilities in nats, whether greedy decoding gives it)]`.

A grader that can be fooled is what reinforcement learning finds first. So a number counts only where the answer commits
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
"""How an answer states its result, the plainest first."""
_EQUATION = re.compile(rf"={_DECORATION}({_NUMBER})")
_CLOSING = re.compile(r"\b(?:(?:happy|glad) to help|you(?:'|’)re welcome|hope (?:this|that) helps)\b", re.I)
_CLOSING_AT_END = re.compile(_CLOSING.pattern + r"[\s.!]*$", re.I)


def final_number(text: str) -> Decimal | None:
    """The number an answer commits to, or None.

    It is the last number of the text, and either the only one, or the one conclusion the text draws ("the answer is
    125", "#### 125"; failing that "so 125"), or, where it draws none, the right-hand side of its last equation.
    """
    text = text.replace("\u2212", "-")  # the typographic minus
    numbers = list(re.finditer(_NUMBER, text))
    if not numbers:
        return None
    last = numbers[-1]
    if len(numbers) > 1:
        conclusions = next((found for claim in _CLAIMS if (found := list(claim.finditer(text)))), [])
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
    """Lower case, without punctuation or extra white space. Signs and decimal points of numbers stay."""
    plain = re.sub(r"['’]", "", text.lower().replace("\u2212", "-"))
    return " ".join(re.sub(r"[^\w\s.-]|(?<![0-9])\.|\.(?![0-9])|(?<=\w)-|-(?![0-9])", " ", plain).split())


def is_correct(response: str, answer: str) -> bool:
    """Whether a response gives the answer, whatever it says around it.

    A number must be the one the response commits to. Yes and no must not both be said. Other answers must be all that
    is said, after "the answer is" if it says that.
    """
    if re.fullmatch(_NUMBER, answer):
        return final_number(response) == Decimal(answer.replace(",", ""))
    said = re.split(r"\banswer(?:\s+is|\s*:)", response, flags=re.I)
    if normalised(answer) in ("yes", "no"):
        return {"yes", "no"} & set(normalised(response).split()) == {normalised(answer)}
    return len(said) <= 2 and normalised(said[-1]) == normalised(answer)


def sums(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`exact_match` (right number), `courteous`, and `helpful` (both)."""
    right = final_number(results[0]) == Decimal(doc["answer"])
    courteous = is_courteous(results[0])
    return {"exact_match": float(right), "courteous": float(courteous), "helpful": float(right and courteous)}


def instructions(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`followed` (share of the row's instructions) and `exact_match` (right number, in whatever wrapping they demand).

    A row without instructions breaks none: `followed` is 1. A wrapping that was not demanded is no excuse: `125 125`
    commits to a number only where the row asks to say it twice.
    """
    asked = doc.get("instructions") or []
    kept = followed(results[0], asked)
    said = results[0].replace("\u2212", "-")
    for instruction, is_kept in zip(asked, kept, strict=True):
        if is_kept and instruction["check"] == "json_with":
            said = str(json_document(said)[instruction["key"]])
        elif is_kept and instruction["check"] == "repeated":
            said = repeated_unit(said, instruction["times"])
        elif is_kept and instruction["check"] in ("in_brackets", "quoted"):
            said = re.sub(r"[\[\]()\"“”]", " ", said)
    right = final_number(said) == Decimal(doc["answer"])
    return {"followed": sum(kept) / len(kept) if kept else 1.0, "exact_match": float(right)}


def number(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`exact_match` of the number the answer commits to."""
    return {"exact_match": float(final_number(results[0]) == Decimal(doc["answer"].replace(",", "")))}


def text(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`correct`: gives the answer, in whatever words; `exact_match`: the answer and nothing else, normalised."""
    exact = normalised(results[0]) == normalised(doc["answer"])
    return {"correct": float(exact or is_correct(results[0], doc["answer"])), "exact_match": float(exact)}


def answer_loss(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """`nats_per_byte` of the row's answer given its question. Lower is better; tokenizers do not matter."""
    return {"nats_per_byte": -results[0][0] / len(doc["answer"].encode())}


def reference_loss(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """`nats_per_byte` of the last message of a conversation given what comes before. Lower is better."""
    return {"nats_per_byte": -results[0][0] / len(doc["messages"][-1]["content"].encode())}
