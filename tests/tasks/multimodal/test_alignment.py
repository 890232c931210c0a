"""Alignment: vectors of labels, scores by the embeddings, and pictures that are changed by the seed alone."""

from pathlib import Path

import pytest
import torch

from tasks.models.multimodal import load_multimodal
from tasks.multimodal import alignment
from tasks.multimodal.settings import Augmentation

STILL = Augmentation(shift=0, scale=0.0, rotation=0.0, noise=0.0)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_label_is_the_mean_of_its_tokens_embeddings(seeing_model: Path) -> None:
    model, processor = load_multimodal(seeing_model)
    vectors = alignment.class_vectors(model, processor.tokenizer, ["7", "12"])
    table = model.get_input_embeddings().weight
    one, two = (processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("7", "12"))
    assert torch.equal(vectors[0], table[one[0]])
    assert len(two) == 2
    torch.testing.assert_close(vectors[1], (table[two[0]] + table[two[1]]) / 2)
    assert not vectors.requires_grad, "the embedding learns nothing"


def test_labels_of_the_same_tokens_are_found(seeing_model: Path) -> None:
    model, processor = load_multimodal(seeing_model)
    vectors = alignment.class_vectors(model, processor.tokenizer, ["3", "12", "7", "21"])
    assert alignment.alike(vectors) == (1, 3)
    assert alignment.alike(vectors[:3]) is None


def test_scores_are_products_with_the_mean_of_the_features(seeing_model: Path) -> None:
    model, _ = load_multimodal(seeing_model)
    pixels = torch.randn(3, 3, 32, 32, generator=generator())
    vectors = torch.randn(4, 64, generator=generator(2))
    with torch.no_grad():
        found = alignment.scores(model.eval(), pixels, alignment.Space(vectors, torch.zeros(64), None))
        map_ = model.model.vision_tower(pixels).last_hidden_state.flatten(2).mT
        features = model.model.multi_modal_projector(map_)
    torch.testing.assert_close(found, features.mean(dim=1) @ vectors.T, atol=1e-5, rtol=1e-4)


def test_with_a_temperature_the_angle_at_the_middle_of_the_embeddings_counts() -> None:
    middle = torch.tensor([5.0, 5.0])
    vectors = middle + torch.tensor([[3.0, 0.0], [0.0, 0.1]])
    projected = middle + torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[-1.0, 40.0], [1.0, 2.0]]])
    found = alignment.Space(vectors, middle, 0.5).nearness(projected)
    torch.testing.assert_close(found, torch.tensor([[2.0, 0.0], [0.0, 2.0]]))


def test_an_encoders_features_are_what_the_projector_takes(seeing_model: Path) -> None:
    model, _ = load_multimodal(seeing_model)
    pixels = torch.randn(2, 3, 32, 32, generator=generator())
    with torch.no_grad():
        whole = torch.stack(list(model.eval().get_image_features(pixels).pooler_output))
        in_parts = model.model.multi_modal_projector(alignment.encoded(model, pixels))
    assert torch.equal(whole, in_parts)


def test_without_changes_a_picture_stays() -> None:
    pixels = torch.randn(2, 3, 32, 32, generator=generator())
    torch.testing.assert_close(alignment.augmented(pixels, STILL, generator()), pixels, atol=1e-5, rtol=1e-5)


def test_a_picture_is_moved_by_no_more_than_said() -> None:
    pixels = torch.zeros(400, 3, 32, 32)
    pixels[:, :, 16, 16] = 1.0
    moved = alignment.augmented(pixels, STILL.model_copy(update={"shift": 3}), generator())
    light = moved[:, 0]
    places = torch.arange(32.0)
    down = (light.sum(dim=2) * places).sum(dim=1) / light.sum(dim=(1, 2))
    across = (light.sum(dim=1) * places).sum(dim=1) / light.sum(dim=(1, 2))
    for way in (down - 16, across - 16):
        assert 2.5 < way.abs().max() <= 3 + 1e-3
        assert way.min() < -2 and way.max() > 2, "both ways"


@pytest.mark.parametrize("change", [{"scale": 0.2}, {"rotation": 30.0}, {"noise": 0.5}, {"shift": 4}])
def test_every_change_is_the_seeds_and_each_pictures_own(change: dict[str, float]) -> None:
    picture = torch.randn(1, 3, 32, 32, generator=generator())
    pixels = picture.repeat(2, 1, 1, 1)
    settings = STILL.model_copy(update=change)
    first, again, other = (alignment.augmented(pixels, settings, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    assert not torch.allclose(first[0], first[1], atol=1e-3)
    assert not torch.allclose(first, pixels, atol=1e-3)


@pytest.mark.parametrize(("count", "size"), [(7, 3), (3, 7), (4, 4)])
def test_an_epoch_shows_every_picture_once(count: int, size: int) -> None:
    drawn = torch.cat(list(alignment.batches(count, size, 2 * count, generator())))
    assert len(drawn) == 2 * count * size
    for start in range(0, len(drawn) - count + 1, count):
        assert sorted(drawn[start : start + count].tolist()) == list(range(count))
