"""Helpers: questions about pictures, their answers by plain transformers, and the evaluation stage that asks them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.evaluate import Config, main
from tasks.models.multimodal import load_multimodal
from tasks.multimodal.images import Archive
from tasks.stage import artifact
from tasks.stage.config import load
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress

Make = Callable[..., artifact.Manifest]
EVALUATE: dict[str, Any] = {
    "seed": 0, "threads": 1, "device": "cpu", "dtype": "float32", "batch_size": 8, "chat_template_args": {},
    "too_long": "error", "resamples": 200, "confidence": 0.95,
}  # fmt: skip
TASK: dict[str, Any] = {
    "task": "shown",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "eval/shown.jsonl"}},
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"do_sample": False, "max_gen_toks": 8, "until": ["<|im_end|>"]},
    "process_results": "graders.echoed",
    "metric_list": [{"metric": "same", "aggregation": "mean", "higher_is_better": True}],
}
SCORED = {"output_type": "loglikelihood", "process_results": "answer_loss", "generation_kwargs": {}} | {
    "metric_list": [{"metric": "nats_per_byte", "aggregation": "mean", "higher_is_better": False}]
}
GRADER = """
def echoed(doc, results):
    return {"same": float(doc["kind"] == "constant" or results[0] == doc["answer"])}

def told(doc, results):
    return {f"of_{i}": results[min(i, len(results) - 1)][0] for i in range(4)}
"""
"""Any answer to a question of the kind `constant` is right; of the others, the one that the model gives."""


def plainly(folder: Path, question: str, pictures: list[Any], length: int = 8) -> str:
    """The greedy answer by transformers alone, to one question."""
    model, processor = load_multimodal(folder)
    parts = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    tokens = model.eval().generate(**inputs, max_new_tokens=length, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return str(processor.tokenizer.decode(tokens, skip_special_tokens=True))


def build_questions(model: Path, pictures_data: Path, folder: Path, make: Make) -> Path:
    """A data artifact of 18 questions of many lengths: with a picture, with two, without; its answers the model's."""
    archive = Archive(pictures_data)
    names = [row["images"][0] for row in artifact.read_jsonl(pictures_data / "eval" / "digits.jsonl")]
    rows: list[dict[str, Any]] = []
    for i in range(18):
        kind = ("seen", "two", "words")[i % 3] if i < 12 else "constant"
        count = {"two": 2, "words": 0}.get(kind, 1)
        row = {"id": f"q{i}", "question": f"Which {'very ' * (i % 5)}digit is it, {i}?", "kind": kind}
        images = names[2 * i : 2 * i + count]
        answer = plainly(model, row["question"], [archive.image(name) for name in images])
        rows.append({**row, "answer": answer, **({"images": images} if images else {})})
    (folder / "eval").mkdir(parents=True)
    shutil.copy(pictures_data / "media.zip", folder)
    artifact.write_jsonl(folder / "eval" / "shown.jsonl", rows)
    artifact.write_jsonl(folder / "eval" / "words.jsonl", [row for row in rows if row["kind"] == "words"])
    make(folder, stage="data")
    return folder


def rows_of(data: Path, name: str = "shown") -> list[dict[str, Any]]:
    return artifact.read_jsonl(data / "eval" / f"{name}.jsonl")


def evaluate(model: Path, data: Path, task: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Run the stage's `main` on one task in the working directory."""
    folder = Path("params/mine")
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    (folder / "graders.py").write_text(GRADER)
    choice = {"file": "eval/shown.yaml", "limit": None, "group_by": changes.pop("group_by", [])}
    choice["controls"] = changes.pop("controls", [])
    for path, values in (("eval/shown.yaml", TASK | (task or {})), ("evaluate.yaml", EVALUATE | {"tasks": [choice]})):
        with (folder / path).open("w") as f:
            YAML(typ="safe").dump(values | (changes if path == "evaluate.yaml" else {}), f)
    out = Path(f"out{len(list(Path().glob('out*')))}")
    run = Run(out, folder / "evaluate.yaml", model.name, Path("x"), {}, Progress(None), main_process=True)
    main(load(folder / "evaluate.yaml", Config), run, model=model, data=data)
    return out


def samples(out: Path, name: str = "shown") -> list[dict[str, Any]]:
    return artifact.read_jsonl(out / "samples" / f"{name}.jsonl")
