"""The books of a folder of passages: which documents were listed, kept, left out, and why.

`report.json` counts for each source: listed = documents + duplicates + left out.
"""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.retrieval.cache import Record
from tasks.stage.errors import DataError

FILE = "documents.parquet"
DUPLICATE = "same text as another document"
_SHOWN = 5
"""Documents that a message names."""


@dataclass(frozen=True)
class _Reject:
    source: str
    name: str
    reason: str
    detail: str

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.source}/{_printable(self.name)}: {self.reason}{detail}"


class Ledger:
    """Counts documents on their way."""

    def __init__(self, examples: int) -> None:
        """Args: examples: most examples in the report for each reason."""
        self._examples = examples
        self._rejects: list[_Reject] = []
        self._duplicates: list[_Reject] = []
        self.found: Counter[str] = Counter()
        """Source to its listed documents."""
        self.documents: list[dict[str, Any]] = []
        """Rows of `documents.parquet`, by the order of ids."""

    def listed(self, source: str) -> None:
        """Count a document that its source has."""
        self.found[source] += 1

    def reject(self, source: str, name: str, reason: str, detail: str) -> None:
        """Count a document that gives no passage."""
        self._rejects.append(_Reject(source, name, reason, detail))

    def duplicate(self, source: str, name: str, first: str) -> None:
        """Count a document with the same text as `first`, which is kept."""
        self._duplicates.append(_Reject(source, name, DUPLICATE, first))

    def kept(self, source: str, name: str, licence: str, record: Record) -> None:
        """Count a document whose passages are written."""
        row = {
            "id": f"{source}/{name}",
            "source": source,
            "licence": licence,
            "sha256": record.sha256,
            "bytes": record.bytes,
            "characters": record.characters,
            "chunks": record.chunks,
            "kind": record.format,
        }
        self.documents.append(row)

    def stop_at_unreadable(self, unreadable: str, params: Path) -> None:
        """Raise DataError naming the first documents that give no passage, where the recipe refuses these."""
        if unreadable == "refuse" and self._rejects:
            total = sum(self.found.values())
            raise DataError(
                f"{params}: {len(self._rejects)} of {total} documents give no passage, and 'unreadable' is refuse; "
                f"mend or remove them, or set it to skip:{self.examples()}"
            )

    def examples(self) -> str:
        """Name the first documents that give no passage, one a line."""
        more = len(self._rejects) - _SHOWN
        lines = [f"\n  {reject}" for reject in self._rejects[:_SHOWN]]
        return "".join(lines) + (f"\n  … and {more} more" if more > 0 else "")

    def sha256(self, source: str) -> str:
        """Compute the SHA-256 over the names and bytes of a source's documents that were kept or are duplicates."""
        kept = [f"{row['id']} {row['sha256']}\n" for row in self.documents if row["source"] == source]
        same = [f"{source}/{other.name} = {other.detail}\n" for other in self._duplicates if other.source == source]
        return hashlib.sha256("".join([*kept, *same]).encode()).hexdigest()

    def write_documents(self, folder: Path) -> None:
        """Write `documents.parquet`."""
        import pyarrow
        from pyarrow import parquet

        numbers = ("bytes", "characters", "chunks")
        names = ("id", "source", "licence", "sha256", *numbers, "kind")
        schema = pyarrow.schema([(n, pyarrow.int64() if n in numbers else pyarrow.string()) for n in names])
        parquet.write_table(pyarrow.Table.from_pylist(self.documents, schema), folder / FILE)

    def rejects(self) -> list[dict[str, str]]:
        """List what was left out: unreadable documents in the order they were met, then duplicates."""
        return [
            {"source": r.source, "document": _printable(r.name), "reason": r.reason, "detail": _printable(r.detail)}
            for r in (*self._rejects, *self._duplicates)
        ]

    def report(self, sources: dict[str, Any]) -> dict[str, Any]:
        """Return the content of `report.json`.

        Args:
            sources: name to the recipe's settings.
        """
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.documents:
            rows[row["source"]].append(row)
        duplicates = Counter(other.source for other in self._duplicates)
        by_source = {
            name: {
                "settings": source.model_dump(mode="json"),
                "licence": source.licence,
                "sha256": self.sha256(name),
                "listed": self.found[name],
                "documents": len(rows[name]),
                "duplicates": duplicates[name],
                "left_out": self._reasons(name),
                "kinds": dict(sorted(Counter(row["kind"] for row in rows[name]).items())),
                **{key: sum(row[key] for row in rows[name]) for key in ("bytes", "characters", "chunks")},
            }
            for name, source in sorted(sources.items())
        }
        counted = ("listed", "documents", "duplicates", "bytes", "characters", "chunks")
        return {"sources": by_source, **{key: sum(of[key] for of in by_source.values()) for key in counted}}

    def _reasons(self, source: str) -> dict[str, dict[str, Any]]:
        """Count a source's unreadable documents by reason, with examples."""
        by_reason: dict[str, list[str]] = defaultdict(list)
        for reject in self._rejects:
            if reject.source == source:
                by_reason[reject.reason].append(_printable(reject.name))
        return {
            reason: {"count": len(names), "examples": names[: self._examples]}
            for reason, names in sorted(by_reason.items())
        }

    def summary(self) -> str:
        """Say in one sentence what became of the documents."""
        chunks = sum(row["chunks"] for row in self.documents)
        said = f"{sum(self.found.values()):,} documents: {len(self.documents):,} kept, {chunks:,} passages"
        if self._duplicates:
            said += f"; {len(self._duplicates):,} with the text of another"
        reasons = Counter(reject.reason for reject in self._rejects)
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
        return said + (f"; left out: {left_out} (rejects.jsonl)" if left_out else "")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
