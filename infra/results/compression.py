"""Tables of merging, pruning, quantisation, distillation and the exported forms."""

from dataclasses import asdict
from itertools import pairwise
from typing import Any

from infra.results.artifacts import Artifacts
from infra.results.markdown import bracket, change, code, count, figure, percent, table, value
from tasks.grading.bootstrap import paired_difference, verdict
from tasks.stage.artifact import read_jsonl

STUDENTS = ("student_alone", "student_answers", "student_logits", "student_on_policy")
"""Students of one teacher, each with one thing more than the one before it."""


def merging(artifacts: Artifacts) -> str:
    """Write each merge beside its members, on the mean of the metrics that its settings were chosen by."""
    rows = []
    merges = {merge["model"]: merge for merge in artifacts.board["merges"]}
    for merge in (merges[model] for model in artifacts.models() if model in merges):
        search = merge["search"]
        members = ", ".join(f"{code(name)} {figure(mean)}" for name, mean in merge["members"].items())
        rows.append(
            [
                code(merge["model"]),
                count(len(search["candidates"])),
                _parameters(search["candidates"][search["chosen"]]["parameters"]),
                value(artifacts.score(merge["model"], "sums.helpful")),
                value(artifacts.score(merge["model"], "instructions.followed")),
                " + ".join(map(code, merge["weights"])),
                figure(merge["average"]),
                members,
                f"{change(merge['difference'])} over {code(merge['best'])}",
            ]
        )
    head = [
        "merge",
        "candidates",
        "chosen on validation rows",
        "`sums.helpful`",
        "`instructions.followed`",
        "mean of",
        "mean",
        "members' means",
        "over the better member, paired, 95 %",
    ]
    return table(head, rows)


def held(artifacts: Artifacts) -> str:
    """Write how much of each member's difference its LoRA adapter holds in a merge of adapters, in squares."""
    rows = []
    for model in artifacts.made_by("merge"):
        search = artifacts.read(f"models/{model}/merge.json")
        chosen = search["candidates"][search["chosen"]]
        if "held" in chosen:
            shares = ", ".join(f"{code(name)} {figure(share)}" for name, share in chosen["held"].items())
            rows.append([code(model), count(chosen["parameters"]["rank"]), shares])
    return table(["merge", "rank", "share of the member's difference that is held"], rows)


def pruning(artifacts: Artifacts) -> str:
    """Write loss and grades before and after pruning and healing, and the score on the test questions."""
    rows = []
    for model in artifacts.made_by("prune"):
        facts, claim = artifacts.read(f"models/{model}/prune.json"), artifacts.claim(model)
        before, pruned, healed = (facts[when] for when in ("before", "pruned", "healed"))
        rows.append(
            [
                code(model),
                *(figure(side["nats_per_token"], 4) for side in (before, pruned, healed)),
                " → ".join(figure(side["grades"]["exact_match"]) for side in (before, pruned, healed)),
                f"{figure(claim['before']['value'])} → {figure(claim['after']['value'])}",
                change(claim["difference"]),
            ]
        )
    head = [
        "model",
        "nats a token, before",
        "pruned",
        "healed",
        "`exact_match` on validation prompts: before → pruned → healed",
        "`sums.exact_match`, test",
        "change, paired, 95 %",
    ]
    return table(head, rows)


def sparsity(artifacts: Artifacts) -> str:
    """Write how many weights are zero or gone."""
    rows = []
    for model in artifacts.made_by("prune"):
        facts = artifacts.read(f"models/{model}/prune.json")
        parameters, zeros = facts["parameters"], facts["sparsity"]
        rows.append(
            [
                code(model),
                count(parameters["before"]),
                count(parameters["after"]),
                percent(zeros["matrices"]),
                percent(zeros["all_weights"]),
            ]
        )
    return table(["model", "parameters before", "after", "zeros in the matrices", "zeros in all weights"], rows)


def quantization(artifacts: Artifacts) -> str:
    """Write how far each quantised model is from its parent, its size, and its score on the test questions."""
    rows = []
    for model in artifacts.made_by("quantize"):
        facts, claim = artifacts.read(f"models/{model}/quantize.json"), artifacts.claim(model)
        rows.append(
            [
                code(model),
                figure(facts["kl_per_token"], 5),
                figure(facts["argmax_agreement"]),
                _megabytes(facts["bytes"]["quantized"]),
                _megabytes(facts["bytes"]["parent"]),
                f"{figure(claim['before']['value'])} → {figure(claim['after']['value'])}",
                change(claim["difference"]),
            ]
        )
    head = [
        "model",
        "KL per token, nats",
        "argmax agreement",
        "MB",
        "parent's MB",
        "`sums.exact_match`",
        "change, paired, 95 %",
    ]
    return table(head, rows)


def students(artifacts: Artifacts) -> str:
    """Write what each student has of its teacher, and over the student that had none."""
    rows = []
    for model in STUDENTS:
        metrics, claim = artifacts.read(f"models/{model}/metrics.json"), artifacts.claim(model)
        teacher = artifacts.board["models"][model]["parent"]
        best = artifacts.score(teacher, "long_sums.exact_match")
        share = percent(claim["after"]["value"] / best["value"]) if best and best["value"] else "–"
        rows.append(
            [
                code(model),
                figure(metrics["share_of_teacher"]),
                _beside(artifacts, model, teacher, "sums.exact_match"),
                _beside(artifacts, model, teacher, "long_sums.exact_match"),
                share,
                f"{change(claim['difference'])} over {code(claim['parent'])}",
            ]
        )
    head = [
        "student",
        "share of the teacher's parameters",
        "`sums.exact_match` (teacher)",
        "`long_sums.exact_match` (teacher)",
        "long sums, of the teacher's",
        "long sums, change, paired, 95 %",
    ]
    return table(head, rows)


def student_steps(artifacts: Artifacts) -> str:
    """Write what each student adds to the one before it."""
    rows = [
        [code(model), code(simpler), *(_difference(artifacts, model, simpler, task) for task in ("sums", "long_sums"))]
        for simpler, model in pairwise(STUDENTS)
    ]
    return table(["student", "over", "`sums.exact_match`", "`long_sums.exact_match`"], rows)


def forms(artifacts: Artifacts) -> str:
    """Write the exported forms' distance from PyTorch, size and score."""
    rows = []
    for form in artifacts.board["forms"]:
        task = "sums" if "sums" in form["tasks"] else min(form["tasks"])  # of pictures or sounds: the sums there
        score = form["tasks"][task]["metrics"]["exact_match"]
        rows.append(
            [
                code(form["model"]),
                form["form"],
                _megabytes(form["bytes"]),
                figure(form["kl_per_token"], 5),
                figure(form["argmax_agreement"]),
                code(task),
                bracket(score),
                change(score["difference"]),
            ]
        )
    head = [
        "model",
        "form",
        "MB",
        "KL per token, nats",
        "argmax agreement",
        "task",
        "exact match",
        "change from PyTorch, paired, 95 %",
    ]
    return table(head, rows)


def _beside(artifacts: Artifacts, model: str, other: str, metric: str) -> str:
    """Write the scores of two models, the second one in brackets."""
    return f"{value(artifacts.score(model, metric))} ({value(artifacts.score(other, metric))})"


def _difference(artifacts: Artifacts, model: str, other: str, task: str) -> str:
    """Compare two models on the exact matches of a task, question by question."""
    scores = [
        {
            row["id"]: row["scores"]["exact_match"]
            for row in read_jsonl(artifacts.folder / "metrics" / name / "samples" / f"{task}.jsonl")
        }
        for name in (model, other)
    ]
    settings = artifacts.settings
    interval = paired_difference(
        *scores, resamples=settings.resamples, confidence=settings.confidence, seed=settings.seed
    )
    return change({**asdict(interval), "verdict": verdict(interval, higher_is_better=True)})


def _parameters(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def _megabytes(size: float) -> str:
    return figure(size / 1e6, 2)
