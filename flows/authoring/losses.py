"""What of the data nothing would learn from: refused where it is most of a set, and said where it is a part."""

from collections.abc import Sequence

from flows.authoring.choices import Machine, longest_row
from flows.authoring.model import Model
from flows.authoring.rows import Plan, Source
from tasks.ingestion.mapping import columns
from tasks.ingestion.recognition.columns import named
from tasks.stage.errors import ConfigError

FEWEST = 20
"""Fewest rows of a set: of fewer, the chances of the split may leave none to validate or to test with."""
MOST = 0.5
"""Largest share of a set's rows, 0 to 1, whose prompts may be too long for a reply behind them."""
SAID = 0.05
"""Share of cut rows above which they are mentioned."""


def check(plan: Plan, model: Model, here: Machine) -> None:
    """Refuse sets that nothing, or nothing sound, would be learnt from.

    Raises:
        ConfigError: fewer rows than can be shared out, prompts as long as the model's context, verdicts that are all
            the same, or nothing to evaluate by; each with the remedy.
    """
    for name, entries in plan.sets.items():
        files = ", ".join(source.sample.name for source, _ in entries)
        rows = sum(source.usable for source, _ in entries)
        if rows < FEWEST:
            raise ConfigError(
                f"--data: {files}: about {rows} usable and different rows for the set '{name}', and {FEWEST} or more "
                f"are needed, to learn from, to validate and to test with; add rows"
            )
        length, lengths = longest_row(plan.lengths[name], model, here)[0], plan.lengths[name]
        long = lengths.share(lengths.prompts, length - 2)
        if long > MOST:
            raise ConfigError(
                f"--data: {files}: in {long:.0%} of the rows of the set '{name}' the prompt alone fills the {length} "
                f"tokens that are read here ({model.name} takes {model.context}), and nothing of the reply would be "
                f"learnt; shorten the prompts, or take a model with more context or a machine with a GPU"
            )
    if (labels := _labels(plan)) is not None:
        raise ConfigError(
            f"--data: the verdict on all replies looked at is {labels}; good ones and bad ones are needed; add rows "
            f"with the other verdict"
        )


def _labels(plan: Plan) -> str | None:
    """Tell the verdict that all replies have; None where there are both, or no set of verdicts."""
    found = set()
    for source, maps in plan.sets.get("feedback", []):
        for template in maps:
            label = template["label"]
            column = next(iter(columns(label)), None)
            values = [row.get(column) for row in source.sample.rows] if column is not None else [label]
            found |= {str(value).strip().lower() for value in values}
    return found.pop() if len(found) == 1 else None


def notices(plan: Plan, model: Model, here: Machine) -> list[str]:
    """Name columns that no map reads, rows that stand there more than once, and the share of rows that will be cut."""
    said = []
    for source in _used(plan):
        rows = source.sample.rows
        known = columns([template for maps in source.format.maps.values() for template in maps])
        told_elsewhere = named(source.sample.columns, "tools", "functions")
        unread = [
            c for c in source.sample.columns if c not in known and c != told_elsewhere and any(r.get(c) for r in rows)
        ]
        if unread:
            said.append(f"{source.sample.name}: nothing is learnt from {'column' if len(unread) == 1 else 'columns'} "
                        f"{', '.join(unread)}")  # fmt: skip
        if source.copies:
            said.append(
                f"{source.sample.name}: {source.copies} of {len(rows)} rows looked at stand there already; each is "
                f"learnt once"
            )
    for name, lengths in plan.lengths.items():
        length = longest_row(lengths, model, here)[0]
        cut = lengths.share(lengths.whole, length)
        if cut > SAID:
            said.append(f"{cut:.0%} of the rows of the set '{name}' are longer than {length} tokens, and are cut there")
    return said


def _used(plan: Plan) -> Sequence[Source]:
    """List the sources of all sets, each once."""
    return list({source.key: source for entries in plan.sets.values() for source, _ in entries}.values())
