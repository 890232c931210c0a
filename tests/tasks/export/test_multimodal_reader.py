"""The reader of an export that sees: the text, tokens and pixels of the model's own processor, to the bit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.export.multimodal_reader import Reader
from tasks.models.multimodal import load_processor
from tasks.multimodal.prompts import IMAGE
from tasks.stage.artifact import read_json, write_json
from tasks.stage.errors import DataError, ModelError
from tests.support.drawings import drawn, halves, plain

QUESTIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "What is 12 + 345? “é”\n"}],
    [{"role": "user", "content": [IMAGE, {"type": "text", "text": " Which digit? "}]}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [IMAGE, IMAGE, {"type": "text", "text": "Which one?"}]},
        {"role": "assistant", "content": "7 <|im_end|>"},
        {"role": "user", "content": [{"type": "text", "text": "And "}, IMAGE, {"type": "text", "text": "?"}]},
    ],
]


@pytest.mark.parametrize("messages", QUESTIONS)
def test_text_tokens_and_pixels_are_the_processors(seeing_onnx: Path, lively_model: Path, messages: Any) -> None:
    """Pictures of every size and mode, scaled down and up, wide and high."""
    processor, reader = load_processor(lively_model), Reader(seeing_onnx / "int8")
    pictures = [drawn(1), halves((255, 0, 0), (0, 9, 255)), plain(7, "L", (5, 90))]
    count = sum(part == IMAGE for message in messages for part in message["content"])
    shown = pictures[:count]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert reader.render(messages) == text
    pixels: dict[str, Any] = {"images": [shown]} if shown else {}
    expected = processor(text=[text], **pixels, add_special_tokens=False, return_tensors="np")
    prompt = reader.read(messages, shown)
    assert prompt.ids == expected["input_ids"][0].tolist()
    assert prompt.pixels.shape == (count, 3, 32, 32)
    if shown:
        assert np.array_equal(prompt.pixels, expected["pixel_values"])


def test_an_answer_is_decoded_as_by_transformers_bit_by_bit(seeing_onnx: Path, lively_model: Path) -> None:
    tokenizer, reader = load_processor(lively_model).tokenizer, Reader(seeing_onnx / "fp32")
    for text in ("The answer is 357. Happy to help!", "“é” 🦊\n  x"):
        tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        stream = reader.stream()
        assert "".join(map(stream.decode, tokens)) == tokenizer.decode(tokens, skip_special_tokens=True) == text
        assert reader.decode(tokens) == text


@pytest.mark.parametrize("content", ["Is <image> one?", [IMAGE, {"type": "text", "text": "<image>"}]])
def test_a_text_that_spells_a_picture_is_refused(seeing_onnx: Path, content: Any) -> None:
    with pytest.raises(DataError, match="a text has '<image>', which stands for a picture"):
        Reader(seeing_onnx / "fp32").read([{"role": "user", "content": content}], [Image.new("RGB", (9, 9))])


def test_what_the_template_refuses_is_an_error_of_the_model(seeing_onnx: Path) -> None:
    with pytest.raises(ModelError, match=r"the chat template refuses these messages \(this model takes text and imag"):
        Reader(seeing_onnx / "fp32").render([{"role": "user", "content": [{"type": "audio"}]}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_center_crop": True}, "do_center_crop is True"),
        ({"size": {"shortest_edge": 32}}, "size is {'shortest_edge': 32}, and no height and width"),
        ({"do_normalize": False}, "do_normalize is False"),
        ({"do_pad": True}, "do_pad is set"),
    ],
)
def test_a_processor_of_other_steps_is_refused(
    seeing_onnx: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    shutil.copytree(seeing_onnx / "fp32", tmp_path / "fp32")
    path = tmp_path / "fp32" / "processor_config.json"
    settings = read_json(path)
    write_json(path, settings | {"image_processor": settings["image_processor"] | change})
    with pytest.raises(ModelError) as error:
        Reader(tmp_path / "fp32")
    assert message in str(error.value) and "in a way that an export cannot" in str(error.value)


def test_a_missing_file_is_named(seeing_onnx: Path, tmp_path: Path) -> None:
    shutil.copytree(seeing_onnx / "fp32", tmp_path / "fp32")
    (tmp_path / "fp32" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json, which a model that sees needs"):
        Reader(tmp_path / "fp32")
