"""Questions of a data artifact whose answers stand in chunks: for training, for choosing a fusion, and for a test.

One raw row of a training set, and one of a test set:

    {"id": "…", "prompt": [{"role": "user", "content": "Where does Bexot live?"}], "answer": "Olvar",
     "document": "facts/people/0001.txt", "quote": "Bexot lives in Olvar."}
    {"id": "…", "question": "Where does Bexot live?", …}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.retrieval.chunks import Chunk, Text, gold
from tasks.stage import artifact
from tasks.stage.data_folder import shards, split_file
from tasks.stage.errors import DataError


@dataclass(frozen=True)
class Question:
    """A question with an answer in the chunks."""

    id: str
    """Id of its row."""
    text: str
    """What is asked."""
    gold: tuple[int, ...]
    """Rows of the chunks that hold the answer, at least one."""


def training_file(data: Path, name: str, split: str) -> Path:
    """Name the file of one split of the set `name`."""
    return split_file(data, name, split)


def test_file(data: Path, name: str) -> Path:
    """Name the file of the test questions `name`."""
    return data / "eval" / f"{name}.jsonl"


def read(path: Path, chunks: Sequence[Chunk] | Sequence[Text]) -> tuple[list[Question], dict[str, int]]:
    """Read the questions of one file whose answers stand in the chunks.

    Args:
        path: file of rows.
        chunks: sorted by document, as `read_chunks` or `read_texts` returns them.

    Returns:
        The questions, and counts: `read`, `used`, `without an answer` (a row whose `quote` is empty) and `in no chunk`
        (its document or its sentence is not among the chunks).

    Raises:
        DataError: no such file, a row without its columns, an id that comes twice, or no question that is left.
        ArtifactError: its rows are in shards.
    """
    if not path.is_file() and not shards(path):
        raise DataError(f"{path}: no such file; name a set that the recipe's data stage writes")
    found: list[Question] = []
    counts = {"read": 0, "used": 0, "without an answer": 0, "in no chunk": 0}
    ids = set()
    for number, row in enumerate(artifact.read_jsonl(path), 1):
        counts["read"] += 1
        try:
            name, text, document, quote = str(row["id"]), _asked(row), row["document"], row["quote"]
        except (KeyError, IndexError, TypeError) as e:
            raise DataError(
                f"{path}:{number}: a question needs `id`, `document`, `quote` and `prompt` or `question` ({e!r} is "
                f"missing); map them in the recipe's data file"
            ) from None
        if name in ids:
            raise DataError(f"{path}:{number}: id {name} was there before; ids tell questions apart, so make them so")
        ids.add(name)
        if not quote:
            counts["without an answer"] += 1
        elif rows := gold(chunks, document, quote):
            found.append(Question(name, text, tuple(rows)))
        else:
            counts["in no chunk"] += 1
    counts["used"] = len(found)
    if not found:
        raise DataError(f"{path}: no question has an answer in the chunks ({counts}); give it the chunks it is about")
    return found, counts


def _asked(row: dict[str, Any]) -> str:
    """Return the last turn of the prompt, or the question."""
    return str(row["prompt"][-1]["content"] if "prompt" in row else row["question"])
