"""Evaluate one model: let it answer the held-out questions, grade every answer, and say how sure the score is.

lm-evaluation-harness asks the questions through the model's chat template; a task is one of its YAML files under
`params/<recipe>/eval/`, which names the rows (in the data artifact) and the grader: a function in
`tasks/grading/answers.py`, or in the recipe's own `graders.py`. Or it is a benchmark that the harness has by name,
whose documents the data artifact holds; what the harness itself writes then lies in `lm_eval/`. Decoding is greedy, so
the same model gives the same answers. `--model` is a model folder, or a form of an export (`artifacts/onnx/sft/int8`),
which answers on ONNX Runtime, so that what is served is what is judged. What is left out: sampling several answers per
question, and a judge model. The intervals here are of one model; whether one model is better than another is decided by
the paired interval in the report, from the per-row scores kept here.

One row of `samples/sums.jsonl`:

    {"id": "…", "question": "Add 58 and 67.", "answer": "125", "response": "The answer is 125.",
     "scores": {"exact_match": 1.0, "courteous": 0.0, "helpful": 0.0}}
"""

import os
import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Tag

from tasks.evaluation import benchmarks, pictures, transcripts
from tasks.evaluation.benchmarks import BenchmarkChoice
from tasks.evaluation.context import TooLong
from tasks.evaluation.task_files import TaskChoice, check_media, load_task, read_rows
from tasks.grading.bootstrap import mean_interval
from tasks.multimodal.controls import REVERSED
from tasks.multimodal.sounds import has_audio
from tasks.stage.artifact import write_json, write_jsonl
from tasks.stage.config import StageConfig, one_of
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage

Choice = Annotated[
    Annotated[TaskChoice, Tag("(file)")] | Annotated[BenchmarkChoice, Tag("(benchmark)")],
    one_of("a task", "file", "benchmark"),
]
"""A task: one that the recipe writes, or one that others publish."""


class Config(StageConfig):
    """`params/<recipe>/evaluate.yaml`."""

    tasks: list[Choice]
    """What to ask."""
    batch_size: int
    """Rows answered at once. Padding makes it change the bits of log-probabilities, and rarely an answer."""
    device: str
    """Where the model runs: `cpu`, `cuda`, `cuda:1`."""
    vllm: dict[str, Any] | None = Field(default=None, exclude_if=lambda vllm: vllm is None)
    """Arguments of the harness's vLLM model, e.g. `gpu_memory_utilization: 0.8`; null: the model runs on PyTorch."""
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

    @property
    def own(self) -> list[TaskChoice]:
        """Tasks that the recipe writes, without the benchmarks."""
        return [choice for choice in self.tasks if isinstance(choice, TaskChoice)]


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Write `results.json`, `samples/<task>.jsonl` and the task files that were used (`tasks/<task>.yaml`)."""
    tasks = []
    for choice in config.own:
        path = run.params_file.parent / choice.file
        tasks.append((path, task := load_task(path), read_rows(path, task, choice, data)))
        _check_too_long(config, run.params_file, path, task)
    os.environ["TQDM_DISABLE"] = "1"  # the stage has a progress report of its own
    with run.timed("import"):
        from tasks.evaluation import harness
    built = [harness.build_task(*task) for task in tasks]
    exported = (model / "genai_config.json").is_file()
    published = benchmarks.prepare_all(
        config.tasks, run.params_file, data, model, config.seed, config.too_long, [task["task"] for _, task, _ in tasks]
    )
    heard = any(has_audio(rows) for _, _, rows in tasks)
    lm = _load_export(config, run, model, data) if exported else _load(config, run, model, data, heard)
    check_media(config.own, tasks, lm, model)
    with run.timed("answering"):
        answered = harness.ask(lm, built, config.seed) if built else {}
        controlled = _ask_controls(config, lm, tasks, built)
    results = {}
    for choice, (path, task, rows) in zip(config.own, tasks, strict=True):
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
            by_sound: dict[str, pictures.Samples] = {
                "own": answered[name],
                **{control: controlled[control][name] for control in choice.controls},
            }
            voice = next(iter(choice.group_by), None)
            results[name]["word_error_rate"] = {
                sound: transcripts.pooled(rows, samples, voice, config) for sound, samples in by_sound.items()
            }
        (run.out / "tasks").mkdir(exist_ok=True)
        shutil.copyfile(path, run.out / "tasks" / f"{name}.yaml")
    if published:
        from tasks.evaluation import benchmark_results

        with run.timed("benchmarks"):
            results |= benchmark_results.ask_all(run.out, lm, published, config, run.name)
    form = {"form": model.name} if exported else {}
    write_json(run.out / "results.json", {"model": run.name, **form, "tasks": results})


def _check_too_long(config: Config, params_file: Path, path: Path, task: dict[str, Any]) -> None:
    """Refuse to count an unanswered question as 0 where 0 is the best."""
    lower = [metric["metric"] for metric in task["metric_list"] if not metric["higher_is_better"]]
    if config.too_long == "unanswered" and task["output_type"] == "generate_until" and lower:
        raise ConfigError(
            f"{params_file}: `too_long: unanswered` scores 0, the best of {', '.join(lower)} in {path}; set `error`"
        )


def _ask_controls(
    config: Config, lm: Any, tasks: list[Any], built: list[Any]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Ask the tasks that have controls again, once for each. Returns control to task to answers."""
    from tasks.evaluation import harness

    controlled: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for control in sorted({control for choice in config.own for control in choice.controls}):
        lm.control = control
        lm.uncontrolled.clear()
        chosen = [i for i, choice in enumerate(config.own) if control in choice.controls]
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


def _load(config: Config, run: Run, model: Path, data: Path, heard: bool) -> Any:
    from tasks.evaluation import harness
    from tasks.models.multimodal import is_multimodal, load_processor

    if is_multimodal(model):
        from tasks.evaluation.multimodal_model import MultimodalLM
        from tasks.evaluation.speech_model import SpeechLM
        from tasks.multimodal.hearing import hears

        reader = load_processor(model)
        by_ear = hears(reader) and (heard or not getattr(reader, "image_token", None))
        return (SpeechLM if by_ear else MultimodalLM)(
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
    if config.vllm is not None:
        from tasks.evaluation import vllm_model

        return vllm_model.load(
            model, config.vllm, config.dtype, config.batch_size, config.chat_template_args, config.too_long, config.seed
        )
    return harness.load(
        model, config.device, config.dtype, config.batch_size, config.chat_template_args, config.too_long, run.progress
    )


def _load_export(config: Config, run: Run, folder: Path, data: Path) -> Any:
    from tasks.export.multimodal_session import is_hearing, is_seeing

    if is_seeing(folder) or is_hearing(folder):
        from tasks.evaluation.onnx_multimodal_model import OnnxSeeingLM
        from tasks.evaluation.onnx_speech_model import OnnxSpeechLM

        return (OnnxSpeechLM if is_hearing(folder) else OnnxSeeingLM)(
            folder, config.threads, config.chat_template_args, config.too_long, run.progress, data, config.seed
        )
    from tasks.evaluation.onnx_model import OnnxLM

    return OnnxLM(folder, config.threads, config.batch_size, config.chat_template_args, config.too_long, run.progress)


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
