"""`polm new` and a folder that no recipe can start from: refused before anything is written, with the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.authoring import model
from tasks.stage.errors import ModelError


def configured(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def encoder(folder: Path) -> None:
    from transformers import BertConfig

    BertConfig(vocab_size=400, architectures=["BertForMaskedLM"]).save_pretrained(folder)


def seq2seq(folder: Path) -> None:
    from transformers import T5Config

    T5Config(vocab_size=400, architectures=["T5ForConditionalGeneration"]).save_pretrained(folder)


def classifier(folder: Path) -> None:
    configured(folder, architectures=["LlamaForSequenceClassification"])


def packed(folder: Path) -> None:
    configured(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def remote_code(folder: Path) -> None:
    configured(folder, auto_map={"AutoModelForCausalLM": "modeling.Mine"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def small_embedding(folder: Path) -> None:
    configured(folder, vocab_size=100)


def unreadable(folder: Path) -> None:
    (folder / "config.json").write_text("{")


BROKEN: list[tuple[Callable[[Path], None], str]] = [
    (encoder, "holds BertForMaskedLM and no language model"),
    (seq2seq, "'t5' is no causal language model.*take a decoder"),
    (classifier, "holds LlamaForSequenceClassification and no language model"),
    (packed, "its weights are quantised.*take the model that it was made from"),
    (remote_code, "'auto_map' asks for remote code"),
    (pickled, r"pytorch_model\.bin: a pickle can run code.*convert the weights to safetensors"),
    (without_weights, r"no model\.safetensors.*convert the weights"),
    (cut, r"model\.safetensors: cut short"),
    (small_embedding, "the embedding 100 rows.*resize"),
    (unreadable, r"config\.json: not JSON"),
]


@pytest.mark.parametrize(("broken", "message"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
def test_a_folder_that_the_base_stage_refuses_is_refused_at_once(
    tmp_path: Path, chat_model: Path, broken: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(chat_model, folder)
    assert model.look(str(folder), "CC0-1.0").parameters > 0
    broken(folder)
    with pytest.raises(ModelError, match=message):
        model.look(str(folder), "CC0-1.0")
