"""A recipe's graph: which models there are, by which method, from which parents, with which claim.

`params/<recipe>/recipe.yaml` is the first page of a recipe; DVC reads it as variables of `dvc.yaml`, whose blocks say
how each method is run (`tasks/stage/dag.py` compares the two).

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.stage.config import read_yaml
from tasks.stage.errors import ConfigError

FILE = "recipe.yaml"
"""Name of the graph's file in a recipe's folder."""
ACTIVE = Path("params", FILE)
"""Link to the graph of the active recipe; `dvc.yaml` reads it."""
RELINK = f"`polm run --recipe NAME` links it to a recipe's graph (`git checkout {ACTIVE}`: to the one it had)"
"""Remedy for a link that is none."""
BASE = "base"
"""The model that every graph starts from, made by the stage of this name."""
LABEL = "label"
"""The method whose entries are sets of labels and no models."""
MEDIA = "media"
"""The method whose entries are data sets of their own, e.g. of pictures or sounds, and no models."""
RAFT = "raft"
"""The method whose entries are data sets too: questions with passages in their prompts."""
RETRIEVER = "retriever"
"""The method whose models embed texts and give no answers."""
INDEX = "rag_index"
"""The method whose entries are indexes of documents."""
SHARDED = "rag_index_sharded"
"""The method whose entries are indexes, too, from vectors that the stages under `EMBED` made."""
EMBED = "rag_embed"
"""The method whose entries are shards of such an index: the vectors of a part of the documents."""
FOLDERS = {
    LABEL: "labels", MEDIA: "media", RAFT: "media", "rag_chunks": "chunks", INDEX: "indexes", SHARDED: "indexes",
    EMBED: "vectors",
}  # fmt: skip
"""Methods whose entries are no models, to the folder below `artifacts` that they lie in; shards are in one by index."""
DATA_KEY = "data"
"""Key of a model that learns from such a data set, and not from the recipe's `data`."""
ASKED = "evaluate_media"
"""Key of a graph that maps models to the data sets of pictures or sounds that they are asked about; may be missing."""
EXPORTED = "export_media"
"""Key of a graph that maps models that see or hear to the data set that their exports are compared on; may be missing.
"""
FORMS_ASKED = "evaluate_onnx_media"
"""Key of a graph that names the evaluated forms of such exports, each `{model, form, data}`; may be missing."""
ASKED_WITH_PASSAGES = "evaluate_rag"
"""Key of a graph that names the readers that are asked with passages, each `{model, index, data}`; may be missing."""
FORMS_WITH_PASSAGES = "evaluate_onnx_rag"
"""Key of a graph that names the evaluated forms of exported readers, each `{model, form, index, data}`; may be missing.
"""
MAPPINGS = (ASKED, EXPORTED, FORMS_ASKED, ASKED_WITH_PASSAGES, FORMS_WITH_PASSAGES)
"""Keys of a graph that are no methods and need not be there."""
FORM_KEYS = {FORMS_ASKED: ("model", "form", "data"), FORMS_WITH_PASSAGES: ("model", "form", "index", "data")}
"""Keys of an entry of a list of forms, whose name is `<model>_<form>`."""
READER_KEYS = ("model", "index", "data")
"""Keys of an entry of `ASKED_WITH_PASSAGES`, whose name is its model's, or another where that is asked otherwise too.
"""
LISTS = ("evaluate", "export", "forms")
"""Keys of a graph that are lists: models that are evaluated, models that are exported, forms of each export."""
OWN_KEYS = ("claim", "over")
"""Keys of a model that the report reads, and no stage."""
NEEDS = "needs"
"""Key of a data set: Python modules that making it needs, with commas between; `tasks/stage/needs.py` reads it."""
SETTINGS_KEYS = ("settings", "method")
"""Keys of a model that say where its settings are."""

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
_MODULES = re.compile(r"^[A-Za-z_]\w*(\.\w+)*(\s*,\s*[A-Za-z_]\w*(\.\w+)*)*$")
_FOLDER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")


@dataclass(frozen=True)
class Model:
    """One entry of a graph: a model, a reward model, a retriever, an index, a set of labels, or a data set."""

    name: str
    method: str
    values: Mapping[str, str]
    """Everything that the graph says of it: `from`, `claim`, and the keys of its method."""

    @property
    def parents(self) -> dict[str, str]:
        """Keys that name other models of the graph, to these names: `from` first."""
        others = {*SETTINGS_KEYS, *OWN_KEYS, NEEDS}
        return {key: value for key, value in self.values.items() if key not in others}

    @property
    def needs(self) -> tuple[str, ...]:
        """Python modules that making it needs, besides what `polm` itself needs."""
        return tuple(module.strip() for module in self.values.get(NEEDS, "").split(",") if module.strip())


@dataclass(frozen=True)
class Graph:
    """A recipe's graph, valid by itself; `dag.problems` says whether it fits `dvc.yaml`."""

    path: Path
    """The file it was read from."""
    recipe: str
    models: Mapping[str, Model]
    """Every model by name, in the order of the file."""
    evaluate: tuple[str, ...]
    export: tuple[str, ...]
    forms: tuple[str, ...]
    evaluate_media: Mapping[str, str] = field(default_factory=dict)
    """Model to the data set of pictures or sounds that it is asked about."""
    export_media: Mapping[str, str] = field(default_factory=dict)
    """Exported model to the data set of pictures or sounds that its forms are compared on."""
    evaluate_onnx_media: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Form of such an export, `<model>_<form>`, to `model`, `form`, and the `data` that it is asked about."""
    evaluate_rag: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name under `artifacts/metrics` to the `model` that reads, the `index` it reads from, and its `data`."""
    evaluate_onnx_rag: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Form of an exported reader, `<model>_<form>`, to `model`, `form`, `index` and `data`."""

    @property
    def asked_about(self) -> dict[str, str]:
        """Name under `artifacts/metrics` to the data set that it is asked about, where that is not `data`."""
        with_passages = {name: asked["data"] for name, asked in self.evaluate_rag.items()}
        return {**self.evaluate_media, **with_passages}

    @property
    def exported(self) -> list[str]:
        """Names under `artifacts/onnx`."""
        return [*self.export, *self.export_media]

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
        """Every model, `base` too, set of labels, data set and index, to the folder below `artifacts` it lies in."""
        kinds = {name: FOLDERS.get(model.method, "models") for name, model in self.models.items()}
        shards = {name: model for name, model in self.models.items() if model.method == EMBED}
        return (
            {BASE: "models"}
            | kinds
            | {name: f"{kinds[name]}/{one.values.get('index', '')}" for name, one in shards.items()}
        )

    @property
    def scored(self) -> list[str]:
        """Names under `artifacts/metrics`: evaluated models, then the forms of exported ones."""
        forms = (f"{model}_{form}" for model in self.export for form in self.forms)
        return [*self.evaluate, *self.evaluate_media, *self.evaluate_rag, *forms, *self.forms_asked]

    @property
    def forms_asked(self) -> dict[str, Mapping[str, str]]:
        """Form of an export that is asked about data of its own, to its `model`, `form` and `data`."""
        return {**self.evaluate_onnx_media, **self.evaluate_onnx_rag}


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
    if not _FOLDER.match(values["recipe"]):  # it becomes a part of every stage's command
        raise ConfigError(
            f"{path}: 'recipe' is {values['recipe']!r}; a recipe's name is letters, digits, '_', '-', '.'"
        )
    models: dict[str, Model] = {}
    for method, entries in values.items():
        if method in ("recipe", *MAPPINGS, *LISTS):
            continue
        if not isinstance(entries, dict):
            raise ConfigError(f"{path}: '{method}' is {entries!r}; expected its models, e.g. {{sft: {{from: base}}}}")
        for name, said in entries.items():
            model = _model(path, method, name, said)
            if name in models:
                raise ConfigError(f"{path}: '{name}' stands under {models[name].method} and under {method}; rename one")
            models[name] = model
    evaluate, export, forms = (_names(path, key, values[key]) for key in LISTS)
    asked, exported = (_data_of(path, key, values.get(key, {})) for key in (ASKED, EXPORTED))
    forms_asked, forms_with_passages = (_forms_asked(path, key, values.get(key, {})) for key in FORM_KEYS)
    readers = _readers_asked(path, values.get(ASKED_WITH_PASSAGES, {}))
    return Graph(
        path, values["recipe"], models, evaluate, export, forms, asked, exported, forms_asked, readers,
        forms_with_passages,
    )  # fmt: skip


def _data_of(path: Path, key: str, values: Any) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(name, str) for pair in values.items() for name in pair):
        raise ConfigError(f"{path}: '{key}' is {values!r}; expected models and their data, e.g. {{vlm: pictures}}")
    return values


def _forms_asked(path: Path, key: str, values: Any) -> dict[str, dict[str, str]]:
    example = f"vlm_int8: {{{', '.join(f'{name}: {_FORM_EXAMPLE[name]}' for name in FORM_KEYS[key])}}}"
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: '{key}' is {values!r}; expected forms, e.g. {{{example}}}")
    for name, said in values.items():
        if (
            not isinstance(said, dict)
            or sorted(said) != sorted(FORM_KEYS[key])
            or not all(map(_is_name, said.values()))
        ):
            raise ConfigError(f"{path}: {key}.{name} is {said!r}; write it like this: {example}")
        if name != f"{said['model']}_{said['form']}":
            raise ConfigError(f"{path}: {key}.{name}: call it {said['model']}_{said['form']}, after its form")
    return values


_FORM_EXAMPLE = {"model": "vlm", "form": "int8", "index": "index", "data": "pictures"}


def _readers_asked(path: Path, values: Any) -> dict[str, dict[str, str]]:
    example = "reader: {model: reader, index: index, data: grounded}"
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: '{ASKED_WITH_PASSAGES}' is {values!r}; expected readers, e.g. {{{example}}}")
    for name, said in values.items():
        fits = isinstance(said, dict) and sorted(said) == sorted(READER_KEYS) and all(map(_is_name, said.values()))
        if not fits or not _is_name(name):
            raise ConfigError(f"{path}: {ASKED_WITH_PASSAGES}.{name} is {said!r}; write it like this: {example}")
    return values


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.match(value) is not None


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
        if key in SETTINGS_KEYS and not _NAME.match(value):  # it becomes a word of the stage's command
            form = "a file of the recipe without `.yaml`" if key == "settings" else "an entry of its `methods:`"
            raise ConfigError(f"{where}.{key} is {value!r}; name {form}: letters, digits, '_' and '-'")
        if key == NEEDS and not _MODULES.match(value):
            raise ConfigError(f"{where}.{key} is {value!r}; name Python modules, e.g. `{NEEDS}: espeakng_loader`")
    return Model(name, method, values)


def _names(path: Path, key: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{path}: '{key}' is {values!r}; expected a list of names")
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ConfigError(f"{path}: '{key}' names {', '.join(twice)} twice")
    return tuple(values)


def entries(graph: Graph) -> dict[str, set[str]]:
    """Settings file (without `.yaml`) to the entries of its `methods:` that the graph uses."""
    used: dict[str, set[str]] = {}
    for model in graph.models.values():
        if "method" in model.values and "settings" in model.values:
            used.setdefault(model.values["settings"], set()).add(model.values["method"])
    return used
