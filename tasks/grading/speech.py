"""Graders of answers about sounds, named in a task's YAML as those of `tasks/grading/answers.py` are."""

import re
from typing import Any

from tasks.grading import answers


def words(text: str) -> list[str]:
    """Split a transcript into words: lower case, without punctuation; signs between numbers are words."""
    return re.sub(r"[^\w\s+*/=-]|(?<=\w)-(?=\w)", " ", text.lower().replace("'", "").replace("’", "")).split()


def errors(reference: str, transcript: str) -> tuple[int, int]:
    """Count the words that are wrong, missing or too many in a transcript, by the shortest way to mend it.

    Returns:
        The errors, and the words of the reference.

    Raises:
        ValueError: the reference has no word.
    """
    import jiwer

    right = words(reference)
    if not right:
        raise ValueError("the reference has no word")
    said = jiwer.process_words(" ".join(right), " ".join(words(transcript)))
    return said.substitutions + said.deletions + said.insertions, len(right)


def transcription(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return `wer` of one utterance (errors by words of the reference; may exceed 1) and `exact_match` of its words."""
    wrong, of = errors(doc["answer"], results[0])
    return {"wer": wrong / of, "exact_match": float(wrong == 0)}


def spoken_sums(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return `exact_match` (the sum that was asked for) and `adds_up` (what was heard is added rightly)."""
    return answers.pictured_sums(doc, results)
