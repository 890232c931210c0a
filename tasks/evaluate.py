"""Evaluate one model: let it answer the held-out questions, grade every answer, and say how sure the score is.

lm-evaluation-harness asks the questions through the model's chat template; a task is one of its YAML files under
`params/<recipe>/eval/`, which names the rows (in the data artifact) and the grader: a function in
`tasks/grading/answers.py`, or in the recipe's own `graders.py`. Decoding is greedy, so the same model gives the same
answers. `--model` is a model folder, or one form of an export (`artifacts/onnx/sft/int8`), which answers on ONNX
Runtime, so that what is served is what is judged. What is left out: sampling several answers per question, and a judge
model. The intervals here are of one model; whether one model is better than another is decided by the paired interval
in the report, from the per-row scores kept here.

One row of `samples/sums.jsonl`:

    {"id": "…", "question": "Add 58 and 67.", "answer": "125", "response": "The answer is 125.",
     "scores": {"exact_match": 1.0, "courteous": 0.0, "helpful": 0.0}}
"""

import inspect
import os
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.evaluation import pictures, transcripts
from tasks.evaluation.context import TooLong
from tasks.grading import answers, speech
from tasks.grading.bootstrap import mean_interval
from tasks.models.checks import brief
from tasks.multimodal.controls import HEARD, REVERSED, SHOWN, Control
from tasks.multimodal.images import has_images
from tasks.multimodal.sounds import has_audio
from tasks.stage import own
from tasks.stage.artifact import read_jsonl, write_json, write_jsonl
from tasks.stage.config import StageConfig, Strict, read_yaml, suggest
from tasks.stage.errors import ArtifactError, ConfigError, PolmError
from tasks.stage.lifecycle import Run, stage

OWN = "graders"
"""Module of a recipe's own graders, `graders.py` in its folder."""


class TaskChoice(Strict):
    """One evaluation task."""

    file: str
    """lm-eval task YAML, relative to the recipe's folder."""
    limit: int | None
    """Rows to ask, from the first; null asks all."""
    group_by: list[str]
    """Columns of the rows whose values are scored separately too."""
    controls: list[Control] = Field(default=[])
    """Pictures with which every question is asked again: `noise`, `black`, `other` (of a row of the same `kind`, if
    rows have that column, and as many pictures, whose `answer` differs; where there is none, the row's own); of clips
    also `shuffled`, `repeated` and `reversed`, for which rows need a column `reversed`: the answer then right. Sounds
    have `noise`, `silence` and `other`."""


class Config(StageConfig):
    """`params/<recipe>/evaluate.yaml`."""

    tasks: list[TaskChoice]
    """What to ask."""
    batch_size: int
    """Rows answered at once. Padding makes it change the bits of log-probabilities, and rarely an answer."""
    device: str
    """Where the model runs: `cpu`, `cuda`, `cuda:1`."""
    dtype: str
    """Data type of the weights, a torch name."""
    chat_template_args: dict[str, Any]
    """Passed to the chat template, e.g. `enable_thinking: false`."""
    too_long: TooLong = "error"
    """A question that does not fit the context with its answer: `error`, or `unanswered`, which scores 0."""
    resamples: int
    """Bootstrap samples of each interval."""
    confidence: float
    """Coverage of the intervals, 0 to 1."""


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Write `results.json`, `samples/<task>.jsonl` and the task files that were used (`tasks/<task>.yaml`)."""
    tasks = []
    for choice in config.tasks:
        path = run.params_file.parent / choice.file
        tasks.append((path, task := load_task(path), read_rows(path, task, choice, data)))
        _check_too_long(config, run.params_file, path, task)
    os.environ["TQDM_DISABLE"] = "1"  # the stage has a progress report of its own
    with run.timed("import"):
        from tasks.evaluation import harness
    built = [harness.build_task(*task) for task in tasks]
    exported = (model / "genai_config.json").is_file()
    hears = any(has_audio(rows) for _, _, rows in tasks)
    lm = _load_export(config, run, model, data) if exported else _load(config, run, model, data, hears)
    _check_media(config, tasks, lm, model)
    with run.timed("answering"):
        answered = harness.ask(lm, built, config.seed)
        controlled = _ask_controls(config, lm, tasks, built)
    results = {}
    for choice, (path, task, rows) in zip(config.tasks, tasks, strict=True):
        name = task["task"]
        results[name] = _summarise(config, choice, task, rows, answered[name])
        write_jsonl(run.out / "samples" / f"{name}.jsonl", answered[name])
        for control in choice.controls:
            write_jsonl(run.out / "samples" / f"{name}@{control}.jsonl", controlled[control][name])
        if choice.controls:
            blind: dict[str, pictures.Samples] = {control: controlled[control][name] for control in choice.controls}
            results[name] |= pictures.compare(
                rows, choice.group_by, answered[name], blind, results[name]["higher_is_better"], config
            )
        if transcripts.METRIC in results[name]["metrics"]:
            heard: dict[str, pictures.Samples] = {
                "own": answered[name],
                **{control: controlled[control][name] for control in choice.controls},
            }
            voice = next(iter(choice.group_by), None)
            results[name]["word_error_rate"] = {
                sound: transcripts.pooled(rows, samples, voice, config) for sound, samples in heard.items()
            }
        (run.out / "tasks").mkdir(exist_ok=True)
        shutil.copyfile(path, run.out / "tasks" / f"{name}.yaml")
    form = {"form": model.name} if exported else {}
    write_json(run.out / "results.json", {"model": run.name, **form, "tasks": results})


def _check_too_long(config: Config, params_file: Path, path: Path, task: dict[str, Any]) -> None:
    """Refuse to count an unanswered question as 0 where 0 is the best."""
    lower = [metric["metric"] for metric in task["metric_list"] if not metric["higher_is_better"]]
    if config.too_long == "unanswered" and task["output_type"] == "generate_until" and lower:
        raise ConfigError(
            f"{params_file}: `too_long: unanswered` scores 0, the best of {', '.join(lower)} in {path}; set `error`"
        )


def _check_media(config: Config, tasks: list[Any], lm: Any, model: Path) -> None:
    """Raise ConfigError where a model does not take what rows show, or controls have nothing to replace."""
    for choice, (path, task, rows) in zip(config.tasks, tasks, strict=True):
        seen, heard = has_images(rows), has_audio(rows)
        if seen and not hasattr(lm, "control"):
            raise ConfigError(f"{path}: its rows show pictures, and {model} takes none; ask it in words, or take a vlm")
        if heard and not hasattr(lm, "control"):
            raise ConfigError(
                f"{path}: its rows have sounds, and {model} takes none; ask it in words, or take a speech"
            )
        if choice.controls and not (seen or heard):
            raise ConfigError(
                f"{path}: its rows show no pictures and have no sound: there is nothing to replace, so drop `controls`"
            )
        for control in choice.controls:
            if control not in (HEARD if heard else SHOWN):
                raise ConfigError(
                    f"{path}: control '{control}' is none of {'sounds' if heard else 'pictures'}; "
                    f"take of {', '.join(HEARD if heard else SHOWN)}"
                )
        if REVERSED in choice.controls and any(REVERSED not in row for row in rows):
            raise ConfigError(
                f"{path}: the control '{REVERSED}' needs a column of that name in every row, the answer where time "
                f"runs backwards; map it in the data"
            )
        if "other" in choice.controls and not all("answer" in row for row in rows):
            raise ConfigError(f"{path}: control `other` needs rows with an `answer`, of which the other row's differs")
        if (seen or heard) and task.get("num_fewshot"):
            what = "pictures" if seen else "sounds"
            raise ConfigError(f"{path}: num_fewshot shows no {what} of its examples; set it to 0")


def _ask_controls(
    config: Config, lm: Any, tasks: list[Any], built: list[Any]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Ask the tasks that have controls again, once for each. Returns control to task to answers."""
    from tasks.evaluation import harness

    controlled: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for control in sorted({control for choice in config.tasks for control in choice.controls}):
        lm.control = control
        lm.uncontrolled.clear()
        chosen = [i for i, choice in enumerate(config.tasks) if control in choice.controls]
        asked = [built[i] for i in chosen]
        if control == REVERSED:  # another answer is right where time runs backwards
            turned = [[{**row, "answer": row[REVERSED]} for row in tasks[i][2]] for i in chosen]
            pairs = zip(chosen, turned, strict=True)
            asked = [harness.build_task(tasks[i][0], tasks[i][1], rows) for i, rows in pairs]
        controlled[control] = harness.ask(lm, asked, config.seed)
    if controlled:
        lm.control = None
        lm.uncontrolled.clear()
    return controlled


def _load(config: Config, run: Run, model: Path, data: Path, hears: bool) -> Any:
    from tasks.evaluation import harness
    from tasks.models.multimodal import is_multimodal

    if is_multimodal(model):
        from tasks.evaluation.multimodal_model import MultimodalLM
        from tasks.evaluation.speech_model import SpeechLM

        return (SpeechLM if hears else MultimodalLM)(
            model,
            config.device,
            config.dtype,
            config.batch_size,
            config.chat_template_args,
            config.too_long,
            run.progress,
            data,
            config.seed,
        )
    return harness.load(
        model, config.device, config.dtype, config.batch_size, config.chat_template_args, config.too_long, run.progress
    )


def _load_export(config: Config, run: Run, folder: Path, data: Path) -> Any:
    from tasks.export.multimodal_session import is_seeing

    if is_seeing(folder):
        from tasks.evaluation.onnx_multimodal_model import OnnxSeeingLM

        return OnnxSeeingLM(
            folder, config.threads, config.chat_template_args, config.too_long, run.progress, data, config.seed
        )
    from tasks.evaluation.onnx_model import OnnxLM

    return OnnxLM(folder, config.threads, config.batch_size, config.chat_template_args, config.too_long, run.progress)


def load_task(path: Path) -> dict[str, Any]:
    """Read a task file and try its grader on a made-up row; needs neither data nor lm-eval.

    Returns:
        The task, with `process_results` resolved to the function.

    Raises:
        ConfigError: a key is missing, the grader is unknown, or its metrics are not those the task lists.
    """
    task = read_yaml(path)
    for key in ("task", "output_type", "doc_to_text", "doc_to_target", "process_results", "metric_list"):
        if key not in task:
            raise ConfigError(f"{path}: missing key '{key}'")
    own_graders = own.functions(path.absolute().parents[1], OWN)
    shipped = {**vars(answers), **vars(speech)}
    graders = {n: grader for n, grader in {**shipped, **own_graders}.items() if _is_grader(grader)}
    name = str(task["process_results"])
    if name not in graders:
        raise ConfigError(f"{path}: unknown process_results '{name}'{suggest(name, graders)}")
    task["process_results"] = graders[name]
    if name not in own_graders:  # a grader of the recipe's own may need columns that only its rows have
        row = {"answer": "1", "messages": [{"role": "assistant", "content": "1"}]}
        _check_metrics(_metrics(task, row), task, path)
    return task


def _metrics(task: dict[str, Any], row: dict[str, Any]) -> set[str]:
    """Metrics that the task's grader gives for a made-up response to a row."""
    return set(task["process_results"](row, _trial(task)))


def _check_metrics(given: set[str], task: dict[str, Any], path: Path) -> None:
    """Raise ConfigError when a grader gives other metrics than the task lists."""
    listed = {metric["metric"] for metric in task["metric_list"]}
    if given != listed:
        name = task["process_results"].__name__
        raise ConfigError(f"{path}: metric_list has {sorted(listed)}, but {name} gives {sorted(given)}")


def _is_grader(value: Any) -> bool:
    return inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["doc", "results"]


def rows_file(path: Path, task: dict[str, Any]) -> str:
    """Name the file of a task's rows in the data artifact. Raises ConfigError where the task names none."""
    try:
        return str(task["dataset_kwargs"]["data_files"]["test"])
    except (KeyError, TypeError):
        raise ConfigError(f"{path}: missing key 'dataset_kwargs.data_files.test', e.g. eval/sums.jsonl") from None


def read_rows(path: Path, task: dict[str, Any], choice: TaskChoice, data: Path) -> list[dict[str, Any]]:
    """Rows that the task at `path` names by `dataset_kwargs.data_files.test`, relative to the data artifact.

    Raises:
        ConfigError: the task names no file.
        ArtifactError: the data artifact has no such rows, or one that lacks a column or that the grader cannot grade.
    """
    file = data / rows_file(path, task)
    if not file.is_file():
        known = sorted(str(p.relative_to(data)) for p in data.rglob("*.jsonl"))
        raise ArtifactError(f"{path}: {file} does not exist{suggest(str(file.relative_to(data)), known)}")
    rows = read_jsonl(file)[: choice.limit]
    if not rows:
        raise ArtifactError(f"{file}: no rows to evaluate on; take more rows in the recipe's data.yaml")
    for number, row in enumerate(rows, 1):
        for column in ("id", *choice.group_by):
            if column not in row:
                raise ArtifactError(f"{file}:{number}: no column '{column}'{suggest(column, row)}")
        _check_metrics(_try_grader(task, row, f"{file}:{number}"), task, path)
    return rows


def _try_grader(task: dict[str, Any], row: dict[str, Any], place: str) -> set[str]:
    """Grade a made-up response to a row: what a grader cannot read would else show once the model has answered."""
    grader = task["process_results"]
    try:
        return _metrics(task, row)
    except KeyError as e:
        raise ArtifactError(f"{place}: no key {e}, which the grader {grader.__name__} reads") from None
    except (PolmError, ValueError, ArithmeticError, TypeError, AttributeError, IndexError) as e:
        held = {key: row[key] for key in ("answer", "messages", "instructions") if key in row}
        raise ArtifactError(
            f"{place}: the grader {grader.__name__} cannot grade this row ({brief(e)}), which has {str(held)[:200]}; "
            f"correct the row, or name another grader as `process_results` of the task"
        ) from None


def _trial(task: dict[str, Any]) -> list[Any]:
    return ["1"] if task["output_type"] == "generate_until" else [(-1.0, False)]


def _summarise(
    config: Config, choice: TaskChoice, task: dict[str, Any], rows: list[dict[str, Any]], answered: list[dict[str, Any]]
) -> dict[str, Any]:
    """Means with intervals, over all rows and over each group of them."""

    def metrics(samples: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            name: vars(
                mean_interval(
                    [sample["scores"][name] for sample in samples],
                    resamples=config.resamples,
                    confidence=config.confidence,
                    seed=config.seed,
                )
            )
            for name in samples[0]["scores"]
        }

    groups: dict[str, dict[str, Any]] = {}
    for column in choice.group_by:
        values = sorted({str(row[column]) for row in rows})
        groups[column] = {
            value: metrics([s for s, r in zip(answered, rows, strict=True) if str(r[column]) == value])
            for value in values
        }
    return {
        "output_type": task["output_type"],
        "samples": len(rows),
        **({"unanswered": left} if (left := sum("unanswered" in sample for sample in answered)) else {}),
        "metrics": metrics(answered),
        "higher_is_better": {metric["metric"]: metric["higher_is_better"] for metric in task["metric_list"]},
        "groups": groups,
    }


if __name__ == "__main__":
    stage(main, Config)
