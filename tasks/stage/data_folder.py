"""Where the sets of a data artifact lie: `sft-rationales/train.jsonl` for the training rows of `sft:rationales`."""

from pathlib import Path

MEDIA = "media.zip"
"""Archive of a data artifact's pictures and sounds, each named by the hash of its bytes."""


def set_folder(name: str) -> str:
    """Name the folder of a training set: `sft` for `sft`, `sft-rationales` for `sft:rationales`."""
    return name.replace(":", "-")


def split_file(data: Path, name: str, split: str) -> Path:
    """Name the file with the rows of one split of the set `name`."""
    return data / set_folder(name) / f"{split}.jsonl"


def shards(file: Path) -> list[Path]:
    """List the Parquet files, in order, in which the rows of a large set are, in the place of a JSONL file.

    They are in a folder that is named like it: `sft/train/00000.parquet` for `sft/train.jsonl`. None where it has none.
    """
    return sorted(file.with_suffix("").glob("*.parquet"), key=lambda shard: (len(shard.name), shard.name))
