"""Folders of models that see: plain transformers loads them, two saves are the same bytes, and statistics stay."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.models.multimodal import is_multimodal, load_model, load_multimodal, save_multimodal, tokenizer_of
from tasks.multimodal.images import Archive
from tasks.stage import artifact
from tasks.stage.errors import ModelError


def shown(data: Path) -> tuple[Any, str]:
    """The picture and the question of a row."""
    row = artifact.read_jsonl(data / "sft" / "train.jsonl")[0]
    return Archive(data).image(row["images"][0]), row["messages"][0]["content"]


@pytest.mark.parametrize("auto", ["AutoModelForImageTextToText", "AutoModelForMultimodalLM"])
def test_plain_transformers_reads_the_folder_in_six_lines(seeing_model: Path, pictures_data: Path, auto: str) -> None:
    import transformers

    picture, question = shown(pictures_data)
    processor = transformers.AutoProcessor.from_pretrained(seeing_model)
    model = getattr(transformers, auto).from_pretrained(seeing_model)
    said = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(said, **options)
    answer = model.generate(**inputs, max_new_tokens=4)

    assert answer.shape[1] > inputs["input_ids"].shape[1]
    ours, reader = load_multimodal(seeing_model)
    read = reader.apply_chat_template(said, **options)
    assert torch.equal(read["input_ids"], inputs["input_ids"])
    assert int((read["input_ids"] == reader.image_token_id).sum()) == 16
    with torch.no_grad():
        assert torch.equal(ours.eval()(**read).logits, model.eval()(**inputs).logits)
        blind = {**read, "pixel_values": torch.zeros_like(read["pixel_values"])}
        assert not torch.allclose(ours(**read).logits, ours(**blind).logits, atol=1e-4), "the picture counts"


def test_two_saves_are_the_same_bytes(seeing_model: Path, tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        save_multimodal(*load_multimodal(seeing_model), tmp_path / name)
    files = sorted(path.name for path in seeing_model.iterdir() if path.name != artifact.MANIFEST)
    assert {"model.safetensors", "processor_config.json", "chat_template.jinja"} <= set(files)
    for folder in (tmp_path / "a", tmp_path / "b/c"):
        assert sorted(path.name for path in folder.iterdir()) == files
        assert [name for name in files if (folder / name).read_bytes() != (seeing_model / name).read_bytes()] == []
    assert str(tmp_path) not in (tmp_path / "a" / "config.json").read_text()


def test_a_text_model_is_read_by_its_tokenizer(chat_model: Path, seeing_model: Path) -> None:
    assert [is_multimodal(folder) for folder in (chat_model, seeing_model)] == [False, True]
    _, tokenizer = load_model(chat_model)
    assert tokenizer_of(tokenizer) is tokenizer
    _, processor = load_model(seeing_model)
    assert tokenizer_of(processor) is processor.tokenizer


@pytest.mark.parametrize(("with_processor", "sees"), [(True, True), (False, False)])
def test_an_architecture_that_is_both_sees_where_it_has_a_processor(
    tmp_path: Path, seeing_model: Path, with_processor: bool, sees: bool
) -> None:
    from transformers import Gemma3Config

    Gemma3Config().save_pretrained(tmp_path)
    if with_processor:
        shutil.copy(seeing_model / "processor_config.json", tmp_path)
    assert is_multimodal(tmp_path) == sees


def test_training_mode_moves_no_statistics(seeing_model: Path) -> None:
    """`Trainer` puts a model into training mode before each step."""
    model, _ = load_multimodal(seeing_model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert any("running_mean" in name for name in before)
    model.train()
    assert model.training and model.model.language_model.training
    model.get_image_features(torch.randn(4, 3, 32, 32) * 5 + 3)
    model.eval().train()
    model.get_image_features(torch.randn(4, 3, 32, 32) * 5 + 3)
    assert [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])] == []


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("processor_config.json", "neither processor_config.json nor preprocessor_config.json"),
        ("chat_template.jinja", "the processor has no chat template"),
    ],
)
def test_a_file_that_is_missing_is_named(seeing_model: Path, tmp_path: Path, broken: str, message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(seeing_model, folder)
    (folder / broken).unlink()
    with pytest.raises(ModelError, match=message):
        load_multimodal(folder)


def test_a_processor_of_another_kind_is_named(seeing_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(seeing_model, folder)
    config = json.loads((folder / "processor_config.json").read_text())
    config["image_processor"]["image_processor_type"] = "NoSuchProcessor"
    (folder / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="its processor cannot be read"):
        load_multimodal(folder)


def test_weights_of_the_encoder_that_are_missing_are_named(seeing_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(seeing_model, folder)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "vision_tower" in name)
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="would be random"):
        load_multimodal(folder)


def test_code_in_the_folder_is_never_run(seeing_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(seeing_model, folder)
    (folder / "processing.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelError, match="code inside a model folder is never run"):
        load_multimodal(folder)
