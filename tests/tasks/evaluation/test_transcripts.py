"""Word error rates of whole sets: pooled over all words, and an interval that knows that voices differ."""

from types import SimpleNamespace
from typing import Any

import jiwer
import pytest

from tasks.evaluation.transcripts import pooled
from tasks.grading.speech import words

SETTINGS: Any = SimpleNamespace(resamples=400, confidence=0.95, seed=0)
SAID = ["3 5 7", "8", "1 2", "9 9 9", "4 + 5", "0"]
HEARD = ["3 5", "eight", "1 2.", "9 9 9 9", "4 + 6", ""]


def rows(*pairs: tuple[str, str, str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    return [{"answer": said, "voice": voice} for said, _, voice in pairs], [
        {"response": heard} for _, heard, _ in pairs
    ]


def test_the_rate_is_that_of_jiwer_on_the_whole_set() -> None:
    asked, answered = rows(*((said, heard, "a") for said, heard in zip(SAID, HEARD, strict=True)))
    found = pooled(asked, answered, None, SETTINGS)
    assert set(found) == {"all"}
    whole = jiwer.wer([" ".join(words(s)) for s in SAID], [" ".join(words(h)) for h in HEARD])
    assert found["all"]["value"] == pytest.approx(whole, abs=1e-6)
    assert (found["all"]["errors"], found["all"]["words"]) == (5, 13)
    mean = sum(jiwer.wer(" ".join(words(s)), " ".join(words(h))) for s, h in zip(SAID, HEARD, strict=True)) / 6
    assert found["all"]["value"] != pytest.approx(mean, abs=0.01), "no mean over utterances"


def test_each_voice_has_a_rate_of_its_own() -> None:
    asked, answered = rows(("1 2", "1 2", "f2"), ("3", "4", "m1"), ("5 6 7", "5", "m1"))
    found = pooled(asked, answered, "voice", SETTINGS)
    assert list(found) == ["all", "voice=f2", "voice=m1"]
    assert found["voice=f2"] == {"value": 0.0, "low": 0.0, "high": 0.0, "errors": 0, "words": 2}
    assert (found["voice=m1"]["errors"], found["voice=m1"]["words"], found["voice=m1"]["value"]) == (3, 4, 0.75)
    assert found["all"]["value"] == 0.5
    assert found == pooled(asked, answered, "voice", SETTINGS), "the seed's"


def test_the_interval_is_wider_where_voices_differ() -> None:
    """Six voices of thirty utterances, two of which are never understood: a new set would have other voices."""
    asked, answered = rows(*(("7", "7" if voice < 4 else "8", f"v{voice}") for voice in range(6) for _ in range(30)))
    by_voice, alone = (pooled(asked, answered, column, SETTINGS)["all"] for column in ("voice", None))
    assert by_voice["value"] == alone["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert alone["high"] - alone["low"] < 0.17
    assert by_voice["high"] - by_voice["low"] > 0.5
    assert by_voice["low"] <= 1 / 6 and by_voice["high"] >= 1 / 2


def test_voices_that_are_alike_widen_nothing() -> None:
    pairs = [("7", "7" if n % 3 else "8", f"v{n % 10}") for n in range(300)]
    asked, answered = rows(*pairs)
    by_voice, alone = (pooled(asked, answered, column, SETTINGS)["all"] for column in ("voice", None))
    assert by_voice["high"] - by_voice["low"] < 1.6 * (alone["high"] - alone["low"])


def test_an_empty_transcript_misses_every_word_and_a_rate_may_exceed_one() -> None:
    asked, answered = rows(("1 2 3", "", "a"), ("1 2 3", "4 5 6 7 8 9", "b"))
    found = pooled(asked, answered, "voice", SETTINGS)
    assert (found["voice=a"]["value"], found["voice=b"]["value"]) == (1.0, 2.0)


def test_a_reference_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="the reference has no word"):
        pooled(*rows(("...", "7", "a")), None, SETTINGS)
