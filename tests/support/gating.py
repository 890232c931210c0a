"""A candidate that passes every gate, and what a policy says of one that was changed."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.registry import gates
from flows.registry.evidence import Evidence, Scores
from flows.registry.policy import Policy
from flows.registry.verdict import Verdict
from tasks.export import parity
from tasks.stage import artifact

POLICY = Policy.model_validate(
    {
        "form": "int8",
        "served_loss": 0.02,
        "quality": {"metric": "sums.helpful", "gain": 0.0},
        "regression": {"sums.*": 0.05, "reference.*": 0.1},
        "bootstrap": {"resamples": 500, "confidence": 0.95, "seed": 0},
        "allow_changed_evaluation": False,
        "allow_dirty": True,
    }
)
FORM = {
    "max_logprob_difference": 1e-4,
    "kl_per_token": 0.001,
    "argmax_agreement": 0.99,
    "greedy_agreement": 0.99,
    "bytes": 1000,
    **dict.fromkeys(parity.IDENTICAL, True),
}
LIMITS = {"max_logprob_difference": None, "kl_per_token": 0.02, "argmax_agreement": 0.9, "greedy_agreement": None}


def scores(label: str, helpful: float, right: float = 0.8, loss: float = 1.0, rows: int = 300) -> Scores:
    """A model that is helpful and right on these shares of the rows, the same rows for everyone."""
    order = random.Random(0).sample(range(rows), rows)
    marks = {f"row{i}": place / rows for place, i in enumerate(order)}
    return Scores(
        label=label,
        digest=label,
        rows={
            "sums.helpful": {row: float(mark < helpful) for row, mark in marks.items()},
            "sums.exact_match": {row: float(mark < right) for row, mark in marks.items()},
            "reference.nats_per_byte": {row: loss + mark for row, mark in marks.items()},
        },
        higher_is_better={"sums.helpful": True, "sums.exact_match": True, "reference.nats_per_byte": False},
        tasks={"sums": "file", "reference": "file"},
    )


def manifest(stage: str, **inputs: str) -> artifact.Manifest:
    return artifact.Manifest(
        stage=stage, params="0", inputs=inputs, files={f"{stage}.bin": "0", "int8/model.onnx": "0"}
    )


def passing() -> Evidence:
    """A candidate that passes every gate."""
    data = Path("artifacts/data")
    artifact.write_jsonl(data / "eval/sums.jsonl", [{"id": "1", "question": "What is 2 + 3?", "answer": "5"}])
    artifact.write_jsonl(
        data / "sft/train.jsonl", [{"id": "2", "messages": [{"role": "user", "content": "What is 4 + 3?"}]}]
    )
    artifact.write_json(data / "report.json", {"contaminated": []})
    made = manifest("data")
    model = manifest("dpo", data=made.digest)
    candidate = replace(scores("dpo", 0.7), digest=model.digest)
    chain = {
        "artifacts/data": made,
        "artifacts/models/dpo": model,
        "artifacts/metrics/dpo": manifest("evaluate", model=model.digest, data=made.digest),
        "artifacts/onnx/dpo": manifest("export_onnx", model=model.digest, data=made.digest),
    }
    return Evidence(
        model="dpo",
        digest=model.digest,
        candidate=candidate,
        baseline=scores("champion v1 (sft)", 0.4),
        evaluated=model.digest,
        export=chain["artifacts/onnx/dpo"],
        parity={"forms": {"fp32": FORM, "int8": FORM}, "thresholds": {"fp32": LIMITS, "int8": LIMITS}, "prompts": 8},
        chain=chain,
        data=data,
        served=replace(candidate, label="int8", digest=chain["artifacts/onnx/dpo"].digest),
        stale=[],
        git={"commit": "c" * 40, "dirty": "true"},
    )


def failed(evidence: Evidence, **changed: Any) -> list[Verdict]:
    policy = Policy.model_validate(POLICY.model_dump() | changed)
    return [v for v in gates.judge(evidence, policy) if not v.passed]
