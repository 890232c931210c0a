"""Names of data sets and of what lies in them, in every file that names one: sets, kinds of rows, graders, columns."""

import importlib
from collections.abc import Collection, Iterator
from typing import Any

from tasks import distill, label, merge, online_dpo, ppo, prune, quantize, rejection
from tasks.base import Config as BaseConfig
from tasks.base import ScratchModel
from tasks.check.files import Recipe
from tasks.check.metrics import row_files
from tasks.data import Config as DataConfig
from tasks.export_onnx import Config as ExportConfig
from tasks.grpo import Config as GrpoConfig
from tasks.ingestion.mapping import kind_of
from tasks.judge import Config as JudgeConfig
from tasks.self_training.rounds import RoundsConfig
from tasks.stage import recipe
from tasks.stage.config import StageConfig, suggest
from tasks.stage.errors import ConfigError
from tasks.stage.trainer_config import TrlConfig
from tasks.training import fates

KINDS: dict[Any, str] = {
    fates.answers: "sft",
    fates.pairs: "preferences",
    fates.compared: "preferences",
    fates.rated: "feedback",
}
"""What a stage makes of its rows, its `row_rule`, to the kind of set that has such rows."""
PAIRS = "preferences"


def check(under_check: Recipe) -> Iterator[str]:
    """Check every name of a set, of a grader's metric and of a column of the recipe's `data`."""
    data = under_check.of("data.yaml", DataConfig)
    if data is None:
        return
    path = under_check.folder / "data.yaml"
    for name, chosen in data.sets.items():
        for at, rows in enumerate(chosen.rows):
            if rows.source not in data.sources:
                key = f"sets.{name}.rows.{at}.source"
                yield f"{path}: {key} is '{rows.source}', which `sources` has not{suggest(rows.source, data.sources)}"
    elsewhere = _learning_elsewhere(under_check)
    for file, config in sorted(under_check.configs.items()):
        if file in elsewhere:
            continue
        for key, dataset, kind in _named(config, under_check.readers[file]):
            if dataset is not None:  # null takes what rows there are
                yield from _set(f"{under_check.folder / file}: {key}", dataset, kind, data)
        yield from (f"{under_check.folder / file}: {fault}" for fault in _others(under_check, file, config, data))


def _learning_elsewhere(under_check: Recipe) -> set[str]:
    """Name the files of models that learn from other data than `data.yaml`, or from labels."""
    models = under_check.graph.models.items()
    return {f"{name}.yaml" for name, model in models if recipe.DATA_KEY in model.values or "labels" in model.values} | {
        f"export_{data}.yaml" for data in under_check.graph.export_media.values()
    }


def _named(config: StageConfig, module: str) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield each key of a file that names a set, the set, and the kind that it has to be of; None for any."""
    if isinstance(config, TrlConfig):
        yield "dataset", config.dataset, _kind(module)
    if isinstance(config, RoundsConfig):
        yield from (("replay", name, "sft") for name in config.replay)
    if isinstance(config, distill.Config):
        for name, method in config.methods.items():
            for prompts in method.answers.prompts if method.answers is not None else ():
                yield f"methods.{name}.answers.prompts", prompts, None
    if isinstance(config, label.Config):
        yield "dataset", config.dataset, "prompts"
    if isinstance(config, merge.Config):
        yield from ((f"metrics.{name}.dataset", metric.dataset, "prompts") for name, metric in config.metrics.items())
    if isinstance(config, prune.Config | quantize.Config):
        yield "calibration.dataset", config.calibration.dataset, None
        yield "held_out.answers", config.held_out.answers, "sft"
        if config.held_out.prompts is not None:
            yield "held_out.prompts", config.held_out.prompts, None
    if isinstance(config, ExportConfig):
        for name, form in config.forms.items():
            if form.gptq is not None:
                yield f"forms.{name}.gptq.calibration.dataset", form.gptq.calibration.dataset, None


def _kind(module: str) -> str | None:
    stage = importlib.import_module(f"tasks.{module}")
    rule = getattr(stage, "row_rule", None)
    if rule is fates.prompts:
        return "prompts"
    return KINDS.get(rule) or (PAIRS if module == "judge" else None)


def _set(place: str, name: str, kind: str | None, data: DataConfig) -> Iterator[str]:
    fitting = [known for known in data.sets if kind is None or kind_of(known) == kind]
    if name not in data.sets:
        yield f"{place} is '{name}', and data.yaml has no such set{suggest(name, fitting or data.sets)}"
    elif kind is not None and name not in fitting:
        there = f"; there are: {', '.join(fitting)}" if fitting else f"; add a set '{kind}' to data.yaml"
        yield f"{place} is '{name}', and rows of '{kind}' are needed here{there}"


def _others(under_check: Recipe, file: str, config: StageConfig, data: DataConfig) -> Iterator[str]:
    """What a file names besides sets."""
    if isinstance(config, BaseConfig) and isinstance(config.source, ScratchModel) and "pretrain" not in data.sets:
        yield "source.scratch learns from the set 'pretrain', which data.yaml has not; add it, or name a model"
    rows = config.parity.rows if isinstance(config, ExportConfig) else None
    if rows is not None and rows not in (made := set(row_files(data))):
        yield f"parity.rows is '{rows}', which no set of data.yaml makes{suggest(rows, made)}"
    if isinstance(config, label.Config):
        try:
            label.gold_grader(under_check.folder / file, config.gold)
        except ConfigError as e:
            yield str(e).removeprefix(f"{under_check.folder / file}: ")
    if isinstance(config, JudgeConfig) and not (path := under_check.folder / config.constitution).is_file():
        near = suggest(path.name, [p.name for p in path.parent.glob("*")])
        yield f"constitution is '{config.constitution}', and there is no file {path}{near}"
    if isinstance(config, GrpoConfig):
        yield from _curriculum(config, data)
    if isinstance(config, RoundsConfig):
        yield from _rounds(config)
    yield from _gold(config)


def _curriculum(config: GrpoConfig, data: DataConfig) -> Iterator[str]:
    chosen = data.sets.get(config.dataset)
    if config.curriculum is None or chosen is None:
        return
    columns: Collection[str] = set.intersection(*(set(rows.map) for rows in chosen.rows))
    if config.curriculum not in columns:
        yield (
            f"curriculum is '{config.curriculum}', and not all rows of '{config.dataset}' have such a column"
            f"{suggest(config.curriculum, columns)}; add it to the maps in data.yaml"
        )


def _rounds(config: RoundsConfig) -> Iterator[str]:
    """What is wrong with what answers are kept by; a grader's score is from -1 to 1."""
    most = sum(abs(spec.weight) for spec in config.graders.values())
    if config.accept > most:
        yield f"accept is {config.accept:g}, and the graders' weighted sum is {most:g} at most: no answer is kept"
    if isinstance(config, rejection.Config) and config.hint is not None:
        try:
            config.hint.format(question="", answer="")
        except (KeyError, IndexError, ValueError) as e:
            yield f"hint: {e!r}; it may name {{question}} and {{answer}}, and other braces are doubled"


def _gold(config: Any) -> Iterator[str]:
    """What is wrong with graders that reinforcement learning is held against, or paid by."""
    paid = isinstance(config, GrpoConfig | ppo.Config | online_dpo.Config)
    if paid and config.gold is not None and config.gold not in config.graders:
        yield f"gold is '{config.gold}', which is no grader{suggest(config.gold, config.graders)}"
    optimised = isinstance(config, GrpoConfig | ppo.Config)
    weights = [spec.weight for spec in config.graders.values()] if optimised else [1]
    if not any(weights) and not (isinstance(config, ppo.Config) and config.reward_weight):
        yield "all weights of graders are 0, so that no answer is worth more than another; raise one"
    if isinstance(config, online_dpo.Config):
        for name, spec in config.graders.items():
            if spec.weight:
                yield f"graders.{name}.weight is {spec.weight:g}; the judge alone decides here, so write 0"
