"""Tables of the methods: scores, claims, adapters, judges, rewards, and learning from own answers."""

from typing import Any

from infra.results.artifacts import Artifacts
from infra.results.markdown import MARKS, bracket, change, code, count, figure, percent, table, value

SPINE = ("base", "sft", "dpo")
"""Models of the main line, which `make demo` runs."""
SPINE_SCORES = ("sums.helpful", "sums.courteous", "sums.exact_match", "reference.nats_per_byte")
"""Columns of the main line's tables."""
SCORES = (
    "sums.exact_match",
    "sums.courteous",
    "sums.helpful",
    "long_sums.exact_match",
    "instructions.followed",
    "reference.nats_per_byte",
)
"""Columns of the table of all scores."""


def spine(artifacts: Artifacts) -> str:
    """Write the scores of the main line, each with half of its interval and the verdict over its parent."""
    rows = [[code(model), *(_half(artifacts, model, metric) for metric in SPINE_SCORES)] for model in SPINE]
    return table(["model", *map(code, SPINE_SCORES)], rows)


def spine_changes(artifacts: Artifacts) -> str:
    """Write the paired changes along the main line."""
    rows = []
    for model in SPINE:
        scores = [artifacts.score(model, metric) for metric in SPINE_SCORES]
        changes = [change(score["difference"]) if score and "difference" in score else "–" for score in scores]
        parent = artifacts.board["models"][model]["parent"]
        if parent is not None:
            rows.append([code(model), code(parent), *changes])
    return table(["model", "over", *map(code, SPINE_SCORES)], rows)


def claims(artifacts: Artifacts) -> str:
    """Write each model on the metric that it is there for, beside the model that its claim compares it with."""
    rows = [
        [
            code(row["model"]),
            row["stage"],
            code(row["parent"]),
            code(f"{row['task']}.{row['metric']}"),
            figure(row["before"]["value"]),
            figure(row["after"]["value"]),
            change(row["difference"]),
        ]
        for row in artifacts.claims()
    ]
    verdicts = [row["difference"]["verdict"] for row in artifacts.claims()]
    total = (
        f"Of {len(verdicts)} claims: {verdicts.count('better')} better, {verdicts.count('worse')} worse, "
        f"{verdicts.count('no difference')} with no difference.\n"
    )
    head = ["model", "stage", "compared with", "metric", "before", "after", "change, paired, 95 %"]
    return table(head, rows) + "\n" + total


def scores(artifacts: Artifacts) -> str:
    """Write all scores of all evaluated models."""
    rows = []
    for model in artifacts.models():
        entry = artifacts.board["models"][model]
        if any(artifacts.score(model, metric) for metric in SCORES):
            cells = [value(artifacts.score(model, metric)) for metric in SCORES]
            rows.append([code(model), code(entry["parent"]) if entry["parent"] else "–", *cells])
    return table(["model", "made from", *map(code, SCORES)], rows)


def adapters(artifacts: Artifacts) -> str:
    """Write what each adapter costs and reaches, beside a training of all weights on the same rows."""
    models = artifacts.made_by("adapt")
    metric = {(row["task"], row["metric"]) for row in map(artifacts.claim, models)}
    whole = [
        row["model"] for row in artifacts.claims() if row["stage"] == "sft" and (row["task"], row["metric"]) in metric
    ]
    columns = ("instructions.followed", "instructions.exact_match", "sums.exact_match")
    rows = []
    for model in [*whole, *models]:
        metrics = artifacts.read(f"models/{model}/metrics.json")
        size = count(metrics["adapter_bytes"]) if "adapter_bytes" in metrics else "–"
        cells = [value(artifacts.score(model, metric)) for metric in columns]
        rows.append([code(model), count(metrics["trainable_parameters"]), size, count(metrics["steps"]), *cells])
    head = ["model", "trainable parameters", "bytes of the adapter", "steps", *map(code, columns)]
    return table(head, rows)


def judges(artifacts: Artifacts) -> str:
    """Write how far the reward models, and the judges whose labels a model learnt, can be trusted."""
    rows = []
    for model in artifacts.made_by("reward"):
        metrics = artifacts.read(f"models/{model}/metrics.json")
        rows.append([code(model), "held-out pairs right", bracket(_named_interval(metrics, "pair_accuracy"))])
    for model in artifacts.made_by("rlaif"):
        metrics = artifacts.read(f"models/{model}/metrics.json")
        agreement = f"agreement with gold on the {count(metrics['judge_agreement_pairs'])} that gold tells apart"
        measures = {
            "pairs read by the judge": count(metrics["judge_pairs"]),
            "ties (the two orders disagree), dropped": count(metrics["judge_ties"]),
            "pairs labelled": count(metrics["judge_labelled"]),
            agreement: bracket(_named_interval(metrics, "judge_agreement")),
            "position bias (0.5 is none)": figure(metrics["judge_position_bias"]),
            "labelled pairs in which the longer answer wins": percent(metrics["judge_length_bias"]),
            "the same pairs by gold": percent(metrics["judge_length_bias_gold"]),
        }
        rows += [[code(model), name, value] for name, value in measures.items()]
    return table(["model", "measure", "value"], rows)


def rewards(artifacts: Artifacts) -> str:
    """Write how reward and gold metric moved on the sampled answers, from the fitted first step to the last."""
    rows = []
    for model in artifacts.made_by("ppo", "grpo", "online_dpo"):
        facts = artifacts.read(f"models/{model}/reward.json")
        paid, gold = facts["trend"], facts["graders"][facts["gold"]]["trend"]
        rows.append(
            [
                code(model),
                "–" if paid is None else f"{figure(paid['start'])} → {figure(paid['end'])}",
                code(facts["gold"]),
                f"{figure(gold['start'])} → {figure(gold['end'])}",
                figure(gold["t"], 1),
                "–" if facts["kl"] is None else figure(facts["kl"]),
                "yes" if facts["hacked"] else "no",
            ]
        )
    head = ["model", "reward", "gold metric", "gold, sampled", "t of its slope", "KL at the end, nats", "hacked"]
    return table(head, rows)


def rounds(artifacts: Artifacts) -> str:
    """Write each round of expert iteration."""
    rows = [
        [
            code(model),
            count(row["round"]),
            count(row["prompts"]),
            count(row["samples"]),
            percent(row["pass_rate"]),
            count(row["solved"]),
            count(row["rationalised"]),
            count(row["kept"]),
        ]
        for model in artifacts.made_by("rejection")
        for row in artifacts.read(f"models/{model}/rounds.json")["rounds"]
    ]
    head = ["model", "round", "prompts", "answers drawn", "right", "prompts solved", "solved by the hint", "learnt"]
    return table(head, rows)


def refinement(artifacts: Artifacts) -> str:
    """Write refinement against best-of-n at the same number of generated tokens, before and after the training."""
    rows = []
    for model, when, side in _refined(artifacts):
        rows.append(
            [
                code(model),
                when,
                count(side["refinement"]["tokens"]),
                bracket(side["draft"]),
                bracket(side["refined"]),
                bracket(side["vote"]),
                figure(side["best_of_n"]["n"], 2),
                bracket(side["ceiling"]),
                bracket(side["difference"], sign=True),
                side["winner"],
            ]
        )
    head = [
        "model",
        "training",
        "tokens of both",
        "draft alone",
        "refined",
        "best-of-n",
        "n",
        "ceiling of the n",
        "refined − best-of-n",
        "wins",
    ]
    return table(head, rows)


def critiques(artifacts: Artifacts) -> str:
    """Write where the critique finds fault, and what becomes of the drafts."""
    rows = []
    for model, when, side in _refined(artifacts):
        ends = side["refinement"]
        wrong, right = ends["wrong_to_right"] + ends["wrong_kept"], ends["right_to_wrong"] + ends["right_kept"]
        rows.append(
            [
                code(model),
                when,
                f"{ends['fault_found_in_wrong']} of {wrong}",
                f"{ends['fault_found_in_right']} of {right}",
                count(ends["wrong_to_right"]),
                count(ends["right_to_wrong"]),
            ]
        )
    head = ["model", "training", "fault found in wrong drafts", "in right drafts", "mended", "spoilt"]
    return table(head, rows)


def _refined(artifacts: Artifacts) -> list[tuple[str, str, dict[str, Any]]]:
    """Model, `before` or `after` its training, and that side of `refine.json`."""
    sides = []
    for model in artifacts.made_by("refine"):
        both = artifacts.read(f"models/{model}/refine.json")
        sides += [(model, when, both[when]) for when in ("before", "after")]
    return sides


def _half(artifacts: Artifacts, model: str, metric: str) -> str:
    """Write a score, half of the width of its interval, and the verdict over the parent."""
    score = artifacts.score(model, metric)
    if score is None:
        return "–"
    mark = f" {MARKS[score['difference']['verdict']]}" if "difference" in score else ""
    return f"{figure(score['value'])} ± {figure((score['high'] - score['low']) / 2)}{mark}"


def _named_interval(figures: dict[str, float], name: str) -> dict[str, float]:
    """Gather `name`, `name_low` and `name_high` of a flat file."""
    return {"value": figures[name], "low": figures[f"{name}_low"], "high": figures[f"{name}_high"]}
