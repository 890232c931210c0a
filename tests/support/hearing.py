"""Helpers: a model that hears and answers every sound otherwise, and questions with its answers by transformers."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.multimodal import hearing
from tasks.multimodal.images import Archive
from tasks.stage import artifact

Make = Callable[..., artifact.Manifest]


def build_lively(chat: Path, folder: Path, make: Make) -> Path:
    """A lively language model with ears, whose features are as large as its embeddings."""
    import torch

    from tasks.models.multimodal import load_multimodal, save_multimodal
    from tests.support import pictures, sounds

    text = pictures.build_lively_text(chat, folder / "text", make)
    model, processor = load_multimodal(sounds.build_model(text, folder / "plain", make))
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight.mul_(100)
    save_multimodal(model, processor, folder / "lively")
    make(folder / "lively", stage="speech")
    return folder / "lively"


class Plain:
    """A model that hears, by transformers alone."""

    def __init__(self, folder: Path) -> None:
        from tasks.models.multimodal import load_multimodal

        model, self.processor = load_multimodal(folder)
        self.model = model.eval()

    def text(self, question: str, count: int) -> str:
        """The prompt of a question with so many sounds."""
        turns = hearing.conversation([{"role": "user", "content": question}], count)
        return str(self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def inputs(self, question: str, sounds: list[Any]) -> dict[str, Any]:
        """The tensors of a question, by the processor."""
        return hearing.encoded(self.processor, [self.text(question, len(sounds))], sounds, "left")

    def answer(self, question: str, sounds: list[Any], length: int = 8) -> str:
        """The greedy answer to a question."""
        inputs = self.inputs(question, sounds)
        out = self.model.generate(**inputs, max_new_tokens=length, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        return str(self.processor.tokenizer.decode(out, skip_special_tokens=True))


def clips(data: Path) -> dict[str, Any]:
    """Names of the sounds of held-out voices to what is heard, each `[samples]` (float32)."""
    from tasks.multimodal.sounds import sound

    archive = Archive(data)
    rows = artifact.read_jsonl(data / "eval" / "transcripts.jsonl")
    return {name: sound(archive, name)[0] for row in rows for name in row["audio"]}


def build_questions(model: Path, spoken_data: Path, folder: Path, make: Make) -> Path:
    """A data artifact of 12 questions of many lengths, with a sound and without; its answers the model's."""
    plain, heard = Plain(model), clips(spoken_data)
    names = [*heard][:12]
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        kind = ("heard", "heard", "words")[i % 3] if i < 9 else "constant"
        audio = [] if kind == "words" else [name]
        question = f"What do you {'really ' * (i % 5)}hear, {i}?"
        row = {"id": f"q{i}", "question": question, "kind": kind}
        answer = plain.answer(question, [heard[name] for name in audio])
        rows.append({**row, "answer": answer, **({"audio": audio} if audio else {})})
    (folder / "eval").mkdir(parents=True)
    shutil.copy(spoken_data / "media.zip", folder)
    artifact.write_jsonl(folder / "eval" / "shown.jsonl", rows)
    make(folder, stage="data")
    return folder
