"""Settings of an export to ONNX: its forms, their parity with PyTorch, and their speed."""

from flows.authoring.choices import Machine
from flows.authoring.yaml_text import line, section

FORMS = ["fp32", "int8"]


def export(here: Machine, rows: str | None) -> str:
    """Write the settings of the export.

    Args:
        here: the machine.
        rows: file of the prompts on which forms are compared; None for whatever held-out prompts there are.
    """
    free = dict.fromkeys(("max_logprob_difference", "kl_per_token", "argmax_agreement", "greedy_agreement"))
    thresholds = {
        "fp32": {**free, "max_logprob_difference": 1e-2, "kl_per_token": 1e-4, "argmax_agreement": 0.99},
        "int8": {**free, "kl_per_token": 0.1},
    }
    int8 = {
        "method": "default", "block_size": 32, "symmetric": True, "accuracy_level": 4, "op_types": ["MatMul"],
        "overrides": [],
    }  # fmt: skip
    lines = [
        "# ONNX Runtime GenAI folders and their parity with PyTorch (docs/export.md). null: measured without a bound.",
        line("seed", 0, "of the draw of prompts"),
        line("threads", here.threads, "of torch and of ONNX Runtime"),
        "forms:",
    ]
    for form in FORMS:
        values = {"precision": form, "weights": int8 if form == "int8" else {}, "gptq": None}
        lines += [line(form, ..., indent=2), *(line(key, value, indent=4) for key, value in values.items())]
        lines.append(line("thresholds", thresholds[form], "nats; shares", 4))
    parity = {"rows": rows, "prompts": 32, "max_new_tokens": 32}
    said = "null: whatever held-out prompts there are" if rows is None else ""
    lines += section("parity", parity, {"rows": said, "max_new_tokens": "tokens"})
    lines += section("speed", {"new_tokens": 32, "repeats": 3}, {"new_tokens": "tokens per answer"})
    return "\n".join(lines) + "\n"
