"""Helpers: a small data artifact of pictures, a model that sees, and settings of the stages that take both."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks import data, dpo, export_onnx, vlm
from tasks.multimodal import architecture
from tasks.multimodal.settings import Architecture
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.conftest import TRAINER

Make = Callable[..., artifact.Manifest]
PARAMS = Path("params/test/pictures.yaml")
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
"""A network of two blocks and stride 8."""
EYES: dict[str, Any] = {
    "vision": RESNET, "image_size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "act": "gelu",
}  # fmt: skip
"""Section `architecture:`: 16 tokens a picture."""
TOKENS = 16
"""Tokens that a picture takes."""
ASK = [{"role": "user", "content": "{question}"}]
SAY = [{"role": "assistant", "content": "{reply}"}]


def recipe(rows: int) -> dict[str, Any]:
    """A data recipe of digits: a set to align on, one to tune on, pairs, and questions held out."""

    def source(kinds: list[str], part: str = "train", pairs: bool = False) -> dict[str, Any]:
        extra = {"wrong_share": 0.3} if pairs else {"courteous_share": 0.0}
        share = 0.9 if part == "train" else 0.1  # few digits each, and none of them in both
        options = {"part": part, "kinds": kinds, "rounds": 1, "seed": 5, "test_share": share, **extra}
        return {
            "generator": f"digits.{'preferences' if pairs else 'questions'}", "options": options, "licence": "CC-BY-4.0"
        }  # fmt: skip

    def rows_of(name: str, template: Mapping[str, Any], count: int = rows) -> dict[str, Any]:
        shown = {"images": ["{picture}"], "kind": "{kind}", "group": "{group}"}
        taken = {"source": name, "limit": count, "map": {**template, **shown}}
        return {"near_duplicates": False, "rows": [taken | {"split": "published" if "test" in name else "hash"}]}

    chosen, rejected = ([{"role": "assistant", "content": f"{{{side}}}"}] for side in ("chosen", "rejected"))
    asked = {"question": "{question}", "answer": "{answer}"}
    return {
        "seed": 0,
        "threads": 1,
        "split": {"validation": 0.2, "test": 0.0},
        "scrub": [],
        "near_duplicates": {"threshold": 0.8, "permutations": 64, "ngram": 3},
        "decontamination": {"ngram": 8, "overlap": 0.5},
        "max_bad_share": 0.0,
        "report_examples": 1,
        "pictures": {"max_pixels": 10_000, "max_bytes": 100_000, "near": None},
        "sources": {
            "digits": source(["which"]),
            "questions": source(["which", "sum"]),
            "pairs": source(["which", "parity"], pairs=True),
            "digits_test": source(["which", "parity"], "test"),
            "sums_test": source(["sum"], "test"),
        },
        "sets": {
            "sft:labelled": rows_of("digits", {"messages": ASK + SAY, "label": "{label}"}, 4 * rows),
            "sft": rows_of("questions", {"messages": ASK + SAY}),
            "preferences": rows_of("pairs", {"prompt": ASK, "chosen": chosen, "rejected": rejected}),
            "prompts": rows_of("questions", {"prompt": ASK, **asked}),
            "eval:digits": rows_of("digits_test", asked),
            "eval:digit_sums": rows_of("sums_test", {**asked, "digits": "{label}"}, 8),
        },
    }


def build_data(folder: Path, make: Make, rows: int = 40) -> Path:
    """Run the data stage in process on that recipe; `folder` becomes the artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, PARAMS, "pictures", folder / "checkpoints", {}, Progress(None), main_process=True)
    data.main(parse(PARAMS, recipe(rows), data.Config), run)
    make(folder, stage="data")
    return folder


def build_model(text: Path, folder: Path, make: Make) -> Path:
    """Give a language model untrained eyes, as an artifact."""
    from tasks.models.multimodal import save_multimodal

    shape = parse(PARAMS, EYES, Architecture)
    model, processor = architecture.build(text, shape, PARAMS, seed=3)
    save_multimodal(model, processor, folder)
    make(folder, stage="align")
    return folder


def build_lively_text(chat: Path, folder: Path, make: Make) -> Path:
    """The chat model with larger weights: it says something else to every question, in printable ASCII."""
    import torch

    from tasks.models.folder import load_causal_lm, load_tokenizer, save_model

    model, tokenizer = load_causal_lm(chat), load_tokenizer(chat)
    texts = [tokenizer.decode([token]) for token in range(model.config.vocab_size)]
    silent = [token for token, text in enumerate(texts) if not (text.isascii() and text.isprintable())]
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4)
        model.get_output_embeddings().weight[silent] = 0
    save_model(model, tokenizer, folder)
    make(folder)
    return folder


def build_lively(text: Path, folder: Path, make: Make) -> Path:
    """A language model with eyes, whose features are as large as its embeddings."""
    import torch

    from tasks.models.multimodal import load_multimodal, save_multimodal

    model, processor = load_multimodal(build_model(text, folder.with_name(f"{folder.name}-plain"), make))
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight.mul_(100)
    save_multimodal(model, processor, folder)
    make(folder, stage="vlm")
    return folder


def exporting(**changes: Any) -> export_onnx.Config:
    """Settings of an export in fp32 and int8, of few prompts."""
    free = {"max_logprob_difference": None, "kl_per_token": 10.0, "argmax_agreement": None, "greedy_agreement": None}
    close = {"max_logprob_difference": 1e-3, "kl_per_token": 1e-6, "argmax_agreement": 0.999, "greedy_agreement": 0.99}
    forms = {
        name: {"precision": name, "weights": {}, "gptq": None, "thresholds": close if name == "fp32" else free}
        for name in ("fp32", "int8")
    }
    values = {
        "seed": 0,
        "threads": 1,
        "forms": forms,
        "parity": {"rows": "sft/validation.jsonl", "prompts": 4, "max_new_tokens": 8},
        "speed": {"new_tokens": 4, "repeats": 1},
    }
    return parse(PARAMS, values | changes, export_onnx.Config)


def export(model: Path, data: Path, out: Path, **changes: Any) -> Run:
    """Run the export stage in process on a model that sees."""
    run = Run(out, PARAMS, model.name, out / "none", {}, Progress(None), main_process=True)
    export_onnx.main(exporting(**changes), run, model=model, data=data)
    return run


def write_set(folder: Path, source: Path, make: Make, **sets: list[dict[str, Any]]) -> Path:
    """Write a data artifact with the pictures of another one and these rows, the last of each set to validate on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "media.zip").write_bytes((source / "media.zip").read_bytes())
    for name, rows in sets.items():
        numbered = [{**row, "id": f"r{i}", "source": "test"} for i, row in enumerate(rows)]
        artifact.write_jsonl(folder / name / "train.jsonl", numbered[:-1])
        artifact.write_jsonl(folder / name / "validation.jsonl", numbered[-1:])
    make(folder, stage="data")
    return folder


def configured(module: Any, peft: dict[str, Any] | None = None, trained: Any = None, **trainer: Any) -> Any:
    """Settings of `vlm` or `dpo` that suit the seeing model."""
    extra = {"trained": trained or ["projector", "language_model"]} if module is vlm else {}
    values = {
        "seed": 1,
        "threads": 1,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": "preferences" if module is dpo else "sft",
        "peft": peft,
        "trainer": TRAINER | {"max_length": None, "max_steps": 2, "save_steps": 2, "eval_strategy": "no"} | trainer,
        **extra,
    }
    return parse(PARAMS, values, module.Config)
