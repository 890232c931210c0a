"""The sections of a recipe's data.yaml: what is held out, what is dropped, and of which rows a set is made."""

from typing import Any, Literal

from pydantic import Field

from tasks.stage.config import Strict

SETS = r"^(pretrain|eval:[a-z0-9_]+|(sft|preferences|feedback|prompts)(:[a-z0-9_]+)?)$"
"""Regular expression of a set's name."""


class Split(Strict):
    """Shares of the groups; what is left trains."""

    validation: float = Field(ge=0, lt=1)
    """Share of groups, 0 to 1."""
    test: float = Field(ge=0, lt=1)
    """Share of groups, 0 to 1. Only evaluation sets use it."""


class NearDuplicates(Strict):
    """MinHash LSH, for the sets that ask for it."""

    threshold: float = Field(gt=0, le=1)
    """Jaccard similarity of word n-grams, 0 to 1, from which the later of two rows is dropped."""
    permutations: int = Field(gt=1)
    """Hash functions: more is slower and finer."""
    ngram: int = Field(gt=0)
    """Words in an n-gram."""
    hashes: Literal["sha1", "rensa"] = Field(default="sha1", exclude_if=lambda hashes: hashes == "sha1")
    """Hash functions: `sha1` by datasketch, `rensa` in Rust, far faster; which one decides about rows at the threshold.
    Where it is not given, no manifest names it."""


class Decontamination(Strict):
    """Overlap of training rows with evaluation rows."""

    ngram: int = Field(gt=0)
    """Words in an n-gram; an evaluation question shorter than this is compared whole."""
    overlap: float = Field(gt=0, le=1)
    """Share of an evaluation text's n-grams, 0 to 1, from which a training row is dropped."""


class Rows(Strict):
    """Rows of one source in one set."""

    source: str
    """Name under `sources`."""
    split: Literal["hash", "published"]
    """`hash`: by content. `published`: the source is one part of a split that its publisher made, so an evaluation set
    takes all of it, and a training set holds nothing back for tests."""
    limit: int | None = Field(gt=0)
    """Most rows of this source in each of the set's files; null for no limit."""
    map: dict[str, Any]
    """An example of the row to make, with columns in braces. `group`, where given, names what must not be parted;
    `images` and `audio` name the columns of its pictures and sounds, e.g. `["{picture}"]`, `video` that of a clip."""


class Set(Strict):
    """One set of rows."""

    rows: list[Rows] = Field(min_length=1)
    """Where its rows come from; they are mixed."""
    near_duplicates: bool
    """Whether to look for near-duplicates (exact ones always go)."""


class Shards(Strict):
    """Parquet files in the place of one JSONL file, for sets of many rows."""

    rows: int = Field(gt=0)
    """Rows of a shard; a file of a set that has no more rows is JSONL."""
