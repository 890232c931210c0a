"""What `polm new` found and chose, for a person to read before anything is written."""

import json
from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from flows.authoring.choices import Machine
from flows.authoring.documents import Documents
from flows.authoring.encoders import Encoder
from flows.authoring.model import Model
from flows.authoring.questions import Questions
from flows.authoring.reading import Shape
from flows.authoring.rows import Plan, Source
from flows.terminal.board import screen

SHOWN = 220
"""Characters of a row that are shown."""
REFUSED = 5
"""Documents without a passage that are named."""
UNSURE = 0.95
"""Share of rows, 0 to 1, below which the commonest reason why rows are bad is shown."""


def show(
    model: Model, sources: Sequence[Source], plan: Plan, here: Machine, files: Mapping[str, str], notices: Sequence[str]
) -> None:
    """Print the model, each source with a row before and after, the sets, the files, and notices."""
    console = screen()
    _show_model(model, here)
    for source in sources:
        _show_source(source, plan)
    table = Table(title="sets", title_justify="left", box=None)
    for column in ("set", "from", "rows", "tokens a row"):
        table.add_column(column)
    for name, entries in plan.sets.items():
        lengths = plan.lengths[name]
        median = lengths.whole[len(lengths.whole) // 2]
        table.add_row(
            name,
            ", ".join(s.key for s, _ in entries),
            f"about {lengths.rows:,} train",
            f"{median}, at most {lengths.whole[-1]}",
        )
    for name, asked in plan.tasks.items():
        table.add_row(f"eval:{name}", ", ".join(s.key for s in asked), f"about {plan.held_out(name):,} held out", "")
    console.print(table)
    _show_files(files, notices)


def show_reader(
    model: Model,
    docs: Documents,
    asked: Questions,
    shape: Shape,
    encoder: Encoder,
    here: Machine,
    files: Mapping[str, str],
) -> None:
    """Print the model, the documents, a question with the sentence that answers it, the encoder, files, and notices."""
    console = screen()
    _show_model(model, here)
    chunks = docs.chunks(shape.words)
    console.print(
        f"[bold]{len(docs.read)} documents[/]  {len(chunks):,} passages of at most {shape.words} words, "
        f"{shape.form.passages} in a prompt: {escape(shape.why)}",
        soft_wrap=True,
    )
    kept = (
        f"{len(asked.train)} train, {len(asked.test)} test, about {len({r['document'] for r in asked.test})} documents"
    )
    console.print(f"[bold]{len(asked.train) + len(asked.test)} questions[/]  {kept} that no training question is about")
    console.print(f"  [dim]e.g.[/] {escape(_short(asked.train[0]))}", soft_wrap=True, highlight=False)
    console.print(f"[bold]encoder[/]  {escape(encoder.why)}", soft_wrap=True)
    notices = [f"{name}: left out: {why}" for name, why in docs.refused[:REFUSED]]
    if docs.others:
        kinds = ", ".join(f"{count} × {suffix}" for suffix, count in docs.others.most_common())
        notices.append(f"files that are no documents are not read: {kinds}")
    if len(docs.refused) > REFUSED:
        notices.append(
            f"{len(docs.refused) - REFUSED} more documents are left out; report.json of the stage names them"
        )
    example = f"; e.g. '{asked.example}'" if asked.example else ""
    notices += [f"{count} questions are left out: {why}{example}" for why, count in asked.lost.items()]
    if asked.astray:
        notices.append(
            f"{asked.astray} questions name a document that is none of these; their answers were looked for in all"
        )
    if not asked.literal:
        notices.append(
            "some answers do not stand in their quotes word for word: false copies of passages are not tested, and "
            "exact_match asks for the answer in the same words"
        )
    _show_files(files, notices)


def _show_model(model: Model, here: Machine) -> None:
    console = screen()
    size = f"{model.parameters / 1e6:,.1f} M parameters" if model.parameters else "parameters unknown"
    console.print(
        f"[bold]{escape(model.name)}[/]  {escape(model.family)}, {size}, {model.layers} layers, "
        f"{model.context:,} tokens of context, {model.dtype}"
    )
    console.print(f"  chat template: {escape(model.template)}", highlight=False)
    console.print(f"  {escape(model.special)}; answers end with {escape(model.end)}", highlight=False)
    console.print(f"[bold]machine[/]  {escape(here.words)}")


def _show_files(files: Mapping[str, str], notices: Sequence[str]) -> None:
    console = screen()
    lines = sum(text.count("\n") for text in files.values())
    console.print(f"[bold]{len(files)} files, {lines} lines[/]: {escape(', '.join(files))}", soft_wrap=True)
    for notice in notices:
        console.print(f"[yellow]{escape(notice)}[/]", soft_wrap=True)


def _show_source(source: Source, plan: Plan) -> None:
    sample, found = source.sample, source.format
    console = screen()
    total = f"{'at least ' if sample.at_least else ''}{sample.total:,} rows"
    tokens = [
        round(source.usable * sum(plan.lengths[kind].whole) / len(plan.lengths[kind].whole))
        for kind, entries in plan.sets.items()
        if any(other is source for other, _ in entries)
    ]
    counted = f", about {max(tokens):,} tokens" if tokens else ""
    console.print(
        f"[bold]{escape(sample.name)}[/]  {escape(found.name)}: {found.sure:.0%} of {len(sample.rows)} rows looked at; "
        f"{total}{counted}",
        soft_wrap=True,
    )
    console.print(f"  [dim]before[/] {escape(_short(found.before))}", soft_wrap=True, highlight=False)
    console.print(f"  [dim]after[/]  {escape(_short(found.after))}", soft_wrap=True, highlight=False)
    if sample.unreadable:
        console.print(
            f"  [yellow]{sample.unreadable} lines cannot be read; the first: {escape(sample.reason)}[/]", soft_wrap=True
        )
    if found.reasons and found.sure < UNSURE:
        reason, count = max(found.reasons.items(), key=lambda pair: pair[1])
        console.print(f"  [yellow]{count} rows are bad: {escape(reason)}[/]", soft_wrap=True)


def _short(row: Mapping[str, object]) -> str:
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
