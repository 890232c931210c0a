"""Graders of transcripts: errors in words, by the shortest way to mend them."""

import jiwer
import pytest

from tasks.grading.speech import errors, spoken_sums, transcription, words


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("Three, seven. FIVE!", ["three", "seven", "five"]),
        ("3 + 5 = 8.", ["3", "+", "5", "=", "8"]),
        ("well-known - and It's", ["well", "known", "-", "and", "its"]),
        ("It’s naïve", ["its", "naïve"]),
        (" \n ", []),
        ("...", []),
    ],
)
def test_the_words_of_a_text(text: str, split: list[str]) -> None:
    assert words(text) == split


@pytest.mark.parametrize(
    ("said", "heard", "wrong"),
    [
        ("3 5 7", "3 5 7", 0),
        ("3 5 7", "Three 5, 7.", 1),
        ("3 5 7", "3 7", 1),
        ("3 5 7", "3 5 7 7 7", 2),
        ("3 5 7", "", 3),
        ("3 5 7", "...", 3),
        ("7", "I am a language model", 5),
        ("Three, five.", "three five", 0),
    ],
)
def test_errors_are_those_of_the_shortest_way(said: str, heard: str, wrong: int) -> None:
    assert errors(said, heard) == (wrong, len(words(said)))


@pytest.mark.parametrize("said", ["", "  ", "?!"])
def test_a_reference_without_words_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="the reference has no word"):
        errors(said, "7")


def test_scores_of_an_utterance() -> None:
    assert transcription({"answer": "3 5"}, ["3 5."]) == {"wer": 0.0, "exact_match": 1.0}
    assert transcription({"answer": "3 5"}, ["3"]) == {"wer": 0.5, "exact_match": 0.0}
    assert transcription({"answer": "3"}, ["1 2 4"]) == {"wer": 3.0, "exact_match": 0.0}
    assert transcription({"answer": "3 5"}, ["9 5"])["wer"] == jiwer.wer("3 5", "9 5")


def test_a_sum_is_right_or_what_was_heard_adds_up() -> None:
    assert spoken_sums({"answer": "8"}, ["3 + 5 = 8."]) == {"exact_match": 1.0, "adds_up": 1.0}
    assert spoken_sums({"answer": "8"}, ["4 + 5 = 9."]) == {"exact_match": 0.0, "adds_up": 1.0}
    assert spoken_sums({"answer": "8"}, ["3 + 4 = 8."]) == {"exact_match": 1.0, "adds_up": 0.0}
    assert spoken_sums({"answer": "8"}, [""]) == {"exact_match": 0.0, "adds_up": 0.0}
