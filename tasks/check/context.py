"""A recipe against its base model: lengths, layers, LoRA's targets, tokenizer and chat template."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import distill
from tasks.base import Config as BaseConfig
from tasks.base import FolderModel, HubModel
from tasks.check import model_facts
from tasks.check.base_model import check_base
from tasks.check.files import Recipe
from tasks.check.model_facts import Facts
from tasks.check.values import leaves
from tasks.models import checks
from tasks.models.chat_template import mark_generation
from tasks.models.folder import load_tokenizer
from tasks.models.multimodal import is_multimodal
from tasks.stage import recipe
from tasks.stage.config import suggest
from tasks.stage.errors import ModelError, PolmError
from tasks.stage.trainer_config import AdapterConfig

LENGTHS = ("max_length", "max_completion_length", "max_new_tokens", "block_size")
"""Keys, at any depth, that say how many tokens a text or an answer may have."""
OF_TEMPLATES = ("chat_template_args", "chat_template_kwargs")
"""Keys whose mappings are passed to the chat template."""
ALIGNED = ("align", "align_speech")
"""Methods that put an encoder in front of a language model."""
WHOLE = "all-linear"
"""PEFT's word for every linear layer."""


def check(under_check: Recipe) -> Iterator[str]:
    """Check every file that says something of the base model, where that is on this machine."""
    yield from _folder(under_check)
    facts = model_facts.find(under_check)
    if facts is None:
        return
    loaded, wrong = tokenizer(facts, under_check)
    yield from wrong
    others, aligned = _own_models(under_check), _aligned(under_check)
    for file, config in sorted(under_check.configs.items()):
        path = under_check.folder / file
        if file in others:
            continue
        for key, value in leaves(config.model_dump()):
            if facts.context and _is_length(key) and isinstance(value, int) and value > facts.context:
                yield (
                    f"{path}: {key} is {value} tokens, and {facts.place} takes {facts.context}; set it to "
                    f"{facts.context} or less"
                )
        if isinstance(config, AdapterConfig) and config.peft is not None and file not in aligned:
            yield from _targets(f"{path}: peft", config.peft, facts)
        for name, method in getattr(config, "methods", {}).items():
            if isinstance(getattr(method, "peft", None), dict):
                yield from _targets(f"{path}: methods.{name}.peft", method.peft, facts)
        if isinstance(config, distill.Config) and facts.layers:
            beyond = [layer for layer in config.student.layers if not 0 <= layer < facts.layers]
            if beyond:
                yield (
                    f"{path}: student.layers names {beyond[0]}, and {facts.place} has the layers 0 to "
                    f"{facts.layers - 1}"
                )
        if loaded is not None and isinstance(loaded.chat_template, str):
            yield from (f"{path}: {fault}" for fault in _template_arguments(config.model_dump(), loaded))


def notices(under_check: Recipe) -> Iterator[str]:
    """Say that the base model could not be looked at, or that its padding is its end of text."""
    facts = model_facts.find(under_check)
    path = under_check.folder / "base.yaml"
    if facts is None:
        yield f"{path}: the model is not on this machine yet: lengths, LoRA's targets and memory were not looked at"
    elif facts.folder is not None and (facts.folder / "tokenizer_config.json").is_file():
        tokens = checks.read_object(facts.folder / "tokenizer_config.json")
        pad, end = _text(tokens.get("pad_token")), _text(tokens.get("eos_token"))
        if pad == end:
            yield (
                f"{facts.folder}: pad_token is {pad!r}, the same as eos_token; what pads a batch then looks like an "
                f"end, so give the tokenizer a padding token of its own in tokenizer_config.json"
            )
        elif pad is None:
            yield f"{facts.folder}: no pad_token; its eos_token {end!r} is taken; set one in tokenizer_config.json"


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _is_length(key: str) -> bool:
    """Whether a key says how many tokens there may be; `weights.block_size` of an export counts weights."""
    *above, last = key.split(".")
    return last in LENGTHS and above[-1:] != ["weights"]


def _own_models(under_check: Recipe) -> set[str]:
    """Name the files of models that are no language model from `base`: encoders of retrieval."""
    models = under_check.graph.models.items()
    return {f"{name}.yaml" for name, model in models if model.method in (recipe.RETRIEVER, *recipe.FOLDERS)}


def _aligned(under_check: Recipe) -> set[str]:
    """Name the files of models behind new eyes or ears, whose modules have other names than the base model's."""
    models = under_check.graph.models
    behind: set[str] = set()
    for name in models:
        line, at = [], name
        while at in models and at not in line:
            line.append(at)
            at = models[at].values.get("from", recipe.BASE)
        if any(models[one].method in ALIGNED for one in line):
            behind.add(f"{models[name].values.get('settings', name)}.yaml")
    return behind


def _folder(under_check: Recipe) -> Iterator[str]:
    """What is wrong with a model folder that base.yaml names."""
    config = under_check.of("base.yaml", BaseConfig)
    path = under_check.folder / "base.yaml"
    adapter = getattr(config.source, "adapter", None) if config is not None else None
    if adapter is not None and "@" not in adapter and not Path(adapter).exists():
        yield (
            f"{path}: source.adapter: {adapter}: no such folder; give one, or a hub id with its revision, e.g. "
            f"org/name@main"
        )
    if config is not None and isinstance(config.source, FolderModel):
        try:
            check_base(config.source.folder)
        except PolmError as e:
            yield f"{path}: source.folder: {e}"
    elif config is not None and isinstance(config.source, HubModel) and (folder := Path(config.source.hub)).is_dir():
        try:
            check_base(folder)
        except PolmError as e:
            yield f"{path}: source.hub: {e}"


def tokenizer(facts: Facts, under_check: Recipe) -> tuple[Any, list[str]]:
    """Load the tokenizer and mark its template; None with what is wrong."""
    config = under_check.of("base.yaml", BaseConfig)
    if facts.folder is None or config is None:
        return None, []
    place = f"{under_check.folder / 'base.yaml'}: source"
    try:
        loaded = load_tokenizer(facts.folder)
        if config.chat_template is not None:
            loaded.chat_template = config.chat_template
        if not is_multimodal(facts.folder):  # with pictures, the stages find the answer themselves
            mark_generation(loaded, facts.folder)
    except ModelError as e:
        return None, [f"{place}: {e}"]
    return loaded, []


def _targets(place: str, peft: dict[str, Any], facts: Facts) -> Iterator[str]:
    """What is wrong with the modules that an adapter is put on."""
    targets = peft.get("target_modules")
    if not facts.shapes or targets is None or targets == WHOLE:
        return
    last = sorted({name.rpartition(".")[2] for name, shape in facts.shapes.items() if len(shape) == 2})
    if isinstance(targets, str):  # PEFT takes text for a regular expression
        try:
            if not any(re.fullmatch(targets, name) for name in facts.shapes):
                known = suggest(targets, last)
                yield f"{place}.target_modules is '{targets}', which matches no module of {facts.place}{known}"
        except re.error as e:
            yield f"{place}.target_modules is '{targets}', no regular expression ({e})"
        return
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in facts.shapes):
            yield f"{place}.target_modules names '{target}', which {facts.place} has not{suggest(str(target), last)}"


def _template_arguments(values: Any, tokenizer: Any, key: str = "") -> Iterator[str]:
    """What is passed to the chat template under names that it does not use."""
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        place = f"{key}{name}"
        if name in OF_TEMPLATES and isinstance(value, dict):
            used = _variables(tokenizer.chat_template)
            for argument in value:
                if argument not in used:
                    yield f"{place}.{argument}: the chat template uses no such variable{suggest(argument, used)}"
        else:
            yield from _template_arguments(value, tokenizer, f"{place}.")


def _variables(template: str) -> set[str]:
    """List the names that a chat template takes from outside."""
    import jinja2
    from jinja2 import meta, nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  # jinja2's own interface

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = jinja2.Environment(extensions=[Generation, "jinja2.ext.loopcontrols"])  # parsed only
    given = {"messages", "add_generation_prompt", "raise_exception", "strftime_now", "bos_token", "eos_token"}
    return meta.find_undeclared_variables(environment.parse(template)) - given
