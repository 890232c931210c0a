"""Recipe files: YAML in, a frozen pydantic model out, and an error a person can act on."""

import difflib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.stage import value_types
from tasks.stage.errors import ConfigError, kind, refusal

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """A configuration section: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, protected_namespaces=())


class StageConfig(Strict):
    """What every stage's YAML holds."""

    seed: int
    """Seed of Python, NumPy and torch."""
    threads: int
    """Threads for torch and BLAS. Part of the recipe because it changes the bits of the result."""


class TrainingConfig(StageConfig):
    """What every training stage's YAML holds besides."""

    launch: str | None
    """Command put before the stage's module, e.g. `accelerate launch --config_file … -m`; null runs it as is."""

    def unfit(self, processes: int, sharding: str | None) -> str | None:
        """Say why the stage cannot run in these processes, and what to write instead; None: it can.

        Args:
            processes: how many `launch` asks for.
            sharding: `FSDP` or `DEEPSPEED`; None: each process has the whole model.
        """
        return None


def one_of(what: str, *keys: str) -> Discriminator:
    """Tell the sections of a union apart by the key that only one of them has, and tag each `(key)`.

    Args:
        what: the union, for the message when no key is there, e.g. `a source`.
        keys: one of each section.
    """

    def tag(value: Any) -> str | None:
        fields = type(value).model_fields if isinstance(value, BaseModel) else value
        return next((f"({key})" for key in keys if isinstance(fields, dict) and key in fields), None)

    quoted = ", ".join(f"'{key}'" for key in keys)
    return Discriminator(
        tag, custom_error_type="union_kind", custom_error_message=f"{what} needs one of the keys {quoted}"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping the way DVC does (YAML 1.2: `1e-4` is a number).

    Raises:
        ConfigError: no such file, something else than a file, unreadable, not YAML, a repeated key, or not a mapping.
    """
    # A pipe would be waited for, and a link to nowhere would be its own nearest name.
    what = kind(path)
    if what not in ("a file", "missing"):
        raise ConfigError(f"{path}: is {what}; expected a YAML file")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        names = [p.name for p in path.parent.glob("*.yaml")]
        raise ConfigError(f"{path}: no such file{suggest(path.name, names)}") from None
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: not UTF-8 at byte {e.start}; save the file as UTF-8") from None
    except OSError as e:
        raise ConfigError(refusal(e) or f"{path}: cannot be read ({e.strerror})") from None
    try:
        data = YAML(typ="safe").load(text)  # not `pure`: the two parsers refuse different files
    except YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: {getattr(e, 'problem', None) or e}") from None
    if not isinstance(data, dict):
        content = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {content}")
    return data


def nearest(word: str, choices: Iterable[str], similarity: float = 0.6) -> str | None:
    """Find the choice that a misspelt word was meant to be; None where none is as similar, from 0 to 1, as that."""
    matches = difflib.get_close_matches(word, sorted(choices), n=1, cutoff=similarity)
    return matches[0] if matches else None


def suggest(word: str, choices: Iterable[str]) -> str:
    """End a message: `; did you mean 'learning_rate'?`, or what there is to choose from when none is near."""
    choices = sorted(choices)
    if (choice := nearest(word, choices)) is not None:
        return f"; did you mean '{choice}'?"
    return f"; there are: {', '.join(choices) or 'none'}" if len(choices) <= 30 else ""


def parse(path: Path, data: dict[str, Any], model: type[M]) -> M:
    """Validate `data`, read from `path`, against `model`.

    Raises:
        ConfigError: naming the file and every wrong key, with the nearest known key.
    """
    try:
        return model.model_validate(data)
    except ValidationError as e:
        lines = [_explain(model, err) for err in e.errors()]
    raise ConfigError("\n".join(f"{path}: {line}" for line in lines))


def load(path: Path, model: type[M]) -> M:
    """Read and validate one recipe file. Raises ConfigError."""
    return parse(path, read_yaml(path), model)


def digest(config: BaseModel) -> str:
    """Compute the SHA-256 of a configuration's canonical JSON: the identity of its values, not of its layout."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_trainer(
    path: Path,
    trainer: dict[str, Any],
    config_class: type[Any],
    reserved: Iterable[str] = (),
    section: str = "trainer",
) -> None:
    """Check a `trainer:` (or `peft:`) mapping against the library's own config class, before anything expensive.

    Raises:
        ConfigError: naming every key that the class does not have, that the stage sets itself, or that has text, a list
            or a mapping in the place of a number.
    """
    fields = set(config_class.__dataclass_fields__)
    wrong = []
    for key in trainer:
        if key in reserved:
            wrong.append(f"{path}: {section}.{key} is set by the stage itself; remove it")
        elif key not in fields:
            hint = suggest(key, fields)
            wrong.append(f"{path}: unknown key '{section}.{key}'{hint} ({config_class.__name__})")
    for key, expected in value_types.wrong(trainer, config_class):
        wrong.append(f"{path}: {section}.{key} is {trainer[key]!r}; expected {expected} ({config_class.__name__})")
    if wrong:
        raise ConfigError("\n".join(wrong))


def _explain(model: type[BaseModel], err: Any) -> str:
    loc = ".".join(str(part) for part in err["loc"])
    if err["type"] == "extra_forbidden":
        return f"unknown key '{loc}'{suggest(str(err['loc'][-1]), _fields_at(model, err['loc'][:-1]))}"
    if err["type"] == "missing":
        return f"missing key '{loc}'"
    return f"'{loc}' is {err.get('input')!r}: {err['msg']}"


def _fields_at(model: Any, loc: tuple[Any, ...]) -> list[str]:
    """List the field names of the section at `loc`, looking through lists, dicts and unions."""
    sections = [model]
    for part in loc:
        inner: list[Any] = []
        for section in sections:
            field = section.model_fields.get(part)
            inner += _sections(field.annotation) if field else [section]
        sections = inner
    return [name for section in sections for name in section.model_fields]


def _sections(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [s for arg in get_args(annotation) for s in _sections(arg)]
