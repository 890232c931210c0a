"""Decoding an export that sees on ONNX Runtime: the logits and answers of PyTorch, and what is drawn from them."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.export.multimodal_reader import Pictured, Reader
from tasks.export.multimodal_session import Drawing, Session, draw
from tasks.models.multimodal import load_multimodal
from tasks.multimodal.images import Archive
from tasks.multimodal.prompts import shown
from tasks.stage import artifact
from tasks.stage.errors import DataError, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def session(seeing_onnx: Path) -> Session:
    return Session(seeing_onnx / "fp32", threads=1)


def question(text: str, count: int) -> list[dict[str, Any]]:
    return shown([{"role": "user", "content": text}], count)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_logits_and_greedy_tokens_are_those_of_pytorch(
    session: Session, lively_model: Path, seeing_onnx: Path, pictures_data: Path, count: int
) -> None:
    import torch

    model, processor = load_multimodal(lively_model)
    archive, reader = Archive(pictures_data), Reader(seeing_onnx / "fp32")
    names = [row["images"][0] for row in artifact.read_jsonl(pictures_data / "eval" / "digits.jsonl")]
    pictures = [archive.image(name) for name in names[:count]]
    messages = question("Which digit is this?", count)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    pixels: dict[str, Any] = {"images": [pictures]} if count else {}
    inputs = processor(text=[text], **pixels, add_special_tokens=False, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    options = {"do_sample": False, "eos_token_id": session.ends, "pad_token_id": 3}
    with torch.inference_mode():
        out = model.eval().generate(**inputs, max_new_tokens=12, **options)
        inputs["input_ids"], inputs["attention_mask"] = out, torch.ones_like(out)
        expected = model(**inputs).logits[0, length - 1 :].numpy()
    answer = out[0, length:].tolist()
    embeddings = session.embeddings(reader.read(messages, pictures))
    assert list(session.generate(embeddings, max_new_tokens=12)) == answer
    assert np.abs(session.logits(embeddings, answer) - expected).max() < 1e-3
    assert np.abs(expected).max() > 5, "logits that are all alike would agree by themselves"


def test_another_picture_gives_another_answer(session: Session, seeing_onnx: Path, pictures_data: Path) -> None:
    archive, reader = Archive(pictures_data), Reader(seeing_onnx / "fp32")
    names = [row["images"][0] for row in artifact.read_jsonl(pictures_data / "eval" / "digits.jsonl")]
    prompts = [reader.read(question("Which digit?", 1), [archive.image(name)]) for name in names[:6]]
    assert len({tuple(session.generate(session.embeddings(prompt), max_new_tokens=8)) for prompt in prompts}) > 3


def test_an_end_token_ends_an_answer_and_is_held_back_before_its_time(session: Session, seeing_onnx: Path) -> None:
    reader = Reader(seeing_onnx / "fp32")
    embeddings = session.embeddings(reader.read(question("Hello!", 0), []))
    free = list(session.generate(embeddings, max_new_tokens=40))
    ends, session.ends = session.ends, [free[1]]
    try:
        first = free.index(free[1])
        assert list(session.generate(embeddings, max_new_tokens=40)) == free[: first + 1]
        longer = list(session.generate(embeddings, max_new_tokens=40, min_new_tokens=6))
        assert len(longer) >= 6 and free[1] not in longer[:6]
    finally:
        session.ends = ends


def test_a_seed_repeats_a_draw(session: Session, seeing_onnx: Path) -> None:
    embeddings = session.embeddings(Reader(seeing_onnx / "fp32").read(question("Hello!", 0), []))

    def drawn(seed: int | None) -> list[int]:
        return list(session.generate(embeddings, max_new_tokens=12, drawing=Drawing(temperature=5.0, seed=seed)))

    assert drawn(4) == drawn(4)
    assert len({tuple(drawn(None)) for _ in range(4)}) > 1


@pytest.mark.parametrize("pictures", [0, 2])
def test_a_picture_without_its_place_is_refused(session: Session, seeing_onnx: Path, pictures: int) -> None:
    reader = Reader(seeing_onnx / "fp32")
    prompt = reader.read(question("Which?", 1), [])
    pixels = np.zeros((pictures, 3, 32, 32), dtype=np.float32)
    with pytest.raises(DataError, match=rf"16 places for features of pictures, and {pictures} pictures with "):
        session.embeddings(Pictured(prompt.ids, prompt.image_token_id, pixels))


LOGITS = np.log(np.array([0.05, 0.5, 0.15, 0.3], dtype=np.float32))


@pytest.mark.parametrize(
    ("drawing", "shares"),
    [
        (Drawing(), {1: 1.0}),
        (Drawing(temperature=1e-6), {1: 1.0}),
        (Drawing(temperature=1.0), {0: 0.05, 1: 0.5, 2: 0.15, 3: 0.3}),
        (Drawing(temperature=0.5), {0: 0.0068, 1: 0.6849, 2: 0.0616, 3: 0.2466}),
        (Drawing(temperature=1.0, top_k=2), {1: 0.625, 3: 0.375}),
        (Drawing(temperature=1.0, top_p=0.7), {1: 0.625, 3: 0.375}),
        (Drawing(temperature=1.0, top_p=0.5), {1: 1.0}),
        (Drawing(temperature=1.0, top_p=1.0), {0: 0.05, 1: 0.5, 2: 0.15, 3: 0.3}),
        (Drawing(temperature=1.0, top_p=1e-9), {1: 1.0}),
    ],
)
def test_tokens_are_drawn_by_their_shares(drawing: Drawing, shares: dict[int, float]) -> None:
    rng = np.random.default_rng(0)
    found = Counter(draw(LOGITS.copy(), drawing, rng) for _ in range(4000))
    assert set(found) == set(shares)
    for token, share in shares.items():
        assert found[token] / 4000 == pytest.approx(share, abs=0.03)


def test_what_cannot_be_loaded_is_named(seeing_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no vision\.onnx; expected the export of a model that sees"):
        Session(tmp_path)
    shutil.copytree(seeing_onnx / "fp32", tmp_path / "fp32")
    (tmp_path / "fp32" / "vision.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="ONNX Runtime cannot load it"):
        Session(tmp_path / "fp32")
