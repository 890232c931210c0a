"""Training questions in other words: some of their words left out, and words put in that do not exist.

    "Where does Bexot live?"  ->  "Where ulo Bexot live?", "Tha does Bexot enle live?"

A recipe has few wordings, and an encoder that learns from nothing learns them by heart: a question that begins with
"Can you say" is then no question to it. Random deletion and insertion (Wei and Zou, arXiv:1901.11196) teach it to pass
over what it does not know. A word that the answering chunk has too, e.g. a name, is never left out.
"""

import random
import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from tasks.stage.config import Strict


class Rewording(Strict):
    """How questions are changed."""

    copies: int = Field(ge=1)
    """Rows made of each row, each with a draw of its own."""
    dropped_words: float = Field(ge=0, lt=1)
    """Probability, 0 to 1, that a word that the chunk does not have is left out."""
    added_words: int = Field(ge=0)
    """Most made-up words that are put in, at random places; how many is drawn evenly from 0 on."""
    longest: int = Field(ge=1)
    """Most letters of a made-up word; how many is drawn evenly from 1 on."""


def reworded(
    rows: Sequence[dict[str, Any]], settings: Rewording, texts: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Return `copies` times the rows, with other `anchor`s, which begin with a capital letter where they did.

    Args:
        rows: with `anchor`, the question, and `positive`, its chunk's text.
        settings: how they are changed.
        texts: chunks, from whose letters words are made up.
        seed: of the draw.
    """
    rng = random.Random(seed)
    letters = [letter for text in texts for letter in text.lower() if letter.isalpha()] or ["x"]
    made = []
    for row in [row for _ in range(settings.copies) for row in rows]:
        kept = _left(row["anchor"], row["positive"], settings.dropped_words, rng)
        for _ in range(rng.randint(0, settings.added_words)):
            word = "".join(rng.choices(letters, k=rng.randint(1, settings.longest)))
            kept.insert(rng.randint(0, len(kept)), word)
        anchor = " ".join(kept)
        made.append({**row, "anchor": anchor[0].upper() + anchor[1:] if row["anchor"][:1].isupper() else anchor})
    return made


def _left(question: str, chunk: str, dropped: float, rng: random.Random) -> list[str]:
    """Return the words that stay: all that the chunk has, and one at least."""
    held = _words(chunk)
    words = question.split()
    kept = [word for word in words if held & _words(word) or rng.random() >= dropped]
    return kept or [rng.choice(words)]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
