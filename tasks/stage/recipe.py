"""A recipe's graph: which models there are, by which method, from which parents, with which claim.

`params/<recipe>/recipe.yaml` is the first page of a recipe; DVC reads it as variables of `dvc.yaml`, whose blocks say
how each method is run. What a model has to say about itself is read from the block: the `${item.…}` that it uses.

    recipe: tiny
    sft:
      sft: {from: base, claim: sums.exact_match}
      cot: {from: sft, claim: sums.exact_match}
    grpo:
      grpo: {from: cot, claim: long_sums.exact_match}
    evaluate: [base, sft, cot, grpo]
    export: [grpo]
    forms: [fp32, int8, int4]
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.stage.config import read_yaml, suggest
from tasks.stage.errors import ConfigError

FILE = "recipe.yaml"
"""Name of the graph's file in a recipe's folder."""
DVC = Path("dvc.yaml")
BASE = "base"
"""The model that every graph starts from, made by the stage of this name."""
REWARD = "reward"
"""The method whose models give rewards and no answers, and the key under which they are used."""
LABEL = "label"
"""The method whose entries are sets of labels and no models."""
FINGERPRINT = "fingerprint"
"""The stage that reads the recipe's folder, and no one file of it."""
SINGLE = ("data", "base", "report")
"""Stages that every recipe has once."""
LISTS = ("evaluate", "export", "forms")
"""Keys of a graph that are lists: models that are evaluated, models that are exported, forms of each export."""
OWN_KEYS = ("claim", "over")
"""Keys of a model that the report reads, and no stage."""

_VARIABLE = re.compile(r"^\$\{(\w+)\}$")
_ITEM = re.compile(r"\$\{item\.(\w+)\}")
_COMMAND = re.compile(r"-m\s+tasks\.(\w+)\s+params/\$\{recipe\}/(\S+\.yaml)")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")


@dataclass(frozen=True)
class Block:
    """One stage of `dvc.yaml`, before a recipe's graph is filled in."""

    name: str
    """Name of the stage; of a method, as the graph says it."""
    module: str
    """Stage module that it runs, without the package: `sft`."""
    file: str
    """Recipe file that the module reads, e.g. `${key}.yaml`."""
    method: bool
    """Whether a recipe's graph says which models it makes (`foreach`)."""
    keys: tuple[str, ...]
    """Keys that each of its models has to have, e.g. `from`, `reward`."""
    reads: Mapping[str, str]
    """Key that names an input to the folder that the input lies in: `from` to `artifacts/models`."""
    out: str
    """Folder that its artifacts lie in: `artifacts/models`."""
    params: tuple[str, ...]
    """Keys of the recipe file that enter its hash; empty when the whole file does."""


@dataclass(frozen=True)
class Model:
    """One entry of a graph: a model, a reward model, or a set of labels."""

    name: str
    method: str
    values: Mapping[str, str]
    """Everything that the graph says of it: `from`, `claim`, and the keys of its method."""

    @property
    def parents(self) -> dict[str, str]:
        """Keys that name other models of the graph, to these names: `from` first."""
        settings = {"settings", "method", *OWN_KEYS}
        return {key: value for key, value in self.values.items() if key not in settings}


@dataclass(frozen=True)
class Graph:
    """A recipe's graph, valid by itself; `problems` says whether it fits `dvc.yaml`."""

    path: Path
    """The file it was read from."""
    recipe: str
    models: Mapping[str, Model]
    """Every model by name, in the order of the file."""
    evaluate: tuple[str, ...]
    export: tuple[str, ...]
    forms: tuple[str, ...]

    @property
    def claims(self) -> dict[str, str]:
        """Model to the metric it was made to improve, `task.metric`; models without a claim are left out."""
        return {name: model.values["claim"] for name, model in self.models.items() if "claim" in model.values}

    @property
    def over(self) -> dict[str, str]:
        """Model to the one that its claim compares it with, where that is not its parent."""
        return {name: model.values["over"] for name, model in self.models.items() if "over" in model.values}

    @property
    def kinds(self) -> dict[str, str]:
        """Every model, `base` too, and every set of labels, to the folder below `artifacts` that it lies in."""
        kinds = {name: "labels" if model.method == LABEL else "models" for name, model in self.models.items()}
        return {BASE: "models"} | kinds

    @property
    def scored(self) -> list[str]:
        """Names under `artifacts/metrics`: evaluated models, then the forms of exported ones."""
        return [*self.evaluate, *(f"{model}_{form}" for model in self.export for form in self.forms)]


def blocks(path: Path = DVC) -> dict[str, Block]:
    """Read the stages of `dvc.yaml`.

    Returns:
        Name to stage, in the order of the file; stages that are no `python -m tasks.…` are left out.

    Raises:
        ConfigError: the file cannot be read, or a method's `foreach:` is not `${<its own name>}`.
    """
    stages = read_yaml(path).get("stages")
    if not isinstance(stages, dict):
        raise ConfigError(f"{path}: no stages; restore it with `git checkout {path}`")
    return {name: block for name, stage in stages.items() if (block := _block(path, name, stage))}


def _block(path: Path, name: str, stage: Mapping[str, Any]) -> Block | None:
    body = stage.get("do", stage)
    command = _COMMAND.search(str(body["cmd"]))
    if not command:
        if name == FINGERPRINT or "-m tasks." not in str(body["cmd"]):  # or a stage of the user's own
            return None
        raise ConfigError(
            f"{path}: stages.{name}.cmd does not begin `python -m tasks.NAME params/${{recipe}}/FILE.yaml`"
        )
    method = "foreach" in stage
    if method and stage["foreach"] != f"${{{name}}}":
        raise ConfigError(f"{path}: stages.{name}.foreach is {stage['foreach']!r}; write '${{{name}}}', its own name")
    deps = [str(dep) for dep in body.get("deps", [])]
    reads = {_ITEM.findall(dep)[0]: dep[: dep.index("/${item.")] for dep in deps if _ITEM.search(dep)}
    text = " ".join([body["cmd"], *deps])
    keys = tuple(dict.fromkeys(_ITEM.findall(text))) if method else ()
    out = str(body["outs"][0]).partition("/${")[0]
    listed = [values for entry in body.get("params", []) if isinstance(entry, dict) for values in entry.values()]
    params = tuple(listed[0]) if listed and listed[0] else ()
    return Block(name, command[1], command[2], method, keys, reads, out, params)


def read(path: Path) -> Graph:
    """Read a recipe's graph, by itself.

    Args:
        path: `params/<recipe>/recipe.yaml`.

    Raises:
        ConfigError: naming the file and the key that is missing or has another form than a graph's.
    """
    values = read_yaml(path)
    for key in ("recipe", *LISTS):
        if key not in values:
            raise ConfigError(f"{path}: missing key '{key}'")
    if not isinstance(values["recipe"], str):
        raise ConfigError(f"{path}: 'recipe' is {values['recipe']!r}; name the folder that the file is in")
    models: dict[str, Model] = {}
    for method, entries in values.items():
        if method == "recipe" or method in LISTS:
            continue
        if not isinstance(entries, dict):
            raise ConfigError(f"{path}: '{method}' is {entries!r}; expected its models, e.g. {{sft: {{from: base}}}}")
        for name, said in entries.items():
            model = _model(path, method, name, said)
            if name in models:
                raise ConfigError(f"{path}: '{name}' stands under {models[name].method} and under {method}; rename one")
            models[name] = model
    return Graph(path, values["recipe"], models, *(_names(path, key, values[key]) for key in LISTS))


def _model(path: Path, method: str, name: Any, values: Any) -> Model:
    where = f"{path}: {method}.{name}"
    if not isinstance(name, str) or not _NAME.match(name):
        raise ConfigError(f"{where}: a model's name is letters, digits, '_' and '-', and becomes its folder")
    if name == BASE:
        raise ConfigError(f"{where}: '{BASE}' is the model that base.yaml describes; take another name")
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {values!r}; expected a mapping, e.g. {{from: base}}")
    for key, value in values.items():
        if not isinstance(value, str):
            raise ConfigError(f"{where}.{key} is {value!r}; expected a name")
    return Model(name, method, values)


def _names(path: Path, key: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{path}: '{key}' is {values!r}; expected a list of names")
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ConfigError(f"{path}: '{key}' names {', '.join(twice)} twice")
    return tuple(values)


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
            yield f"unknown method '{model.method}'{suggest(model.method, {*methods, 'recipe', *LISTS})}"
        else:
            for problem in _model_problems(graph, model, stages[model.method], outs):
                yield f"{model.method}.{name}{problem}"
    if circle := sorted(name for name in graph.models if _circular(graph, name)):
        yield f"{', '.join(circle)}: each is made from itself, by way of the others; start the chain at '{BASE}'"
    if not graph.evaluate:
        yield "'evaluate' names no model; a report needs one, e.g. `evaluate: [base]`"
    answering = {name for name in outs if outs[name] == "artifacts/models" and not _rewards(graph, name)}
    for key in ("evaluate", "export"):
        for name in getattr(graph, key):
            if name not in answering:
                yield f"{key}: '{name}' is no model that answers in this graph{suggest(name, answering)}"
    for name in graph.claims:
        compared = graph.over.get(name, graph.models[name].values.get("from", BASE))
        for needed in (name, compared):
            if needed not in graph.evaluate:
                yield f"claim of '{name}' needs the scores of '{needed}'; add it to 'evaluate', or leave the claim out"
    for name in sorted({f"{model}_{form}" for model in graph.export for form in graph.forms} & set(graph.evaluate)):
        yield f"'{name}' is a model and the form of an export; rename the model"


def _model_problems(graph: Graph, model: Model, block: Block, outs: Mapping[str, str]) -> Iterator[str]:
    for key in block.keys:
        if key not in model.values:
            yield f": missing key '{key}'"
    for key, value in model.values.items():
        if key not in block.keys and key not in OWN_KEYS:
            yield f": unknown key '{key}'{suggest(key, {*block.keys, *OWN_KEYS})}"
        elif key in block.reads:
            wants_rewards = key == REWARD
            fitting = {
                name
                for name, out in outs.items()
                if out == block.reads[key] and _rewards(graph, name) == wants_rewards and name != model.name
            }
            if value not in fitting:
                yield f".{key} is '{value}'{suggest(value, fitting) or '; no model of that name fits here'}"
    if "over" in model.values and "claim" not in model.values:
        yield ": 'over' says with what a claim is compared, and there is no 'claim'"


def _rewards(graph: Graph, name: str) -> bool:
    return name in graph.models and graph.models[name].method == REWARD


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


def files(graph: Graph, stages: Mapping[str, Block]) -> dict[str, str]:
    """The recipe files that a graph needs.

    Returns:
        File name to the stage module that reads it. Meant for a graph without `problems`.
    """
    readers: dict[str, str] = {}
    for block in stages.values():
        if block.method:
            for model in graph.models.values():
                if model.method == block.name:
                    settings = model.values.get("settings", model.name)
                    name = block.file.replace("${key}", model.name).replace("${item.settings}", settings)
                    readers[name] = block.module
        elif block.name in SINGLE or block.file == "evaluate.yaml" or graph.export:
            readers[block.file] = block.module
    return readers


def entries(graph: Graph) -> dict[str, set[str]]:
    """Settings file (without `.yaml`) to the entries of its `methods:` that the graph uses."""
    used: dict[str, set[str]] = {}
    for model in graph.models.values():
        if "method" in model.values and "settings" in model.values:
            used.setdefault(model.values["settings"], set()).add(model.values["method"])
    return used


def tree(graph: Graph) -> list[tuple[int, str, Model | None]]:
    """Every model below the one it was made from, depth first.

    Returns:
        (depth, name, model) for each; `base` first, with None for the model.
    """
    children: dict[str, list[str]] = {}
    for name, model in graph.models.items():
        children.setdefault(model.values.get("from", BASE), []).append(name)
    rows: list[tuple[int, str, Model | None]] = []

    def add(depth: int, name: str) -> None:
        rows.append((depth, name, graph.models.get(name)))
        for child in children.get(name, []):
            add(depth + 1, child)

    add(0, BASE)
    return rows


def mermaid(graph: Graph) -> str:
    """Draw the graph in Mermaid: solid arrows from the model in `from`, dotted ones from the other inputs."""
    lines = ["graph LR", f"  {BASE}"]
    for name, model in graph.models.items():
        title = name if name == model.method else f"{name}<br/><small>{model.method}</small>"
        lines.append(f'  {name}["{title}"]')
    for name, model in graph.models.items():
        for key, parent in model.parents.items():
            arrow = "-->" if key == "from" else f"-. {key} .->"
            lines.append(f"  {parent} {arrow} {name}")
    return "\n".join(lines)
