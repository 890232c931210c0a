"""The files of a new recipe besides the settings of its models: graph, data, base model, evaluation, export."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.authoring import choices, export_file
from flows.authoring.choices import Machine
from flows.authoring.graph import ROWS, Planned
from flows.authoring.model import Model
from flows.authoring.rows import Plan
from flows.authoring.stages import settings
from flows.authoring.yaml_text import flow, line, section

ASKED = {True: 500, False: 200}
"""Most rows that an evaluation task asks, with a GPU and without one."""
WIDTH = 120
"""Characters of a line up to which a map stands in one."""
BENCHMARKED = {True: None, False: 100}
"""Most rows of a benchmark that are asked, with a GPU and without one."""


def write(
    name: str,
    model: Model,
    models: Sequence[Planned],
    plan: Plan,
    here: Machine,
    benchmarks: Sequence[str],
) -> dict[str, str]:
    """Write every file of a recipe, as text.

    Args:
        name: of the recipe.
        model: the model that it starts from.
        models: its graph.
        plan: sets and evaluation tasks.
        here: the machine that it is for.
        benchmarks: tasks of lm-evaluation-harness.

    Returns:
        Name of each file in the recipe's folder to its text.
    """
    files = {
        "recipe.yaml": _graph(name, models, plan, benchmarks),
        "data.yaml": _data(plan, here, benchmarks),
        "base.yaml": base(model, here),
        "evaluate.yaml": _evaluate(plan, model, here, benchmarks),
    }
    for task in plan.tasks:
        files[f"eval/{task}.yaml"] = _TASKS[task](plan, model)
    for planned in models:
        files[f"{planned.settings}.yaml"] = settings(planned, model, plan, here)
    if exported(models):
        files["export_onnx.yaml"] = export_file.export(here, None)
    return files


def exported(models: Sequence[Planned]) -> list[str]:
    """Name the models that are exported: all that can be promoted, those that answer and are not packed.

    One that others come from is among them: where its children are refused, it is what can be served.
    """
    return [planned.name for planned in models if planned.answers and planned.method != "quantize"]


def _claim(method: str, plan: Plan) -> str | None:
    """Choose the metric that a method is there to improve."""
    if method in ("dpo", "kto"):
        return "pairs.accuracy" if "pairs" in plan.tasks else None
    learnt = [source for source, _ in plan.sets[ROWS[method]]]
    rows = {task: sum(s.sample.total for s in asked if s in learnt) for task, asked in plan.tasks.items()}
    task = max(rows, key=lambda name: rows[name], default=None)
    return f"{task}.{'exact_match' if task == 'answers' else 'nats_per_byte'}" if task is not None else None


def _graph(name: str, models: Sequence[Planned], plan: Plan, benchmarks: Sequence[str]) -> str:
    lines = ["# The graph: method, its models, what each is made from, and the metric it is there to improve."]
    lines += [line("recipe", name)]
    for method in dict.fromkeys(planned.method for planned in models):
        lines.append(line(method, ...))
        for planned in (p for p in models if p.method == method):
            claim = _claim(method, plan) if planned.answers and (plan.tasks or benchmarks) else None
            lines.append(line(planned.name, {**planned.values, **({"claim": claim} if claim else {})}, indent=2))
    lines.append(line("evaluate", ["base", *(planned.name for planned in models if planned.answers)]))
    lines.append(line("export", exported(models), "to ONNX: what `polm promote` and `polm serve` take"))
    lines.append(line("forms", export_file.FORMS, "of each export, evaluated"))
    return "\n".join(lines) + "\n"


def base(model: Model, here: Machine) -> str:
    """Write base.yaml: where the model comes from."""
    size = f"{model.parameters / 1e6:,.1f} M parameters" if model.parameters else "size unknown"
    dtype = "bfloat16" if here.gpu else "float32"
    lines = [
        f"# {model.name}: {model.family}, {size}, {model.layers} layers, {model.context} tokens, {model.dtype}.",
        f"# It {model.special}. Chat template: {model.template}.",
        line("seed", 1),
        line("threads", here.threads, "threads of torch and BLAS; changes the bits"),
        line("dtype", dtype, f"for {here.words}"),
        *section("source", model.source, {"revision": "commit that the hub has now"}),
    ]  # fmt: skip
    if model.given is not None:
        lines += ["chat_template: |-", *(f"  {text}" for text in model.given.splitlines())]
        if model.given.endswith("\n"):
            lines[-1 - len(model.given.splitlines())] = "chat_template: |"
    else:
        lines.append(line("chat_template", None, "its own"))
    return "\n".join(lines) + "\n"


def _data(plan: Plan, here: Machine, benchmarks: Sequence[str]) -> str:
    sources = {s.key: s for entries in plan.sets.values() for s, _ in entries}
    bad = max(1 - source.format.sure for source in sources.values())
    said = f"of a source's rows, 0 to 1; of those looked at, {bad:.1%} at most"
    lines = [
        line("seed", 0, "of the split, the order of rows and MinHash"),
        line("threads", here.threads),
        line("split", {"validation": plan.validation, "test": plan.test}, "shares of the groups, 0 to 1"),
        line("scrub", ["email", "key"], "add phone and card where numbers are not the subject"),
        line("near_duplicates", {"threshold": 0.8, "permutations": 128, "ngram": 3}, "Jaccard, hashes, words"),
        line("decontamination", {"ngram": 8, "overlap": 0.8}, "words, share of an evaluation text's n-grams"),
        line("max_bad_share", max(0.01, min(1.0, round(1.5 * bad + 0.005, 2))), said),
        line("report_examples", 5),
    ]  # fmt: skip
    if benchmarks:
        entry = {"limit": BENCHMARKED[here.gpu], "num_fewshot": None, "unsafe_code": False}
        said = "frozen here; null: the task's own number of examples"
        lines += section("benchmarks", dict.fromkeys(benchmarks, entry), {}, said)
    lines.append("sources:")
    for key, source in sources.items():
        sure = f"{source.format.name}; {source.format.sure:.0%} of {len(source.sample.rows)} rows looked at"
        lines += [line(key, ..., sure, 2), *(line(k, v, indent=4) for k, v in source.sample.source.items())]
    lines.append("sets:")
    for kind, entries in plan.sets.items():
        near = kind == "sft" and not any(source.short for source, _ in entries)
        lines += _set(kind, near, [(source.key, m) for source, maps in entries for m in maps], None)
    for task, asked in plan.tasks.items():
        rows = [(source.key, source.format.maps["eval"][0]) for source in asked]
        lines += _set(f"eval:{task}", False, rows, ASKED[here.gpu])
    return "\n".join(lines) + "\n"


def _set(name: str, near: bool, rows: Sequence[tuple[str, Mapping[str, Any]]], limit: int | None) -> list[str]:
    lines = [line(name, ..., indent=2), line("near_duplicates", near, indent=4), line("rows", ..., indent=4)]
    for key, template in rows:
        lines += [
            line("- source", key, indent=6),
            line("split", "hash", indent=8),
            line("limit", limit, indent=8),
        ]
        whole = line("map", dict(template), indent=8)
        columns = [line(column, value, indent=10) for column, value in template.items()]
        lines += [whole] if len(whole) <= WIDTH else [line("map", ..., indent=8), *columns]
    return lines


def evaluation(model: Model, here: Machine, batch: int) -> list[str]:
    """Write how an evaluation asks, up to its tasks; `batch` rows are answered at once."""
    return [
        line("seed", 0),
        line("threads", here.threads, "threads of torch and BLAS; changes the bits"),
        line("device", here.device),
        line("dtype", "bfloat16" if here.gpu else "float32"),
        line("batch_size", batch, "rows answered at once"),
        line("chat_template_args", model.template_args, "passed to the chat template"),
        line("too_long", "error", "a question that does not fit the context: error, or unanswered (scores 0)"),
        line("resamples", 2000, "bootstrap samples of each interval"),
        line("confidence", 0.95, "coverage of the intervals"),
        "tasks:",
    ]


def _evaluate(plan: Plan, model: Model, here: Machine, benchmarks: Sequence[str]) -> str:
    lines = evaluation(model, here, 64 if here.gpu else 16)
    for task, asked in plan.tasks.items():
        labelled = all("label" in source.format.maps["eval"][0] for source in asked)
        entry = {"file": f"eval/{task}.yaml", "limit": None, "group_by": ["label"] if labelled else []}
        lines.append(f"  - {flow(entry)}")
    entries = [{"benchmark": name, "limit": BENCHMARKED[here.gpu], "num_fewshot": None} for name in benchmarks]
    return "\n".join([*lines, *(f"  - {flow(entry)}" for entry in entries)]) + "\n"


def task(name: str, about: str, output: str, own: Sequence[str], grader: str, metrics: Mapping[str, bool]) -> str:
    """Write a task of lm-evaluation-harness.

    Args:
        name: of the task and of its rows, `eval/<name>.jsonl`.
        about: a sentence on it.
        output: the harness's `output_type`.
        own: lines that tasks of this kind have besides.
        grader: what grades a response.
        metrics: each to whether more of it is better.
    """
    listed = [{"metric": metric, "aggregation": "mean", "higher_is_better": up} for metric, up in metrics.items()]
    return "\n".join([
        f"# {about} Format: lm-evaluation-harness task YAML.",
        line("task", name), line("dataset_path", "json"),
        line("dataset_kwargs", {"data_files": {"test": f"eval/{name}.jsonl"}}, "relative to the data artifact"),
        line("output_type", output), line("doc_to_text", "{{question}}"), line("doc_to_target", "{{answer}}"), *own,
        line("process_results", grader), "metric_list:", *(f"  - {flow(metric)}" for metric in listed),
    ]) + "\n"  # fmt: skip


def _answers(plan: Plan, model: Model) -> str:
    asked = plan.tasks["answers"]
    numeric = all(source.numeric for source in asked)
    longest = max(choices.reply_tokens(lengths, model, most=256) for lengths in plan.lengths.values())
    generation = {"do_sample": False, "max_gen_toks": longest + 16, "until": [model.end]}
    metrics = {"exact_match": True} if numeric else {"exact_match": True, "correct": True}
    own = [line("generation_kwargs", generation, "max_gen_toks: tokens of an answer")]
    about = "Held-out questions with one right answer each."
    return task("answers", about, "generate_until", own, "number" if numeric else "text", metrics)


def _replies(plan: Plan, model: Model) -> str:
    about = "How likely the model finds held-out replies."
    return task("replies", about, "loglikelihood", [], "answer_loss", {"nats_per_byte": False})


def _pairs(plan: Plan, model: Model) -> str:
    own = [line("doc_to_choice", "{{[answer, worse]}}")]
    about = "Held-out pairs: whether the better reply is the likelier one, and how likely it is."
    return task("pairs", about, "multiple_choice", own, "preferred", {"accuracy": True, "nats_per_byte": False})


_TASKS = {"answers": _answers, "replies": _replies, "pairs": _pairs}
