"""Evaluate a reader with the index that it reads from: answers, citations, abstention, attacks, and retrieval itself.

The questions are asked as `tasks/evaluate.py` asks them, greedily and through lm-evaluation-harness. The rows show
passages, each question under several conditions (`tasks/retrieval/answered.py`): closed book, with the passages that
the index finds, with the right one, with others alone, and with passages that attack. No judge is asked: what is
counted is exact, so two runs agree to the bit. What is left out: whether an answer follows from a passage that words it
differently, and answers of several sentences.

`results.json` has what `tasks/evaluate.py` writes and, shortened:

    {"tasks": {"facts": {"metrics": …, "groups": {"condition": {"retrieved": {"exact_match": {"value": .85, …}}}},
      "rag": {"conditions": {"retrieved": {"rows": 200, "exact_match": …, "f1": …, "abstained": …}},
              "citations": {"answered": 371, "precision": …, "recall": …, "quoted": …},
              "abstention": {"precision": …, "recall": …, "f1": …, "wrongly": …, "invented": …},
              "planted": {"followed": …, "exact_match": …, "difference": …, "by_wording": …, "by_position": …},
              "contradicting": {"exact_match": …, "lure": …}, "poisoned": {"exact_match": …, "lure": …}},
      "retrieval": {"questions": 200, "legs": {"lexical": {"recall@1": …, "ndcg@10": …, …}, "dense": …, "fused": …},
                    "fused_over": {"lexical": …, "dense": …},
                    "found_by": {"both": …, "lexical": …, "dense": …, "neither": …}}}}}

Each `…` is `value`, `low` and `high`. Beside it lie `samples/`, whose rows have the condition and the passages too,
`tasks/`, and the format of the prompts, `prompt.json`.
Seconds of embedding, searching and reading differ from run to run and are measurements of the run.
"""

import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks import evaluate
from tasks.evaluation.task_files import load_task, read_rows, rows_file
from tasks.retrieval import answered, legs
from tasks.retrieval.answered import CONDITIONS
from tasks.retrieval.grounding import grounding
from tasks.retrieval.index import Index
from tasks.retrieval.prompts import PROMPT, PromptFormat, read_format
from tasks.retrieval.robustness import robustness
from tasks.stage.artifact import read_json, read_jsonl, write_json, write_jsonl
from tasks.stage.config import Strict, suggest
from tasks.stage.errors import ArtifactError, ConfigError
from tasks.stage.lifecycle import Run, stage


class Retrieval(Strict):
    """How the index is searched."""

    by: legs.Leg
    """Leg that found the passages of the rows, as in the recipe file that they were made by."""
    timed: int = Field(ge=1)
    """Questions that are searched for one at a time, to measure the seconds of one."""


class Config(evaluate.Config):
    """`params/<recipe>/evaluate_<data>.yaml` of a data set whose questions show passages."""

    retrieval: Retrieval
    """How the index is searched."""
    without_attack: str
    """Condition whose rows show the passages of `planted` without the instruction."""


def main(config: Config, run: Run, *, model: Path, index: Path, data: Path) -> None:
    """Write `results.json`, the samples, the task files and `prompt.json`.

    Raises:
        ArtifactError: the rows were made from another index, show other passages than it finds, or lack a column.
        ConfigError: a task, or the condition without attack, is unknown.
    """
    if config.without_attack not in CONDITIONS:
        hint = suggest(config.without_attack, CONDITIONS)
        raise ConfigError(f"{run.params_file}: without_attack is '{config.without_attack}'{hint}")
    form = read_format(data)
    tasks = _read_tasks(config, run, data)
    _check_index(run, index, data)
    with run.timed("index_open"):
        opened = Index.open(index)
    found = {name: _retrieval(config, run, opened, rows, form, path) for name, (path, rows) in tasks.items()}
    evaluate.main(config, run, model=model, data=data)
    results = read_json(run.out / "results.json")
    texts = {chunk.id: chunk.text for chunk in opened.chunks}
    for name, (_, rows) in tasks.items():
        file = run.out / "samples" / f"{name}.jsonl"
        samples = read_jsonl(file)
        said = answered.read(rows, samples, form, texts)
        write_jsonl(file, [sample | row.facts(texts) for sample, row in zip(samples, said, strict=True)])
        results["tasks"][name] |= {
            "rag": grounding(said, texts, config) | robustness(said, config.without_attack, config),
            "retrieval": found[name],
        }
    questions = sum(len(rows) for _, rows in tasks.values())
    run.measure(read_seconds_per_question=round(run.measured["answering_seconds"] / questions, 6))
    shutil.copyfile(data / PROMPT, run.out / PROMPT)
    write_json(run.out / "results.json", results)


def _read_tasks(config: Config, run: Run, data: Path) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """Task name to the file of its rows and the rows, checked."""
    tasks = {}
    for choice in config.own:
        path = run.params_file.parent / choice.file
        task = load_task(path)
        listed = {metric["metric"] for metric in task["metric_list"]}
        if missing := [metric for metric in answered.METRICS if metric not in listed]:
            raise ConfigError(f"{path}: metric_list has no {', '.join(missing)}; name a grader that gives them")
        rows = read_rows(path, task, choice, data)
        file = data / rows_file(path, task)
        answered.check(rows, file)
        tasks[str(task["task"])] = file, rows
    return tasks


def _check_index(run: Run, index: Path, data: Path) -> None:
    """Refuse rows whose passages are of another index than the one given."""
    made_from, given = run.manifests["data"].inputs.get("index"), run.manifests["index"].digest
    if made_from != given:
        source = f"the index {made_from[:12]}…" if made_from else "no index"
        raise ArtifactError(
            f"{data}: its passages come from {source}, and {index} is {given[:12]}…; make both anew with `polm run`, "
            f"or name the index that the rows were made from"
        )


def _retrieval(
    config: Config, run: Run, index: Index, rows: list[dict[str, Any]], form: PromptFormat, path: Path
) -> dict[str, Any]:
    """Score the index on the questions of a task, after a look whether it finds the passages that the rows show."""
    legs.check_shown(index, rows, config.retrieval.by, form, path)
    questions = legs.questions(rows)
    seconds = legs.latency(index, questions[: config.retrieval.timed])
    run.measure(**{f"{part}_seconds_per_question": round(value, 6) for part, value in seconds.items()})
    run.progress.update(len(questions), len(questions), "searching", **seconds)
    return legs.compare(index, questions, form, config.resamples, config.seed)


if __name__ == "__main__":
    stage(main, Config)
