"""The store of vectors: what is embedded again, what a kill leaves, and that encoders do not share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.retrieval import embeddings


class Counting:
    """Embeds a text as its length and its first letter, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Any:
        self.asked += texts
        return np.array([[len(text), ord(text[0])] for text in texts], dtype=np.float32)


@pytest.fixture
def embed() -> Counting:
    return Counting()


def test_only_new_texts_are_embedded(embed: Counting, tmp_path: Path) -> None:
    first = embeddings.vectors(["aa", "b", "aa"], 2, "e", embed, tmp_path)
    assert embed.asked == ["aa", "b"]
    assert first.embedded == 2
    assert first.take(0, 3).tolist() == [[2, 97], [1, 98], [2, 97]]
    second = embeddings.vectors(["c", "b"], 2, "e", embed, tmp_path)
    assert embed.asked == ["aa", "b", "c"]
    assert second.take(0, 2).tolist() == [[1, 99], [1, 98]]
    assert embeddings.vectors(["aa"], 2, "e", embed, tmp_path).embedded == 0


def test_another_encoder_embeds_anew(embed: Counting, tmp_path: Path) -> None:
    embeddings.vectors(["a"], 2, "one", embed, tmp_path)
    embeddings.vectors(["a"], 2, "two", embed, tmp_path)
    assert embed.asked == ["a", "a"]


@pytest.mark.parametrize(("name", "bytes_left"), [("vectors", 20), ("keys", 40), ("vectors", 0)])
def test_halves_that_a_kill_left_are_cut_off(name: str, bytes_left: int, embed: Counting, tmp_path: Path) -> None:
    texts = ["a", "bb", "ccc"]
    embeddings.vectors(texts, 2, "e", embed, tmp_path)
    with (tmp_path / "e" / name).open("r+b") as file:
        file.truncate(bytes_left)
    again = embeddings.vectors(texts, 2, "e", embed, tmp_path)
    assert again.take(0, 3).tolist() == [[1, 97], [2, 98], [3, 99]]
    assert 0 < again.embedded <= 3
    assert embeddings.vectors(texts, 2, "e", embed, tmp_path).embedded == 0


def test_more_texts_than_are_written_at_once(embed: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "BATCH", 4)
    texts = [chr(97 + at) * (at + 1) for at in range(11)]
    made = embeddings.vectors(texts, 2, "e", embed, tmp_path)
    assert made.take(2, 11).tolist() == [[at + 1, 97 + at] for at in range(2, 11)]


def test_one_process_embeds_while_another_does(embed: Counting, tmp_path: Path) -> None:
    """The store is locked while it is read and written, and not in between; a text that both embed is there twice."""
    other: list[embeddings.Vectors] = []

    def meanwhile(texts: Sequence[str]) -> Any:
        if not other:
            other.append(embeddings.vectors(["bb", "ccc"], 2, "e", embed, tmp_path))
        return embed(texts)

    own = embeddings.vectors(["a", "bb"], 2, "e", meanwhile, tmp_path)
    assert own.take(0, 2).tolist() == [[1, 97], [2, 98]]
    assert other[0].take(0, 2).tolist() == [[2, 98], [3, 99]]
    assert embed.asked == ["bb", "ccc", "a", "bb"]
    after = embeddings.vectors(["ccc", "bb", "a"], 2, "e", embed, tmp_path)
    assert (after.embedded, after.take(0, 3).tolist()) == (0, [[3, 99], [2, 98], [1, 97]])
