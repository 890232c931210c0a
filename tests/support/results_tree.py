"""The artifacts of a whole run, small: what the tables of docs/results.md are written from.

Manifests, intervals and the leaderboard are made by the product's own code, with the claims of the shipped recipe; the
files of single stages hold the keys that those stages write.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.reporting import board, page
from tasks.stage import artifact, recipe
from tasks.stage.config import load
from tests.conftest import REPO
from tests.support.report_tree import summary

Make = Callable[..., artifact.Manifest]
QUESTIONS = 20
MODELS = {
    "base": ("base", None, 0),
    "sft": ("sft", "base", 10),
    "instruct": ("sft", "sft", 12),
    "lora": ("adapt", "sft", 9),
    "dpo": ("dpo", "sft", 10),
    "reward": ("reward", "sft", None),
    "rlaif": ("rlaif", "sft", 11),
    "grpo": ("grpo", "sft", 16),
    "rft": ("rejection", "sft", 14),
    "refine": ("refine", "sft", 13),
    "merged_ties": ("merge", "sft", 18),
    "merged_adapters": ("merge", "sft", 8),
    "pruned_wanda": ("prune", "sft", 4),
    "quant_gptq": ("quantize", "sft", 10),
    "student_alone": ("distill", "grpo", 5),
    "student_answers": ("distill", "grpo", 15),
    "student_logits": ("distill", "grpo", 15),
    "student_on_policy": ("distill", "grpo", 20),
}
"""Model to its stage, its parent, and how many of 20 questions it gets right; None: not evaluated."""
TASKS = {
    "sums": {"exact_match": True, "courteous": True, "helpful": True},
    "long_sums": {"exact_match": True},
    "instructions": {"followed": True, "exact_match": True},
    "reference": {"nats_per_byte": False},
}
INTERVAL = {"value": 0.25, "low": 0.2, "high": 0.3}
SIDE = {
    "draft": INTERVAL,
    "refined": INTERVAL,
    "vote": INTERVAL,
    "ceiling": INTERVAL,
    "difference": {"value": -0.04, "low": -0.08, "high": -0.01},
    "winner": "best-of-n",
    "best_of_n": {"n": 2.5},
    "refinement": {
        "tokens": 28949,
        "wrong_to_right": 12,
        "wrong_kept": 185,
        "right_to_wrong": 16,
        "right_kept": 87,
        "fault_found_in_wrong": 85,
        "fault_found_in_right": 22,
    },
}
TREND = {"start": 0.13, "end": 0.376, "t": 9.35}
MERGE = {
    "method": "ties",
    "metrics": {"sums.helpful": {"weight": 0.5}, "instructions.followed": {"weight": 0.5}},
    "chosen": 1,
}
PRUNED = {"nats_per_token": 0.2437, "grades": {"exact_match": 0.474}}
FILES: dict[str, dict[str, dict[str, Any]]] = {
    "instruct": {"metrics.json": {"trainable_parameters": 895872, "steps": 160}},
    "lora": {"metrics.json": {"trainable_parameters": 163840, "steps": 240, "adapter_bytes": 662520}},
    "reward": {"metrics.json": {"pair_accuracy": 0.763, "pair_accuracy_low": 0.7, "pair_accuracy_high": 0.821}},
    "rlaif": {
        "metrics.json": {
            "judge_pairs": 1143,
            "judge_ties": 556,
            "judge_labelled": 587,
            "judge_agreement_pairs": 320,
            "judge_agreement": 0.86875,
            "judge_agreement_low": 0.834,
            "judge_agreement_high": 0.903,
            "judge_position_bias": 0.608,
            "judge_length_bias": 0.995,
            "judge_length_bias_gold": 0.869,
        }
    },
    "grpo": {
        "reward.json": {
            "gold": "right",
            "graders": {"right": {"trend": TREND}},
            "hacked": False,
            "kl": 0.0484,
            "trend": TREND,
        }
    },
    "rft": {
        "rounds.json": {
            "rounds": [
                {
                    "round": 1,
                    "prompts": 500,
                    "samples": 2000,
                    "pass_rate": 0.1235,
                    "solved": 142,
                    "rationalised": 0,
                    "kept": 142,
                }
            ]
        }
    },
    "refine": {"refine.json": {"before": SIDE, "after": SIDE | {"winner": "not told apart"}}},
    "merged_ties": {
        "merge.json": MERGE | {"candidates": [{"parameters": {"density": 0.5}}, {"parameters": {"density": 0.9}}]}
    },
    "merged_adapters": {
        "merge.json": MERGE
        | {
            "metrics": {"instructions.followed": {"weight": 1.0}},
            "chosen": 0,
            "candidates": [{"parameters": {"rank": 32}, "held": {"lora": 1.0, "dpo": 0.986}}],
        }
    },
    "pruned_wanda": {
        "prune.json": {
            "sparsity": {"matrices": 0.5, "all_weights": 0.475},
            "parameters": {"before": 895872, "after": 895872},
            "before": PRUNED,
            "pruned": PRUNED | {"nats_per_token": 0.3724},
            "healed": PRUNED | {"nats_per_token": 0.2461},
        }
    },
    "quant_gptq": {
        "quantize.json": {
            "kl_per_token": 0.00151,
            "argmax_agreement": 0.988,
            "bytes": {"parent": 3590000, "quantized": 720000},
        }
    },
    **{name: {"metrics.json": {"share_of_teacher": 0.524}} for name in MODELS if name.startswith("student_")},
}
"""Model to the files that its stage writes beside the weights."""


def build(root: Path, make: Make) -> Path:
    """Write `artifacts/` below `root` and return it."""
    folder = root / "artifacts"
    (folder / "data").mkdir(parents=True)
    digests = {"data": make(folder / "data", stage="data").digest}
    for name, (stage, parent, right) in MODELS.items():
        model = folder / "models" / name
        model.mkdir(parents=True)
        (model / "name.txt").write_text(name)  # two models never have the same bytes
        for file, content in FILES.get(name, {}).items():
            artifact.write_json(model / file, content)
        inputs = {"data": digests["data"]} | ({"model": digests[parent]} if parent else {})
        if stage == "merge":
            first, second = ("lora", "dpo") if name == "merged_adapters" else ("dpo", "instruct")
            inputs |= {"first": digests[first], "second": digests[second]}
        digests[name] = make(model, stage=stage, **inputs).digest
        if right is not None:
            evaluation(folder / "metrics" / name, make, right, model=digests[name], data=digests["data"])
    _export(folder, make, digests)
    (folder / "reports").mkdir()
    artifact.write_json(folder / "reports" / "leaderboard.json", _board(folder))
    return folder


def evaluation(folder: Path, make: Make, right: int, form: str | None = None, **inputs: str) -> None:
    """Write an evaluation in which the first `right` questions of every task are answered."""
    tasks = {}
    for task, higher in TASKS.items():
        samples: list[dict[str, Any]] = [
            {"id": f"q{n:02}", "scores": dict.fromkeys(higher, 1.0 if n < right else 0.0)} for n in range(QUESTIONS)
        ]
        artifact.write_jsonl(folder / "samples" / f"{task}.jsonl", samples)
        tasks[task] = summary(samples, "generate_until", higher) | {"groups": {}}
    results = {"model": folder.name, "tasks": tasks} | ({"form": form} if form else {})
    artifact.write_json(folder / "results.json", results)
    make(folder, stage="evaluate", **inputs)


def _export(folder: Path, make: Make, digests: dict[str, str]) -> None:
    """Write an export of `dpo` in one form, and its evaluation."""
    measures = {"bytes": 1230000, "kl_per_token": 0.00123, "argmax_agreement": 0.991}
    (folder / "onnx" / "dpo").mkdir(parents=True)
    artifact.write_json(folder / "onnx" / "dpo" / "parity.json", {"forms": {"int4": measures}})
    onnx = make(folder / "onnx" / "dpo", stage="export_onnx", model=digests["dpo"], data=digests["data"]).digest
    evaluation(folder / "metrics" / "dpo_int4", make, 9, form="int4", model=onnx, data=digests["data"])


def graph() -> recipe.Graph:
    """The graph of the tree's models."""
    models = {
        name: recipe.Model(name, method, {"from": parent})
        for name, (method, parent, _) in MODELS.items()
        if parent is not None
    }
    evaluated = tuple(name for name, (_, _, right) in MODELS.items() if right is not None)
    return recipe.Graph(Path("params/tiny/recipe.yaml"), "tiny", models, evaluated, ("dpo",), ("int4",))


def _board(folder: Path) -> dict[str, Any]:
    """Build the leaderboard as the report of `tiny` does."""
    settings = REPO / "params" / "tiny" / "report.yaml"
    graph = recipe.read(settings.parent / recipe.FILE)
    return board.build(load(settings, board.Config), graph, page.folders(folder, graph), settings)
