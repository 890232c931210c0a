"""A recipe's graph against the blocks of `dvc.yaml`: which files it needs, and what is wrong with it."""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from tasks.stage import blocks, shards
from tasks.stage.blocks import PART, Block
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError, kind
from tasks.stage.recipe import (
    ACTIVE,
    ASKED,
    ASKED_WITH_PASSAGES,
    BASE,
    EXPORTED,
    FILE,
    FORMS_ASKED,
    FORMS_WITH_PASSAGES,
    INDEX,
    LISTS,
    MAPPINGS,
    MEDIA,
    NEEDS,
    OWN_KEYS,
    RAFT,
    RELINK,
    RETRIEVER,
    SHARDED,
    Graph,
    Model,
    read,
)  # fmt: skip

REWARD = "reward"
"""The method whose models give rewards and no answers, and the key under which they are used."""
ROLES = {REWARD: REWARD, "encoder": RETRIEVER}
"""Keys that name a model which gives no answers, to the method that makes it."""
SINGLE = ("data", "base", "report")
"""Stages that every recipe has once."""
OPTIONAL = ("report.yaml",)
"""Recipe files that may be missing: the file of that name in `params/` then holds for the recipe."""


def files(graph: Graph, stages: Mapping[str, Block]) -> dict[str, str]:
    """The recipe files that a graph needs, and those of `OPTIONAL` that are there.

    Returns:
        File name to the stage module that reads it. Meant for a graph without `problems`.
    """
    return {file: module for file, module, _ in _reads(graph, stages)}


def _reads(graph: Graph, stages: Mapping[str, Block]) -> Iterator[tuple[str, str, str]]:
    """Every recipe file that a graph needs, the stage module that reads it, and the stage's or model's name."""
    for block in stages.values():
        if block.file == PART:
            continue
        if block.method:
            for model in graph.models.values():
                if model.method == block.name:
                    settings = model.values.get("settings", model.name)
                    file = block.file.replace("${key}", model.name).replace("${item.settings}", settings)
                    yield file, block.module, f"{model.method}.{model.name}"
        elif block.name in MAPPINGS:
            of_block = {
                ASKED: graph.evaluate_media.values(),
                EXPORTED: graph.export_media.values(),
                FORMS_ASKED: [form["data"] for form in graph.evaluate_onnx_media.values()],
                ASKED_WITH_PASSAGES: [asked["data"] for asked in graph.evaluate_rag.values()],
                FORMS_WITH_PASSAGES: [form["data"] for form in graph.evaluate_onnx_rag.values()],
            }
            for data in dict.fromkeys(of_block[block.name]):
                yield block.file.replace("${item}", data).replace("${item.data}", data), block.module, block.name
        elif block.file in OPTIONAL and not os.path.lexists(graph.path.with_name(block.file)):
            continue
        elif block.name in SINGLE or block.file == "evaluate.yaml" or graph.export:
            yield block.file, block.module, block.name


def _shared_files(graph: Graph, stages: Mapping[str, Block]) -> Iterator[str]:
    """Files that two stage modules would read, each with keys that the other does not know."""
    first = {FILE: ("", "the graph itself")}
    for file, module, reader in _reads(graph, stages):
        other_module, other = first.setdefault(file, (module, reader))
        if module != other_module:
            yield f"{file} is read by {other} and by {reader}, which take other keys; rename the model or its settings"


def fitting(path: Path) -> Graph:
    """Read a recipe's graph that fits `dvc.yaml`. Raises ConfigError, with everything that is wrong with it."""
    graph = read(path)
    if messages := problems(graph, blocks.read()):
        raise ConfigError("\n".join(messages))
    return graph


def active() -> Graph:
    """Read the active recipe's graph as `fitting` does. Raises ConfigError also where `ACTIVE` is no link to one."""
    what = kind(ACTIVE)
    if what == "a file" and not ACTIVE.is_symlink():
        what = "a file of its own and no link"  # as `cp -rL` and a git without links leave it
    if what != "a file":
        raise ConfigError(f"{ACTIVE}: {'no such file' if what == 'missing' else f'is {what}'}; {RELINK}")
    return fitting(ACTIVE.parent / ACTIVE.readlink())


def problems(graph: Graph, stages: Mapping[str, Block]) -> list[str]:
    """Compare a graph with `dvc.yaml`.

    Returns:
        One message for each thing that is wrong, naming the file and the key; empty when a run can begin.
    """
    return [f"{graph.path}: {problem}" for problem in _problems(graph, stages)]


def _problems(graph: Graph, stages: Mapping[str, Block]) -> Iterator[str]:
    folder = graph.path.resolve().parent.name
    if graph.recipe != folder:
        yield f"recipe is '{graph.recipe}', and the file is in '{folder}'; write `recipe: {folder}`"
    methods = {name for name, block in stages.items() if block.method}
    outs = {BASE: "artifacts/models"} | {
        name: stages[model.method].out for name, model in graph.models.items() if model.method in methods
    }
    for name, model in graph.models.items():
        if model.method not in methods:
            yield f"unknown method '{model.method}'{suggest(model.method, {*methods, 'recipe', *MAPPINGS, *LISTS})}"
        else:
            for problem in _model_problems(graph, model, stages[model.method], outs):
                yield f"{model.method}.{name}{problem}"
    if circle := sorted(name for name in graph.models if _circular(graph, name)):
        yield f"{', '.join(circle)}: each is made from itself, by way of the others; start the chain at '{BASE}'"
    if not (graph.evaluate or graph.asked_about):
        yield f"'evaluate' and '{ASKED}' name no model; a report needs one, e.g. `evaluate: [base]`"
    answering = {name for name in outs if outs[name] == "artifacts/models" and _role(graph, name) is None}
    for key in ("evaluate", "export"):
        for name in getattr(graph, key):
            if name not in answering:
                yield f"{key}: '{name}' is no model that answers in this graph{suggest(name, answering)}"
    yield from _media_problems(graph, answering)
    yield from _reader_problems(graph, answering)
    yield from shards.problems(graph)
    yield from _shared_files(graph, stages)
    for name in graph.claims:
        yield from _claim_problems(graph, name, (answering | set(graph.evaluate_rag)) - {name})
    forms = {f"{model}_{form}" for model in graph.export for form in graph.forms} | set(graph.forms_asked)
    for name in sorted(forms & {*graph.evaluate, *graph.evaluate_media, *graph.evaluate_rag}):
        yield f"'{name}' is a model and the form of an export; rename the model"


def _claim_problems(graph: Graph, name: str, others: Collection[str]) -> Iterator[str]:
    """What is wrong with a model's claim. Args: others: what it may be compared with."""
    compared = graph.over.get(name, graph.models[name].values.get("from", BASE))
    if name in graph.over and compared not in others:
        yield f"{graph.models[name].method}.{name}.over is '{compared}'{suggest(compared, others)}"
        return
    with_passages = ASKED_WITH_PASSAGES if name in graph.evaluate_rag else "evaluate"
    key = ASKED if name in graph.evaluate_media else with_passages
    for needed in (name, compared):
        if needed not in getattr(graph, key):
            yield f"claim of '{name}' needs the scores of '{needed}'; add it to '{key}', or leave the claim out"
        elif graph.asked_about.get(needed) != graph.asked_about.get(name):
            yield (
                f"claim of '{name}' compares it with '{needed}', which is asked about other data, "
                f"'{graph.asked_about[needed]}'; name the same in '{key}', or leave the claim out"
            )


def _reader_problems(graph: Graph, answering: Collection[str]) -> Iterator[str]:
    """What is wrong with the models that are asked with passages."""
    fitting = {
        "model": answering,
        "index": {name for name, model in graph.models.items() if model.method in (INDEX, SHARDED)},
        "data": {name for name, model in graph.models.items() if model.method == RAFT},
    }
    for where, readers in ((ASKED_WITH_PASSAGES, graph.evaluate_rag), (FORMS_WITH_PASSAGES, graph.evaluate_onnx_rag)):
        for name, asked in readers.items():
            for key, names in fitting.items():
                if asked[key] not in names:
                    yield f"{where}.{name}.{key} is '{asked[key]}'{suggest(asked[key], names)}"
    for name, asked in graph.evaluate_rag.items():
        if name in graph.models and name != asked["model"]:
            yield f"{ASKED_WITH_PASSAGES}.{name} is another model than its '{asked['model']}'; take a name of its own"
        for other in ("evaluate", ASKED):
            if name in getattr(graph, other):
                yield f"'{name}' stands in '{other}' too; its scores have one place, so rename it here"


def _media_problems(graph: Graph, answering: Collection[str]) -> Iterator[str]:
    """What is wrong with the models that are asked about pictures or sounds, and with their exports."""
    data = {name for name, model in graph.models.items() if model.method == MEDIA}
    exported = data | {name for name, model in graph.models.items() if model.method == RAFT}
    for key, used, fitting in ((ASKED, graph.evaluate_media, data), (EXPORTED, graph.export_media, exported)):
        for name, asked in used.items():
            if name not in answering:
                yield f"{key}: '{name}' is no model that answers in this graph{suggest(name, answering)}"
            if asked not in fitting:
                yield f"{key}.{name} is '{asked}'{suggest(asked, fitting)}; the data sets stand under '{MEDIA}'"
    for name in graph.evaluate_media:
        if name in graph.evaluate:
            yield f"'{name}' stands in 'evaluate' and in '{ASKED}'; its scores have one place, so take one out"
    for name in graph.export_media:
        if name in graph.export:
            yield f"'{name}' stands in 'export' and in '{EXPORTED}'; its forms have one place, so take one out"
    for name, form in graph.forms_asked.items():
        if form["model"] not in graph.export_media:
            known = suggest(form["model"], graph.export_media)
            where = FORMS_ASKED if name in graph.evaluate_onnx_media else FORMS_WITH_PASSAGES
            yield f"{where}.{name}.model is '{form['model']}'{known}; name it under '{EXPORTED}'"
    for name, form in graph.evaluate_onnx_media.items():
        if form["data"] not in data:
            known = suggest(form["data"], data)
            yield f"{FORMS_ASKED}.{name}.data is '{form['data']}'{known}; the data sets stand under '{MEDIA}'"


def _model_problems(graph: Graph, model: Model, block: Block, outs: Mapping[str, str]) -> Iterator[str]:
    for key in block.keys:
        if key not in model.values:
            yield f": missing key '{key}'"
    own = (*OWN_KEYS, NEEDS) if model.method == MEDIA else OWN_KEYS
    for key, value in model.values.items():
        if key not in block.keys and key not in own:
            yield f": unknown key '{key}'{suggest(key, {*block.keys, *own})}"
        elif key in block.reads:
            role = ROLES.get(key)
            fitting = {
                name
                for name, out in outs.items()
                if out == block.reads[key] and _role(graph, name) == role and name != model.name
            }
            if value not in fitting:
                yield f".{key} is '{value}'{suggest(value, fitting) or '; no model of that name fits here'}"
    if "over" in model.values and "claim" not in model.values:
        yield ": 'over' says with what a claim is compared, and there is no 'claim'"


def _role(graph: Graph, name: str) -> str | None:
    """The method of a model that gives no answers; None for every other."""
    method = graph.models[name].method if name in graph.models else BASE
    return method if method in ROLES.values() else None


def _circular(graph: Graph, name: str) -> bool:
    """Whether a model is among its own ancestors."""
    ahead, passed = list(graph.models[name].parents.values()), set()
    while ahead:
        other = ahead.pop()
        if other == name:
            return True
        if other in graph.models and other not in passed:
            passed.add(other)
            ahead += graph.models[other].parents.values()
    return False
