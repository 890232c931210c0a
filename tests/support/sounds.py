"""Helpers: a small data artifact of spoken digits, a model that hears, and settings of the stages that take both."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks import align_speech, data, speech
from tasks.multimodal import speech_architecture
from tasks.multimodal.speech_settings import SpeechArchitecture
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress

Make = Callable[..., artifact.Manifest]
PARAMS = Path("params/test/spoken.yaml")
RATE = 16_000
"""Samples a second of the data and of what the model hears."""
HOP = 200
"""Samples between two frames."""
CHUNK = 3
"""Seconds that the encoder hears at once."""
EARS: dict[str, Any] = {
    "audio": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "features": {"sampling_rate": RATE, "mel_bins": 32, "window": 400, "hop": HOP, "chunk_seconds": CHUNK},
    "encoder": None,
    "act": "gelu",
}
"""Section `architecture:`: 10 tokens a second."""
UNCHANGED: dict[str, Any] = {
    "speed": 0.0, "tilt": 0.0, "noise": 0.0, "gain": 0.0, "offset": 0.0, "warp": 0.0, "telephone": 0.0, "bands": 0,
    "frames": 0,
}  # fmt: skip
CHANGES: dict[str, Any] = {
    "speed": 0.1, "tilt": 0.3, "noise": 0.003, "gain": 0.5, "offset": 0.1, "warp": 0.1, "telephone": 0.3, "bands": 4,
    "frames": 4,
}  # fmt: skip
"""Section `augmentation:`, of every kind."""
ASK = [{"role": "user", "content": "{question}"}]
SAY = [{"role": "assistant", "content": "{reply}"}]


def recipe() -> dict[str, Any]:
    """A data recipe of spoken digits: a set to learn, and questions by voices that are held out."""

    def source(part: str, kinds: list[str], rounds: int, seed: int, sum_share: float) -> dict[str, Any]:
        share = 0.55 if part == "train" else 0.1  # few voices, and none of them in both
        options = {"part": part, "kinds": kinds, "rounds": rounds, "seed": seed, "test_share": share}
        more = {"sum_share": sum_share, "joined_share": 0.3, "max_seconds": 2.9}
        return {"generator": "spoken.questions", "options": options | more, "licence": "CC0-1.0"}

    def rows_of(name: str, template: Mapping[str, Any], split: str = "hash") -> dict[str, Any]:
        heard = {"audio": ["{clip}"], "group": "{speaker}"}
        return {
            "near_duplicates": False,
            "rows": [{"source": name, "split": split, "limit": None, "map": {**template, **heard}}],
        }

    asked = {"question": "{question}", "answer": "{answer}", "voice": "{speaker}"}
    return {
        "seed": 0,
        "threads": 1,
        "split": {"validation": 0.4, "test": 0.0},
        "scrub": [],
        "near_duplicates": {"threshold": 0.8, "permutations": 64, "ngram": 3},
        "decontamination": {"ngram": 8, "overlap": 0.5},
        "max_bad_share": 0.0,
        "report_examples": 1,
        "sounds": {"sampling_rate": RATE, "max_seconds": 3.0, "max_bytes": 1_000_000, "silence": 0.01},
        "sources": {
            "clips": source("train", ["transcribe", "sum"], 1, 5, 0.4),
            "clips_test": source("test", ["transcribe"], 2, 6, 0.4),
            "sums_test": source("test", ["sum"], 1, 7, 1.0),
        },
        "sets": {
            "sft": rows_of("clips", {"messages": ASK + SAY, "label": "{label}", "voice": "{speaker}"}),
            "eval:transcripts": rows_of("clips_test", asked, "published"),
            "eval:spoken_sums": rows_of("sums_test", asked, "published"),
        },
    }


def build_data(folder: Path, make: Make) -> Path:
    """Run the data stage in process on that recipe; `folder` becomes the artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, PARAMS, "spoken", folder / "checkpoints", {}, Progress(None), main_process=True)
    data.main(parse(PARAMS, recipe(), data.Config), run)
    make(folder, stage="data")
    return folder


def build_model(text: Path, folder: Path, make: Make) -> Path:
    """Give a language model untrained ears, as an artifact."""
    from tasks.models.multimodal import save_multimodal

    model, processor = speech_architecture.build(text, parse(PARAMS, EARS, SpeechArchitecture), PARAMS, seed=3)
    save_multimodal(model, processor, folder)
    make(folder, stage="align_speech")
    return folder


def aligning(**changes: Any) -> align_speech.Config:
    """Settings of `align_speech` that suit the chat model."""
    values: dict[str, Any] = {
        "seed": 1, "threads": 1, "device": "cpu", "dataset": "sft", "architecture": EARS, "units": "words",
        "blank": "<|pad|>", "trained": ["encoder", "projector"], "steps": 8, "batch_size": 8,
        "learning_rate": {"muon": 0.02, "adamw": 2e-3}, "weight_decay": 0.01, "augmentation": CHANGES,
        "checkpoint_steps": 100,
    }  # fmt: skip
    return parse(PARAMS, values | changes, align_speech.Config)


def tuning(trained: Any = None, peft: Any = None, augmentation: Any = None, **trainer: Any) -> speech.Config:
    """Settings of `speech` that suit the hearing model."""
    settings = {
        "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "learning_rate": 1e-3, "bf16": False,
        "gradient_checkpointing": False, "use_cpu": True, "logging_steps": 1, "max_steps": 2, "save_steps": 2,
        "eval_strategy": "no",
    }  # fmt: skip
    values = {
        "seed": 1, "threads": 1, "launch": None, "dataset": "sft", "peft": peft, "augmentation": augmentation,
        "trained": trained or ["encoder", "projector", "language_model"], "trainer": settings | trainer,
    }  # fmt: skip
    return parse(PARAMS, values, speech.Config)


def write_set(
    folder: Path, sounds: Mapping[str, Any], make: Make, rows: list[dict[str, Any]], name: str = "sft"
) -> Path:
    """Write a data artifact of these sounds and rows, the last row to validate on.

    Args:
        folder: the artifact.
        sounds: name to samples at `RATE`, or to the bytes of a file.
        make: writes its manifest.
        rows: of the set.
        name: of the set.
    """
    import zipfile

    from tests.support.recordings import encoded

    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "media.zip", "w") as archive:
        for file, content in sounds.items():
            archive.writestr(file, content if isinstance(content, bytes) else encoded(content, "FLAC", rate=RATE))
    numbered = [{**row, "id": f"r{i}", "source": "test"} for i, row in enumerate(rows)]
    artifact.write_jsonl(folder / name / "train.jsonl", numbered[:-1])
    artifact.write_jsonl(folder / name / "validation.jsonl", numbered[-1:])
    make(folder, stage="data")
    return folder


def said(question: str, *turns: str) -> list[dict[str, str]]:
    """A conversation that begins with a question."""
    roles = ["user", "assistant"] * 4
    return [{"role": role, "content": text} for role, text in zip(roles, (question, *turns), strict=False)]
