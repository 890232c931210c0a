"""What a training stage's audit leaves in its artifact, for whoever shows it; `tasks/training/audit.py` makes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.stage import artifact

FILE = "audit.json"
Record = dict[str, Any]
"""One part: `dataset`; `limit` in tokens and `limited_by`; `rows`, which is `used` + `cut` + `left_out`; `longest`, a
row's `id` and `tokens`; `cut_ids` and `left_out_ids`. A row without an id goes by its number, from 1."""


def read(out: Path) -> dict[str, Record]:
    """Read the records of an artifact by part; none where its stage trains nothing."""
    records: dict[str, Record] = artifact.read_json(out / FILE) if (out / FILE).exists() else {}
    return records


def sentence(record: Mapping[str, Any]) -> str | None:
    """Put the losses of a part into words; None where all its rows are used whole."""
    lost = [f"{record[state]} {words}" for state, words in (("left_out", "left out"), ("cut", "cut")) if record[state]]
    if not lost:
        return None
    longest = record["longest"]
    return (
        f"{' and '.join(lost)} of {record['rows']} rows of {record['dataset']} (longest {longest['tokens']} tokens, "
        f"row {longest['id']}; limit {record['limit']}, {record['limited_by']})"
    )
