"""Spelling by connectionist temporal classification in the embedding space: units, their scores, and what is spelt."""

from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import torch

from tasks.models.multimodal import load_multimodal
from tasks.multimodal import ctc
from tasks.stage.errors import DataError
from tests.support.sounds import RATE

LABELS = ["3 + 5", "7", "5 5"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded(hearing_model: Path) -> tuple[Any, Any]:
    return load_multimodal(hearing_model)


def units(loaded: tuple[Any, Any], kind: str = "words") -> ctc.Units:
    model, processor = loaded
    blank = processor.tokenizer.convert_tokens_to_ids("<|pad|>")
    return ctc.Units(LABELS, kind, blank, model, processor.tokenizer)


def noise(seconds: float, seed: int = 0) -> Any:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


def test_a_class_is_the_mean_of_its_tokens_and_the_first_the_blank(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    table = model.get_input_embeddings().weight.detach()
    found = units(loaded)
    assert found.names == ["+", "3", "5", "7"]
    assert torch.equal(found.vectors[0], table[processor.tokenizer.convert_tokens_to_ids("<|pad|>")])
    for name, vector in zip(found.names, found.vectors[1:], strict=True):
        ids = processor.tokenizer(name, add_special_tokens=False)["input_ids"]
        assert torch.equal(vector, table[ids].mean(dim=0))


@pytest.mark.parametrize("kind", ["words", "tokens"])
def test_repeats_are_one_unit_and_blanks_none(loaded: tuple[Any, Any], kind: str) -> None:
    """A unit that is said twice has a blank between."""
    found = units(loaded, kind)
    for label in LABELS:
        path = [0]
        for unit in found.split(label):
            path += [found.names.index(unit) + 1] * 2 + [0]
        assert found.spelt(path) == label
    five = found.names.index("5" if kind == "words" else found.split("5")[0]) + 1
    assert found.spelt([0, five, five, five, 0, 0]) == "5"
    assert found.spelt([0, 0]) == found.spelt([]) == ""


@pytest.mark.parametrize("kind", ["words", "tokens"])
def test_the_loss_is_low_where_the_label_is_spelt_and_only_there(loaded: tuple[Any, Any], kind: str) -> None:
    found = units(loaded, kind)
    scores = torch.zeros(2, 20, len(found.names) + 1)
    for row, label in zip(scores, LABELS[:2], strict=True):
        path = [0]
        for unit in found.split(label):
            path += [found.names.index(unit) + 1, 0]
        row[range(len(path)), path] = 20.0
        row[len(path) :, 0] = 20.0
    lengths = torch.tensor([20, 20])
    assert found.loss(scores, lengths, LABELS[:2]) < 0.01
    assert found.loss(scores, lengths, LABELS[1::-1]) > 5


def test_a_frames_score_is_a_cosine_and_its_number_that_of_tokens(loaded: tuple[Any, Any]) -> None:
    from tasks.multimodal import hearing

    model, processor = loaded
    sounds = [noise(0.5), noise(1.73, 1), noise(3.0, 2)]
    with torch.no_grad():
        features, frames = ctc.spectrograms(processor, sounds)
        scores, lengths = ctc.scores(model, features, frames, units(loaded))
    assert features.shape == (3, 32, 240)
    assert lengths.tolist() == [hearing.tokens(processor, [sound]) for sound in sounds] == [5, 17, 30]
    assert scores.shape == (3, 30, 5)
    assert scores.abs().max() <= 1 / ctc.TEMPERATURE + 1e-4
    with torch.no_grad():
        heard = model.get_audio_features(
            features, torch.arange(240)[None] < torch.tensor(frames)[:, None]
        ).pooler_output
    classes = torch.nn.functional.normalize(units(loaded).vectors, dim=-1)
    expected = torch.nn.functional.normalize(heard[:5], dim=-1) @ classes.T / ctc.TEMPERATURE
    assert torch.allclose(scores[0, :5], expected, atol=1e-3), "what is scored is what the language model will read"


def test_rescaled_frames_are_as_long_as_embeddings(hearing_model: Path) -> None:
    model, processor = load_multimodal(hearing_model)
    found = units((model, processor))
    sounds = [noise(1.0, k) for k in range(3)]
    with torch.no_grad():
        features, frames = ctc.spectrograms(processor, sounds)
        before, _ = ctc.scores(model.eval(), features, frames, found)
        factor = ctc.rescale(model, processor, found, sounds)
        after, _ = ctc.scores(model, features, frames, found)
        merged = model.model.audio_tower(features).last_hidden_state.reshape(3, -1, 128)
        length = model.model.multi_modal_projector(merged).norm(dim=-1).mean()
    assert factor > 0
    assert length.item() == pytest.approx(found.vectors.norm(dim=-1).mean().item(), rel=1e-3)
    assert torch.allclose(before, after, atol=1e-3), "the cosines stay"


def test_the_error_rate_is_that_of_all_words(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    found, sounds = units(loaded), [noise(1.0, k) for k in range(3)]
    with torch.no_grad():
        scores, lengths = ctc.scores(model.eval(), *ctc.spectrograms(processor, sounds), found)
    spelt = [found.spelt(row[:n].argmax(dim=-1).tolist()) for row, n in zip(scores, lengths, strict=True)]
    rows = [{"label": label} for label in LABELS]
    assert ctc.error_rate(model, processor, found, sounds, rows) == pytest.approx(jiwer.wer(LABELS, spelt), abs=1e-4)


def test_units_of_one_embedding_are_listed(loaded: tuple[Any, Any]) -> None:
    """A mean knows no order, and a blank that is a unit is never told from it."""
    model, processor = loaded
    tokenizer = processor.tokenizer
    five = tokenizer.convert_tokens_to_ids("5")
    assert units(loaded).alike() == []
    found = ctc.Units(["12 5", "21"], "words", five, model, tokenizer)
    assert found.alike() == [["blank", "'5'"], ["'12'", "'21'"]]
    assert torch.equal(found.vectors[0], found.vectors[3]) and torch.equal(found.vectors[1], found.vectors[2])


def test_units_that_no_label_had_are_listed(loaded: tuple[Any, Any]) -> None:
    assert units(loaded).unknown(LABELS) == []
    assert units(loaded).unknown(["3 + 9", "8 8"]) == ["8", "9"]
    assert units(loaded, "tokens").unknown(["39"]) == ["9"]


def test_a_word_without_a_token_is_named(loaded: tuple[Any, Any]) -> None:
    """The embedding of such a word would be a mean of nothing, and the loss no number."""
    model, processor = loaded

    def without(text: str, **settings: Any) -> Any:
        return processor.tokenizer(text.replace("@", ""), **settings)

    with pytest.raises(DataError, match="no token of '@'"):
        ctc.Units(["3 @"], "words", 0, model, without)
