"""The table of `python -m bench.forms`: medians and ratios, intervals, Markdown, and what is over its threshold."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from tasks.export import parity
from tasks.grading.bootstrap import mean_interval, paired_difference
from tasks.stage.errors import ParityError

SAME_BITS = {"fp32": ["gguf_f32"], "int8": ["gguf_q8_0"], "int4": ["gguf_q4_1", "gguf_q4_0"]}
"""Precision of an ONNX form to the GGUF files it is compared with. Q4_1 has an offset for each block, Q4_0 none."""
FAITHFUL = {
    "chat_template_identical": "chat template identical",
    "tokenizer_identical": "tokenizer round trip identical",
    "max_logit_difference": "largest logit difference",
    "max_logprob_difference": "largest log-probability difference, nats",
    "kl_per_token": "KL per token, nats",
    "argmax_agreement": "argmax agreement",
    "greedy_agreement": "greedy agreement",
}
Rows = dict[str, dict[str, Any]]


def add_speeds(rows: Rows, speeds: Mapping[str, Mapping[str, list[float]]], precisions: Mapping[str, str]) -> None:
    """Add medians over the turns; ratios turn by turn against PyTorch and against llama.cpp at the same bits."""
    reads = median(speeds["memory"]["read"])
    for name, row in rows.items():
        row["tokens_per_second"] = {figure: round(median(values), 2) for figure, values in speeds[name].items()}
        row["times_pytorch"] = ratios(speeds[name], speeds["pytorch"])
        same = [theirs for theirs in SAME_BITS.get(precisions.get(name, ""), []) if theirs in speeds]
        row |= {f"times_{theirs}": ratios(speeds[name], speeds[theirs]) for theirs in same}
        if "decode_1" in row["tokens_per_second"]:
            row["memory_share"] = round(row["weight_bytes"] * row["tokens_per_second"]["decode_1"] / reads, 3)
        row["memory_bytes_per_second"] = round(reads)


def ratios(ours: Mapping[str, list[float]], theirs: Mapping[str, list[float]]) -> dict[str, float]:
    """Compute the median of the turns' ratios, by figure."""
    return {
        figure: round(median(a / b for a, b in zip(ours[figure], theirs[figure], strict=True)), 2) for figure in ours
    }


def add_scores(rows: Rows, scores: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> None:
    """Add means of the tasks' metrics with 95 % intervals, and the paired difference from PyTorch's."""
    how: dict[str, Any] = {"resamples": 4000, "confidence": 0.95, "seed": 0}
    for name, tasks in scores.items():
        row = rows[name].setdefault("task", {})
        for task, metrics in tasks.items():
            for metric, ours in metrics.items():
                mean = mean_interval(list(ours.values()), **how)
                gap = paired_difference(ours, scores["pytorch"][task][metric], **how)
                row[f"{task}: {metric}"] = {
                    "value": mean.value,
                    "low": mean.low,
                    "high": mean.high,
                    "difference": gap.value,
                    "difference_low": gap.low,
                    "difference_high": gap.high,
                }


def markdown(rows: Rows) -> str:
    """Write the table: a column a form, a line a measure."""
    lines: dict[str, dict[str, str]] = {}
    for name, row in rows.items():
        for label, text in cells(row):
            lines.setdefault(label, {})[name] = text
    table = [["", *rows], *([label, *(texts.get(name, "") for name in rows)] for label, texts in lines.items())]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    head, *body = [" | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in table]
    return "\n".join(
        [f"| {head} |", f"|{'|'.join('-' * (width + 2) for width in widths)}|", *(f"| {x} |" for x in body)]
    )


def cells(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write label and text of every measure that a form has."""
    measures = []
    for name, label in FAITHFUL.items():
        if name in row:
            measures.append(
                (label, ("yes" if row[name] else "NO") if isinstance(row[name], bool) else f"{row[name]:.4g}")
            )
    for label, score in row.get("task", {}).items():
        gap = f"({score['difference']:+.3f} [{score['difference_low']:+.3f}, {score['difference_high']:+.3f}])"
        measures.append((label, f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}] {gap}"))
    for name, label in (
        ("bytes", "MB on disk"),
        ("peak_bytes", "peak memory, batch 1, MB"),
        *((name, f"peak memory, batch {name[11:]}, MB") for name in row if name.startswith("peak_bytes_")),
        ("weight_bytes", "weights read per token, MB"),
    ):
        if name in row:
            measures.append((label, f"{row[name] / 1e6:.1f}"))
    for group, unit in (
        ("tokens_per_second", "tokens/s"),
        ("times_pytorch", "x PyTorch"),
        *((f"times_{file}", f"x llama.cpp {file[5:].upper()}") for files in SAME_BITS.values() for file in files),
    ):
        for figure, value in row.get(group, {}).items():
            what, batch = figure.split("_")
            measures.append(
                (f"{what}, batch {batch}, {unit}", f"{value:.4g}" if group == "tokens_per_second" else f"{value:.2f}")
            )
    if "memory_share" in row:
        measures.append(("share of the memory's bandwidth", f"{row['memory_share']:.0%}"))
    return measures


def over(rows: Rows, bounds: Mapping[str, dict[str, float | None]]) -> str | None:
    """Say what is over its threshold, as `parity.check` does; None when nothing is."""
    unbound: dict[str, float | None] = dict.fromkeys((*parity.LOWER_IS_BETTER, *parity.HIGHER_IS_BETTER))
    try:
        parity.check(rows, {form: unbound | bounds.get(form, {}) for form in rows}, exact=())
    except ParityError as e:
        return str(e)
    return None
