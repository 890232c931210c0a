"""The tables between the markers of a page.

A table of the page stands between two comments, which a reader does not see:

    <!-- table: claims -->
    | model | …
    <!-- end -->
"""

import re
from collections.abc import Callable, Mapping

from infra.results import compression, methods, retrieval, sight
from infra.results.artifacts import Artifacts
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError

TABLES: Mapping[str, Callable[[Artifacts], str]] = {
    "spine": methods.spine,
    "spine_changes": methods.spine_changes,
    "claims": methods.claims,
    "scores": methods.scores,
    "adapters": methods.adapters,
    "judges": methods.judges,
    "rewards": methods.rewards,
    "rounds": methods.rounds,
    "refinement": methods.refinement,
    "critiques": methods.critiques,
    "merging": compression.merging,
    "held": compression.held,
    "pruning": compression.pruning,
    "sparsity": compression.sparsity,
    "quantization": compression.quantization,
    "students": compression.students,
    "student_steps": compression.student_steps,
    "forms": compression.forms,
    "sight": sight.sight,
    "word_error_rates": sight.word_error_rates,
    "hearing": sight.heard,
    "retrievers": retrieval.retrievers,
    "readers": retrieval.readers,
    "grounding": retrieval.grounding,
    "attacks": retrieval.attacks,
    "retrieval": retrieval.legs,
}
"""Name in the marker to the function that writes the table."""
BLOCK = re.compile(r"<!-- table: (\S+) -->\n(.*?)<!-- end -->\n", re.S)
START = re.compile(r"<!-- table:.*")


def blocks(text: str, name: str) -> dict[str, str]:
    """Find what stands between the markers of a page, by table.

    Args:
        text: the page.
        name: its path, for messages.

    Raises:
        ConfigError: a marker of no table, one that stands twice or has no end, or a table without a marker.
    """
    found: dict[str, str] = {}
    for match in BLOCK.finditer(text):
        table, content = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        if table not in TABLES:
            raise ConfigError(f"{name}:{line}: no table '{table}'{suggest(table, TABLES)}")
        if table in found:
            raise ConfigError(f"{name}:{line}: the table '{table}' stands twice; take one marker out")
        if START.search(content):
            raise ConfigError(f"{name}:{line}: the table '{table}' has no <!-- end --> behind it; add one")
        found[table] = content
    loose = [match for match in START.finditer(text) if not BLOCK.match(text, match.start())]
    if loose:
        line = text.count("\n", 0, loose[0].start()) + 1
        raise ConfigError(
            f"{name}:{line}: '{loose[0].group()}' opens no table; write <!-- table: NAME --> … <!-- end -->"
        )
    missing = [table for table in TABLES if table not in found]
    if missing:
        raise ConfigError(
            f"{name}: no place for {', '.join(missing)}; write <!-- table: {missing[0]} --> and <!-- end -->"
        )
    return found


def fill(text: str, name: str, artifacts: Artifacts) -> str:
    """Put the tables of a run between the markers of a page; the rest stays as it is. Raises as `blocks` does."""
    blocks(text, name)
    written = {table: write(artifacts) for table, write in TABLES.items()}
    return BLOCK.sub(lambda match: f"<!-- table: {match[1]} -->\n{written[match[1]]}<!-- end -->\n", text)
