"""The graders of a recipe: found by name, checked before anything runs, weighed, counted.

    graders:
      right: {grader: numeric, weight: 1.0, options: {}}
      form:  {grader: format, weight: 0.2, options: {pattern: "(?s)<think>.*</think>.*"}}
      brief: {grader: overlong, weight: 1.0, options: {max_characters: 400, buffer_characters: 100}}

A grader of weight 0 is tracked and not optimised. One that raises counts as 0 and is reported; it never ends the run.
The graders themselves are in `tasks/rewards/functions.py`.
"""

import inspect
import logging
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from tasks.judges.opening import JudgeSettings, OpenJudge, open_judge
from tasks.rewards import functions
from tasks.stage import own
from tasks.stage.config import Strict, suggest
from tasks.stage.errors import ConfigError, DataError

log = logging.getLogger("polm")

Grader = Callable[..., Any]

PER_RESPONSE = ["response", "row"]
"""First parameters of a grader of one response."""
BATCHED = ["responses", "rows"]
"""First parameters of a grader that takes all responses of a call together."""


class RewardSpec(Strict):
    """One grader of a recipe."""

    grader: str
    """Name of a grader in `tasks/rewards/functions.py`."""
    weight: float = Field(allow_inf_nan=False)
    """Weight in the sum; 0 is tracked and not optimised."""
    options: dict[str, Any]
    """All keyword arguments of the grader."""


class Rewards:
    """The graders of a recipe: scores, their weighted sum, and what went wrong.

    Args:
        specs: name in the recipe to grader.
        where: the recipe file, for messages.
        judge: what the judge stage wrote, an input of the stage; None where it takes none.

    Raises:
        ConfigError: naming every unknown grader, and every unknown, missing or wrong option; a judge that is asked for
            and not there, or an endpoint that refuses the key or the model.
        DataError: an endpoint that cannot be reached now. Later that counts as 0, as whatever a grader raises.
        ModelError: the folder `judge` holds no model that can judge.
    """

    def __init__(self, specs: Mapping[str, RewardSpec], where: Path, judge: Path | None = None) -> None:
        self._graders = named_graders(specs, where)
        self._where = where
        self.names = list(specs)
        self.weights = [spec.weight for spec in specs.values()]
        self.failures = dict.fromkeys(specs, 0)
        """Name to how often the grader raised."""
        self._calls = dict.fromkeys(specs, 0)
        self._examples: dict[str, str | None] = dict.fromkeys(specs)
        self._judges = self._open_judges(judge)

    def score(self, name: str, responses: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Score each response by one grader, on to its row; 0 where it raised."""
        if _parameters(self._graders[name][0])[:2] == BATCHED:
            return self._grade_together(name, responses, rows)
        return [self._grade(name, response, row) for response, row in zip(responses, rows, strict=True)]

    def totals(self, responses: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Sum all graders, weighted, for each response; those of weight 0 run too, so that they are reported."""
        scores = [self.score(name, responses, rows) for name in self.names]
        return [math.fsum(map(operator.mul, self.weights, column)) for column in zip(*scores, strict=True)]

    def report(self) -> dict[str, Any]:
        """Say for each grader `weight`, `calls`, `failures`, and `example`: the first exception as text, or None."""
        return {
            name: {
                "weight": weight,
                "calls": self._calls[name],
                "failures": self.failures[name],
                "example": self._examples[name],
            }
            for name, weight in zip(self.names, self.weights, strict=True)
        }

    def usage(self) -> dict[str, dict[str, float | None]]:
        """Say for each grader that asks a judge what its replies took: `prompt_tokens`, `completion_tokens`, `cost`."""
        return {name: opened.judge.usage() for name, opened in self._judges.items()}

    def _open_judges(self, folder: Path | None) -> dict[str, OpenJudge]:
        """Put a judge in the place of each option that says how to ask one, and try it out."""
        judges: dict[str, OpenJudge] = {}
        for name, (_, options) in self._graders.items():
            for key, settings in options.items():
                if not isinstance(settings, JudgeSettings):
                    continue
                place = f"graders.{name}.options.{key}"
                if folder is None:
                    raise ConfigError(
                        f"{self._where}: {place}: the stage was given no judge; add `--judge artifacts/models/judge` "
                        f"to its command in dvc.yaml and artifacts/models/judge to its deps, or take another grader"
                    )
                judges[name] = open_judge(folder, settings, self._where, f"{place}.endpoint")
                options[key] = judges[name]
                judges[name].try_out()
        return judges

    def _grade(self, name: str, response: str, row: Mapping[str, Any]) -> float:
        grader, options = self._graders[name]
        self._calls[name] += 1
        try:
            return _checked(grader(response, row, **options))
        except Exception as e:
            self._note(name, e)
            return 0.0

    def _grade_together(self, name: str, responses: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Grade all or none: a reply that got lost must not make one answer of a group worth less than the others."""
        grader, options = self._graders[name]
        self._calls[name] += len(responses)
        try:
            scores = [None if score is None else _checked(score) for score in grader(responses, rows, **options)]
            if len(scores) != len(responses):
                raise ValueError(f"{len(scores)} scores for {len(responses)} responses")
        except Exception as e:
            self._note(name, e, len(responses))
            return [0.0] * len(responses)
        for _ in range(scores.count(None)):
            self._note(name, DataError("no score for a response"))
        return [score or 0.0 for score in scores]

    def _note(self, name: str, error: Exception, count: int = 1) -> None:
        self.failures[name] += count
        if self._examples[name] is None:
            self._examples[name] = f"{type(error).__name__}: {error}"
            log.warning(
                "%s: graders.%s failed on a row, which counts as 0 (%s); the stage's report counts how often",
                self._where,
                name,
                self._examples[name],
            )


def named_graders(specs: Mapping[str, RewardSpec], where: Path) -> dict[str, tuple[Grader, dict[str, Any]]]:
    """Find the graders that a recipe file names, and read their options; opens no judge.

    Args:
        specs: name in the recipe to grader.
        where: the recipe file, beside which `graders.py` may hold graders of the recipe's own.

    Returns:
        Name in the recipe to the function and its options.

    Raises:
        ConfigError: naming every unknown grader, and every unknown, missing or wrong option.
    """
    candidates = {**vars(functions), **own.functions(where.parent, "graders")}
    graders = {name: function for name, function in candidates.items() if is_grader(function)}
    resolved: dict[str, tuple[Grader, dict[str, Any]]] = {}
    problems = []
    for name, spec in specs.items():
        if spec.grader in graders:
            options, wrong = _options(f"graders.{name}.options", graders[spec.grader], spec.options)
            resolved[name] = graders[spec.grader], options
            problems += wrong
        else:
            problems.append(f"graders.{name}.grader: no grader '{spec.grader}'{suggest(spec.grader, graders)}")
    if problems:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))
    return resolved


def is_grader(value: Any) -> bool:
    """Tell whether a value of `tasks/rewards/functions.py` is a grader: its parameters begin as a grader's do."""
    return inspect.isfunction(value) and _parameters(value)[:2] in (PER_RESPONSE, BATCHED)


def _parameters(function: Grader) -> list[str]:
    return list(inspect.signature(function).parameters)


def _checked(score: float) -> float:
    if not -1.0 <= float(score) <= 1.0:
        raise ValueError(f"a score is from -1 to 1, got {score}")
    return float(score)


def _options(place: str, grader: Grader, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Read options as the grader takes them (a pattern compiled, a judge's settings), and say what is wrong."""
    hints = get_type_hints(grader, include_extras=True)
    keys = _parameters(grader)[2:]
    problems = [f"unknown key '{place}.{k}'{suggest(k, keys)}" for k in given if k not in keys]
    problems += [f"missing key '{place}.{key}'" for key in keys if key not in given]
    options = {}
    for key in [key for key in keys if key in given]:
        try:
            # A judge is opened when all else is right.
            expected = JudgeSettings if hints[key] is OpenJudge else hints[key]
            options[key] = TypeAdapter(expected).validate_python(given[key])
        except ValidationError as e:
            problems += [_explained(f"{place}.{key}", error) for error in e.errors()]
    return options, problems


def _explained(place: str, error: Any) -> str:
    where = ".".join([place, *map(str, error["loc"])])
    if error["type"] in ("missing", "extra_forbidden"):
        return f"{'missing' if error['type'] == 'missing' else 'unknown'} key '{where}'"
    return f"'{where}' is {error['input']!r}: {error['msg']}"
