"""`polm lineage` as a tree in the terminal: what was asked, read and answered, the stages, the rows, their sources."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from flows.registry.lineage import CHUNKS, Lineage, Step, find
from tasks.stage.data_folder import MEDIA, set_folder

DIGITS = 12
"""Digits of a digest that are shown."""


def show(what: str) -> None:
    """Print the lineage of an answer or a version of the active recipe. Raises GateError; see `find`."""
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file has no edge: nothing is cut off
    console.print(_tree(find(what)), highlight=False)


def _tree(lineage: Lineage) -> Tree:
    tags = lineage.tags
    version = f"[bold]{lineage.name} v{lineage.version}[/]  {tags['model']}, {tags['form']}"
    if lineage.answer is None:
        tree = node = Tree(version)
    else:
        tree = Tree(f"answer {lineage.answer['request_id']}  trace {lineage.answer['trace']}")
        words, pictures = _asked(lineage.answer["asked"])
        tree.add(f"asked    {escape(json.dumps(words, ensure_ascii=False))}")
        for picture in pictures:
            kind = escape(f"{picture['media_type']}, {picture['bytes']} bytes")
            verb = "shown " if picture["type"] == "image" else "played"
            tree.add(f"{verb}   {kind}  sha256 {str(picture['sha256'])[:DIGITS]}")
        for passage in lineage.answer["passages"]:
            _add_passage(tree, passage, lineage.answer["cited"])
        tree.add(f"answered {escape(json.dumps(lineage.answer['text'], ensure_ascii=False))}")
        node = tree.add(version)
    node.add(f"promoted in MLflow run {lineage.run}, commit {tags['commit'][:DIGITS]}{_dirty(tags)}")
    stages = node.add("stages")
    for step in lineage.steps:
        manifest = step.manifest
        inputs = ", ".join(f"{name} {digest[:DIGITS]}" for name, digest in sorted(manifest.inputs.items()))
        line = stages.add(f"{manifest.stage:<12} {step.name}  [bold]{manifest.digest[:DIGITS]}[/]")
        if step.dataset:
            line.add(f"trained on {set_folder(step.dataset)}/train.jsonl")
        line.add(f"params {manifest.params[:DIGITS]}" + (f"; from {inputs}" if inputs else ""))
        line.add(f"MLflow run {step.run}" if step.run else "no MLflow run in this store")
    if not lineage.reports:
        node.add("data: the artifact is not in the evidence")
    steps = {step.name: step for step in lineage.steps}
    for name, report in lineage.reports.items():
        if steps[name].manifest.stage == CHUNKS:
            _add_documents(node, name, report)
        else:
            _add_data(node, steps[name], report, len(lineage.reports) > 1)
    return tree


def _add_passage(tree: Tree, passage: dict[str, Any], cited: Sequence[int]) -> None:
    """Show a passage that the model read, and the document that it is from."""
    place = " › ".join([passage["document"], *passage["title"]])
    mark = "  cited" if passage["number"] in cited else ""
    line = tree.add(f"read {passage['number']}   {escape(place)} {passage['start']}–{passage['end']}{mark}")
    line.add(escape(json.dumps(passage["text"], ensure_ascii=False)))
    about = f"chunk {passage['chunk']}, document sha256 {passage['sha256'][:DIGITS]}, {passage['licence']}"
    line.add(escape(f"{about}, from {passage['source']}"))


def _add_documents(node: Tree, name: str, report: dict[str, Any] | None) -> None:
    """Show where the documents of an index come from, with their licences."""
    if report is None:
        node.add(f"documents of {name}: the stage's report is neither in MLflow nor in the workspace")
        return
    documents = node.add(f"documents of {name}")
    for source, found in sorted(report["sources"].items()):
        documents.add(f"{source}  {found['documents']} documents, {escape(str(found['licence']))}")


def _asked(content: Any) -> tuple[str, list[dict[str, Any]]]:
    """Take what was asked apart: its words, and what stands in a trace for each picture."""
    if isinstance(content, str):
        return content, []
    words = "".join(part["text"] for part in content if part["type"] == "text")
    return words, [part for part in content if part["type"] != "text"]


def _dirty(tags: dict[str, str]) -> str:
    return " and uncommitted changes" if tags["dirty"] == "true" else ""


def _add_data(node: Tree, data: Step, report: dict[str, Any] | None, named: bool) -> None:
    """Show the rows: each training file with its hash, the pictures, and the sources with their licences.

    Args:
        node: where.
        data: the data artifact.
        report: its report.
        named: whether to say which artifact it is, as there are several.
    """
    which = f" of {data.name}" if named else ""
    rows = node.add(f"training rows{which}")
    sets = report["sets"] if report else {}
    about = {name: (set_["files"][name]["rows"], set_) for set_ in sets.values() for name in set_["files"]}
    for name, digest in sorted(data.manifest.files.items()):
        if name == MEDIA:
            kinds = [kind for kind in ("pictures", "sounds") if report and kind in report]
            files = "".join(f"  {report[kind]['files']} {kind}" for kind in kinds) if report else ""
            rows.add(f"{name}  sha256 {digest[:DIGITS]}{files}")
        if not name.endswith("/train.jsonl"):
            continue
        count, set_ = about.get(name, (None, {}))
        more = (
            f"  {count} rows, {', '.join(set_['licences'])}, from {', '.join(sorted(set_['sources']))}" if set_ else ""
        )
        rows.add(f"{name}  sha256 {digest[:DIGITS]}{more}")
    if report is None:
        node.add(f"sources{which}: the data stage's report is neither in MLflow nor in the workspace")
        return
    sources = node.add(f"sources{which}")
    for name, source in sorted(report["sources"].items()):
        pinned = next((f", {key} {source[key]}" for key in ("sha256", "revision") if source.get(key)), "")
        sources.add(f"{name}  {source['kind']} {escape(str(source['name']))}, {source['licence']}{pinned}")
