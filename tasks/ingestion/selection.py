"""Which rows of a set stay, and in what order: exact duplicates, sides, limits, by DuckDB over the files of facts.

DuckDB takes a bounded share of memory and sorts and groups on the disk beyond it, so a set may be larger than memory.
What is dropped is told to the ledger, all of it counted and the first of it shown.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.ingestion import minhash
from tasks.ingestion.facts import PLACES
from tasks.ingestion.ledger import Ledger
from tasks.ingestion.mapping import kind_of
from tasks.ingestion.settings import NearDuplicates, Rows
from tasks.stage.errors import PolmError

MEMORY = "400MB"
"""Memory that DuckDB takes before it goes to the disk."""
BATCH = 4_096
"""Rows that are written at once."""


class Selection:
    """The rows of one set, of which some go."""

    def __init__(
        self,
        name: str,
        rows: Sequence[Rows],
        sources: Sequence[str],
        files: Sequence[Path],
        folder: Path,
        ledger: Ledger,
    ) -> None:
        """Begin with all of them.

        Args:
            name: the set.
            rows: its entries in the recipe.
            sources: of each entry what rejects name as the file.
            files: files of facts, in order; at least one.
            folder: for what does not fit into memory.
            ledger: told of what is dropped.
        """
        import duckdb

        self._name = name
        self._rows = rows
        self._sources = sources
        self._files = files
        self._folder = folder
        self._ledger = ledger
        self._db = duckdb.connect(
            config={
                "memory_limit": MEMORY,
                "temp_directory": str(folder / "duckdb"),
                "threads": 1,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        listed = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
        self._db.execute(f"CREATE VIEW facts AS SELECT * FROM read_parquet([{listed}])")
        self._db.execute("CREATE TABLE gone (row BIGINT PRIMARY KEY)")
        self._db.execute("CREATE VIEW stays AS SELECT * FROM facts ANTI JOIN gone USING (row)")

    def __enter__(self) -> "Selection":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """End. Raises PolmError where DuckDB found no room, on the disk or in its memory, for what it sorts."""
        import duckdb

        self._db.close()
        if isinstance(error, duckdb.OutOfMemoryException | duckdb.IOException):
            said = str(error).partition("\n")[0]
            raise PolmError(
                f"set '{self._name}': no room for the rows that DuckDB sorts in {self._folder} ({said}); free some "
                f"space of the disk and run again, nothing was written"
            ) from None

    def drop_repeats(self) -> None:
        """Drop rows whose text, white space aside, is an earlier row's."""
        self._db.execute(
            """CREATE TEMP TABLE dropped AS SELECT row, like_row FROM facts JOIN (
                 SELECT id, min(row) AS like_row FROM facts GROUP BY id HAVING count(*) > 1
               ) USING (id) WHERE row <> like_row"""
        )
        self._drop("exact duplicate", "row", "like_row")

    def drop_near(self, near: NearDuplicates) -> None:
        """Drop rows that are nearly an earlier row's, unless other turns of them are learnt."""
        import pyarrow

        gone = self._db.execute("SELECT row FROM gone").fetchnumpy()["row"]
        pairs = minhash.repeats(self._files, gone, PLACES, near)
        late, early = ([pair[i] for pair in pairs] for i in (0, 1))
        found = pyarrow.table({"row": pyarrow.array(late, "int64"), "like_row": pyarrow.array(early, "int64")})
        self._db.register("found", found)
        # One conversation may come once for each turn to be learnt of it: its texts are alike, and none is too many.
        # Rows are told of by the media that they share, those first whose media come first.
        self._db.execute(
            """CREATE TEMP TABLE dropped AS SELECT found.row, like_row, first_of_family
               FROM found JOIN facts late USING (row) JOIN facts early ON early.row = like_row
               JOIN (SELECT family, min(row) AS first_of_family FROM stays GROUP BY family) AS families
                 ON families.family = late.family
               WHERE late.off = early.off"""
        )
        self._db.unregister("found")
        self._drop("near-duplicate", "first_of_family, row", "like_row")

    def drop_contaminated(self) -> None:
        """Drop rows that would train and that contain an evaluation row."""
        self._db.execute("CREATE TEMP TABLE dropped AS SELECT row FROM stays WHERE evaluation IS NOT NULL")
        for line, entry, shown, evaluation, overlap in self._fetched(
            "SELECT line, entry, shown, evaluation, overlap FROM facts SEMI JOIN dropped USING (row) ORDER BY row"
        ):
            place = {"source": self._rows[entry].source, "file": self._sources[entry], "line": line}
            self._ledger.contaminate(self._name, place, shown, evaluation, overlap)
        self._forget()

    def drop_sides(self, reason: str, sides: Iterable[str]) -> None:
        """Drop rows of some sides of the split."""
        listed = ", ".join(f"'{side}'" for side in sides)
        self._db.execute(f"CREATE TEMP TABLE dropped AS SELECT row FROM stays WHERE split IN ({listed})")
        self._drop(reason, "row")

    def drop_over_limits(self, split: str) -> None:
        """Drop the rows of a side that are more than the limit of their entry, the last ones by the order."""
        limits = [f"WHEN {i} THEN {rows.limit}" for i, rows in enumerate(self._rows) if rows.limit is not None]
        if not limits:
            return
        self._db.execute(
            f"""CREATE TEMP TABLE dropped AS SELECT row, place, place_below FROM (
                  SELECT row, entry, place, place_below,
                    row_number() OVER (PARTITION BY entry ORDER BY place, place_below) AS number
                  FROM stays WHERE split = '{split}'
                ) WHERE number > CASE entry {" ".join(limits)} ELSE number END"""
        )
        self._drop("over the limit", "place, place_below")

    def _drop(self, reason: str, order: str, like: str | None = None) -> None:
        """Tell the ledger of the rows in the table `dropped`, and take them out."""
        counts = dict(self._fetched("SELECT entry, count(*) FROM facts SEMI JOIN dropped USING (row) GROUP BY entry"))
        shown = f"""SELECT facts.entry, facts.line, facts.shown, {"early.entry, early.line" if like else "NULL, NULL"}
            FROM (SELECT *, row_number() OVER (ORDER BY {order}) AS number FROM dropped) AS first
            JOIN facts ON facts.row = first.row {f"JOIN facts early ON early.row = first.{like}" if like else ""}
            WHERE number <= {self._ledger.examples} ORDER BY number"""
        examples = [
            {"file": self._sources[entry], "line": line, "text": text}
            | ({} if other is None else {"like": f"{self._sources[other]}:{like_line}"})
            for entry, line, text, other, like_line in (self._fetched(shown) if counts else ())
        ]
        by_source: dict[str, int] = {}
        for entry, count in sorted(counts.items()):
            source = self._rows[entry].source
            by_source[source] = by_source.get(source, 0) + count
        self._ledger.dropped(self._name, reason, by_source, examples)
        self._forget()

    def _forget(self) -> None:
        self._db.execute("INSERT INTO gone SELECT row FROM dropped")
        self._db.execute("DROP TABLE dropped")

    def _fetched(self, query: str) -> list[tuple[Any, ...]]:
        return self._db.execute(query).fetchall()

    def counts(self, split: str) -> dict[str, tuple[int, int, int]]:
        """Count what stays of a side: source to rows, rows as they are written, and turns of weight 0."""
        found: dict[str, tuple[int, int, int]] = {}
        for entry, *counts in self._fetched(
            f"SELECT entry, count(*), sum(pieces), sum(unlearnt) FROM stays WHERE split = '{split}' GROUP BY entry"
        ):
            rows, pieces, turns = found.get(self._rows[entry].source, (0, 0, 0))
            found[self._rows[entry].source] = (rows + counts[0], pieces + int(counts[1]), turns + int(counts[2]))
        return found

    def turns(self, split: str) -> set[str]:
        """List the columns of messages that rows of a side have as they are written: which they are, the first says."""
        first = 'SELECT DISTINCT regexp_extract(written, \'^{"id": "[0-9a-f]+", "([a-z]+)"\', 1) FROM stays'
        found = {name for (name,) in self._fetched(f"{first} WHERE split = '{split}'")}
        beside = {"sft": {"completion"}, "feedback": {"completion"}, "preferences": {"chosen", "rejected"}}
        return found | (beside.get(kind_of(self._name), set()) if "prompt" in found else set())

    def batches(self, split: str, columns: str, order: str = "place, place_below") -> Iterator[Any]:
        """Yield what stays of a side, mixed by the order that depends on rows and seed alone, as Arrow batches."""
        query = f"SELECT {columns} FROM stays WHERE split = '{split}' ORDER BY {order}"
        yield from self._db.sql(query).to_arrow_reader(BATCH)
