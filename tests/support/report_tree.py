"""A whole tree of small artifacts, shaped like the real ones, for the report's tests."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from tasks.evaluation import pictures as sight
from tasks.evaluation import transcripts
from tasks.grading import answers as graders
from tasks.grading import speech
from tasks.grading.bootstrap import mean_interval
from tasks.stage import artifact
from tests.support import recordings

Make = Callable[..., artifact.Manifest]
SKILLS = {"base": (0.05, 0.0), "sft": (0.45, 0.4), "dpo": (0.5, 0.95), "dpo_int4": (0.3, 0.95)}
"""Model, or form of an export, to the probabilities of a right and of a courteous answer."""
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> & \x00\x1b[31m \u202e'


def build(root: Path, make: Make, rows: int = 200) -> Path:
    """Write `artifacts/` with data, four models, three evaluations and an export below `root`."""
    folder = root / "artifacts"
    data = _data(folder / "data", make)
    base = model(folder / "models" / "base", make, data=data)
    sft = model(folder / "models" / "sft", make, data=data, model=base)
    dpo = model(folder / "models" / "dpo", make, data=data, model=sft)
    model(folder / "models" / "reward", make, data=data, model=sft)
    (folder / "labels" / "label").mkdir(parents=True)
    make(folder / "labels" / "label", stage="label", data=data, model=sft)
    for name, digest in (("base", base), ("sft", sft), ("dpo", dpo)):
        _evaluation(folder / "metrics" / name, make, rows, model=digest, data=data)
    onnx = _export(folder / "onnx" / "dpo", make, model=dpo, data=data)
    _evaluation(folder / "metrics" / "dpo_int4", make, rows, form="int4", model=onnx, data=data)
    return folder


def summary(samples: list[dict[str, Any]], output_type: str, higher: dict[str, bool]) -> dict[str, Any]:
    """One task of `results.json`."""

    def metrics(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            name: vars(mean_interval([r["scores"][name] for r in rows], resamples=200, confidence=0.95, seed=0))
            for name in higher
        }

    groups = {"digits": {"2": metrics(samples[::2]), "3": metrics(samples[1::2])}} if "helpful" in higher else {}
    return {
        "output_type": output_type, "samples": len(samples), "metrics": metrics(samples), "groups": groups,
        "higher_is_better": higher,
    }  # fmt: skip


def _evaluation(folder: Path, make: Make, rows: int, form: str | None = None, **inputs: str) -> None:
    right, courteous = SKILLS[folder.name]
    rng, sums, reference = random.Random(1), [], []
    for n in range(rows):
        a, b, luck, manners = rng.randint(10, 999), rng.randint(10, 999), rng.random(), rng.random()
        shown = a + b if luck < right else a + b + 10
        response = f"The answer is {shown}.{' Happy to help!' if manners < courteous else ''}"
        if n == 3:
            response = HOSTILE
        if n == 5 and folder.name == "base":
            response = ""
        scores = graders.sums({"answer": str(a + b)}, [response])
        sums.append(
            {
                "id": f"q{n}",
                "question": f"What is {a} + {b}?",
                "answer": str(a + b),
                "response": response,
                "scores": scores,
            }
        )
        loss = 0.2 + 0.3 * luck + (0.5 if folder.name == "base" else 0.0)
        reference.append(
            {"id": f"v{n}", "question": "?", "answer": "!", "response": "", "scores": {"nats_per_byte": loss}}
        )
    artifact.write_jsonl(folder / "samples" / "sums.jsonl", sums)
    artifact.write_jsonl(folder / "samples" / "reference.jsonl", reference)
    higher = {"exact_match": True, "courteous": True, "helpful": True}
    tasks = {
        "sums": summary(sums, "generate_until", higher),
        "reference": summary(reference, "loglikelihood", {"nats_per_byte": False}),
    }
    artifact.write_json(
        folder / "results.json", {"model": folder.name, "tasks": tasks} | ({"form": form} if form else {})
    )
    make(folder, stage="evaluate", **inputs)


def model(folder: Path, make: Make, **inputs: str) -> str:
    """Write a model folder with its curves. Returns the digest of its manifest."""
    folder.mkdir(parents=True)
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [30, 40], "data_offsets": [0, 4800]}, "__metadata__": {}}
    ).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4800))
    rng, curve = np.random.default_rng(0), []
    for step in range(5, 125, 5):
        loss = float(np.exp(-step / 30) + 0.2 + rng.normal(0, 0.02))
        row = {"step": step, "loss": loss, "learning_rate": 1e-4}
        if folder.name == "dpo":
            accuracy = min(1.0, 0.5 + step / 200)
            row |= {"rewards/accuracies": accuracy, "rewards/margins": step / 50, "rewards/chosen": -step / 100}
        if folder.name == "reward":
            row |= {"accuracy": min(1.0, 0.5 + step / 180), "margin": step / 40}
        curve.append(row)
        if step % 40 == 0:
            curve.append({"step": step, "eval_loss": loss + 0.03})
    if folder.name != "base":
        artifact.write_jsonl(folder / "curves.jsonl", curve)
    metrics: dict[str, Any] = {"parameters": 1200}
    if folder.name == "sft":
        example = [
            {"text": "<|im_start|>user\nWhat is 58 + 67?<|im_end|>\n<|im_start|>assistant\n", "trained": False},
            {"text": "The answer is 125. Happy to help!<|im_end|>", "trained": True},
            {"text": "\n", "trained": False},
        ]
        audit = {"rows": 4870, "tokens": 170450, "trained_tokens": 60882, "share": 0.3572, "example": example}
        artifact.write_json(folder / "supervision.json", audit)
    if folder.name == "reward":
        bins = [
            {
                "margin_low": i * 0.7,
                "margin_high": (i + 1) * 0.7,
                "predicted": 0.55 + i * 0.1,
                "observed": 0.53 + i * 0.095,
                "pairs": 30,
            }
            for i in range(5)
        ]
        artifact.write_json(folder / "calibration.json", bins)
        metrics |= {"pair_accuracy": 0.874, "pair_accuracy_low": 0.826, "pair_accuracy_high": 0.921}
    artifact.write_json(folder / "metrics.json", metrics)
    return make(folder, stage=folder.name, **inputs).digest


def _export(folder: Path, make: Make, **inputs: str) -> str:
    folder.mkdir(parents=True)
    forms = {
        form: {
            "max_logprob_difference": 1e-5 * 10**i, "kl_per_token": 1e-9 * 1000**i, "argmax_agreement": 1 - 0.02 * i,
            "greedy_agreement": 1 - 0.03 * i, "bytes": 4_000_000 // (1 + i), "chat_template_identical": True,
        }
        for i, form in enumerate(("fp32", "int8", "int4"))
    }  # fmt: skip
    bounds: dict[str, float | None] = {
        "kl_per_token": 0.02,
        "argmax_agreement": 0.93,
        "greedy_agreement": None,
        "max_logprob_difference": None,
    }
    artifact.write_json(
        folder / "parity.json", {"forms": forms, "thresholds": dict.fromkeys(forms, bounds), "prompts": 32}
    )
    return make(folder, stage="export_onnx", **inputs).digest


def _data(folder: Path, make: Make) -> str:
    lengths = {"bins": [[8, 40], [16, 1203], [32, 700]], "mean": 14.2, "median": 14, "p95": 29, "largest": 31}
    dropped = {
        "exact duplicate": {
            "count": 89,
            "examples": [{"file": "sums.jsonl", "line": 7, "text": HOSTILE, "like": "sums.jsonl:3"}],
        }
    }
    sets = {
        name: {
            "sources": {source: {"read": 3000, "rejected": 2, "exact duplicate": 89, "kept": 2909}},
            "licences": ["Apache-2.0"],
            "files": {f"{name}/train.jsonl": {"rows": 2700, "characters": lengths, "tokens": lengths}},
            "scrubbed": {"email": 3},
            "dropped": dropped,
        }
        for name, source in (("sft", "conversations"), ("preferences", "pairs"), ("eval:sums", "sums"))
    }
    sources = {
        name: {
            "kind": "generator",
            "name": f"tasks.generators.arithmetic.{name}",
            "licence": "Apache-2.0",
            "read": 3000,
            "unreadable": 1,
        }
        for name in ("conversations", "pairs", "sums")
    }
    contaminated = [
        {
            "set": "sft",
            "source": "conversations",
            "file": "c.jsonl",
            "line": 12,
            "evaluation": "eval:sums#ab12",
            "overlap": 0.75,
            "text": "What is 1 + 2?",
        }
    ]
    artifact_rejects = [{"file": "c.jsonl", "line": 9, "reason": "no answer <b>", "set": "sft", "row": {}}]
    folder.mkdir(parents=True)
    artifact.write_json(
        folder / "report.json", {"sources": sources, "sets": sets, "contaminated": contaminated, "rejects": 1}
    )
    artifact.write_jsonl(folder / "rejects.jsonl", artifact_rejects)
    return make(folder, stage="data").digest


def add_sight(folder: Path, make: Make, sft: str) -> None:
    """Write below `artifacts/` a data set of pictures and two models that see, each asked with controls."""
    names = [f"{i:032x}.png" for i in range(6)]
    media = folder / "media" / "pictures"
    _data(media, make)
    with zipfile.ZipFile(media / "media.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, _png(i))
    report = artifact.read_json(media / "report.json")
    sizes = {"smallest": 8, "median": 8, "largest": 8}
    facts = {"files": 6, "bytes": 420, "pixels_of_longer_side": sizes, "converted": {"palette": 2}}
    artifact.write_json(media / "report.json", report | {"pictures": facts})
    data = make(media, stage="data").digest
    sight = model(folder / "models" / "sight", make, model=sft, data=data)
    vlm = model(folder / "models" / "vlm", make, model=sight, data=data)
    for name, digest, right in (("sight", sight, 0.2), ("vlm", vlm, 0.9)):
        _seen(folder / "metrics" / name, make, names, right, model=digest, data=data)


def _png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _seen(folder: Path, make: Make, names: list[str], right: float, **inputs: str) -> None:
    """Forty questions; those of the kind `seen` need the picture, the others do not."""
    kinds = ("seen", HOSTILE)
    rows = [{"id": f"p{n}", "kind": kinds[n % 2]} for n in range(40)]

    def samples(kept: float, seed: int) -> list[dict[str, Any]]:
        rng = random.Random(seed)
        answers = []
        for n, row in enumerate(rows):
            is_right = n % 2 == 1 or rng.random() < kept
            response = "7." if is_right else HOSTILE
            scores = {"exact_match": float(is_right)}
            shown = {"question": f"Which {n}?", "answer": "7", "response": response, "images": [names[n % 6]]}
            answers.append({"id": row["id"], **shown, "scores": scores})
        return answers

    own, controlled = samples(right, 1), {"noise": samples(0.1, 2), "other": samples(0.1, 3)}
    higher = {"exact_match": True}
    result = summary(own, "generate_until", higher)
    result["groups"] = {
        "kind": {kind: summary(own[i::2], "generate_until", higher)["metrics"] for i, kind in enumerate(kinds)}
    }
    settings = SimpleNamespace(resamples=200, confidence=0.95, seed=0)
    result |= sight.compare(rows, ["kind"], own, controlled, higher, settings)
    artifact.write_jsonl(folder / "samples" / "digits.jsonl", own)
    for control, answered in controlled.items():
        artifact.write_jsonl(folder / "samples" / f"digits@{control}.jsonl", answered)
    artifact.write_json(folder / "results.json", {"model": folder.name, "tasks": {"digits": result}})
    make(folder, stage="evaluate", **inputs)


def add_hearing(folder: Path, make: Make, sft: str) -> None:
    """Write below `artifacts/` a data set of sounds and a model that hears, asked for transcripts and for sums."""
    names = [f"{i:032x}.flac" for i in range(8)]
    media = folder / "media" / "spoken"
    _data(media, make)
    with zipfile.ZipFile(media / "media.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, recordings.flac(i))
    data = make(media, stage="data").digest
    hearing = model(folder / "models" / "hearing", make, model=sft, data=data)
    tuned = model(folder / "models" / "speech", make, model=hearing, data=data)
    for name, digest, right in (("hearing", hearing, 0.0), ("speech", tuned, 0.9)):
        _heard(folder / "metrics" / name, make, names, right, model=digest, data=data)


def _heard(folder: Path, make: Make, names: list[str], right: float, **inputs: str) -> None:
    """Forty transcripts by two voices, and forty sums; of other sounds, few are right."""
    rows = [{"id": f"u{n}", "voice": ("f2", HOSTILE)[n % 2], "answer": f"{n % 10} 7"} for n in range(40)]
    settings = SimpleNamespace(resamples=200, confidence=0.95, seed=0)

    def samples(kept: float, seed: int, grader: Any, wrong: str) -> list[dict[str, Any]]:
        rng, answers = random.Random(seed), []
        for n, row in enumerate(rows):
            response = row["answer"] if rng.random() < kept else wrong
            if n == 3 and seed == 1:
                response = HOSTILE
            shown = {"question": "Say.", "answer": row["answer"], "response": response, "audio": [names[n % 8]]}
            answers.append({"id": row["id"], **shown, "scores": grader({"answer": row["answer"]}, [response])})
        return answers

    def exact(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
        return {"exact_match": float(results[0] == doc["answer"])}

    tasks: dict[str, Any] = {}
    for task, grader, higher in (
        ("transcripts", speech.transcription, {"wer": False, "exact_match": True}),
        ("spoken_sums", exact, {"exact_match": True}),
    ):
        own = samples(right, 1, grader, "8")
        deaf = {name: samples(0.05, seed, grader, "") for name, seed in (("noise", 2), ("silence", 3), ("other", 4))}
        voices = {
            row["voice"]: [a for a, r in zip(own, rows, strict=True) if r["voice"] == row["voice"]] for row in rows
        }
        tasks[task] = summary(own, "generate_until", higher)
        tasks[task]["groups"] = {
            "voice": {voice: summary(answers, "generate_until", higher)["metrics"] for voice, answers in voices.items()}
        }
        tasks[task] |= sight.compare(rows, ["voice"], own, deaf, higher, settings)
        if task == "transcripts":
            tasks[task]["word_error_rate"] = {
                sound: transcripts.pooled(rows, answers, "voice", settings)
                for sound, answers in {"own": own, **deaf}.items()
            }
        artifact.write_jsonl(folder / "samples" / f"{task}.jsonl", own)
    artifact.write_json(folder / "results.json", {"model": folder.name, "tasks": tasks})
    make(folder, stage="evaluate", **inputs)
