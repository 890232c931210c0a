"""Model folders that must not be loaded, and chat templates that must mark what the assistant wrote."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from tasks.models.chat_template import CHATML, mark_generation, marks_generation, warn_of_other_prompt
from tasks.models.folder import check_folder, load_causal_lm, load_tokenizer, save_model
from tasks.stage.errors import ModelError

SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""


@pytest.fixture
def folder(chat_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(chat_model, tmp_path / "model"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "sub/weights.pkl"])
def test_a_pickle_is_refused(folder: Path, name: str) -> None:
    """And it is said whether the weights are in it, or whether it is what a trainer left beside them."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=rf"{name}: a pickle can run code .* beside it are safetensors.* remove it"):
        load_causal_lm(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"{name}: a pickle can run code .* convert the weights to safetensors"):
        load_causal_lm(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(folder: Path, name: str) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ModelError, match=rf"{name}: 'auto_map' asks for remote code"):
        check_folder(folder)


def test_code_in_a_model_folder_is_refused(folder: Path) -> None:
    (folder / "modeling.py").write_text("")
    with pytest.raises(ModelError, match=r"code inside a model folder is never run"):
        check_folder(folder)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config.json; expected a Hugging Face model folder"):
        check_folder(tmp_path)


def test_saving_gives_the_same_bytes_wherever_the_model_came_from(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_model(load_causal_lm(folder), load_tokenizer(folder), tmp_path / name)
        folder = tmp_path / name
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
        assert str(tmp_path).encode() not in path.read_bytes()


def test_chatml_marks_the_answer_and_its_end(chat_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    assert marks_generation(tokenizer)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    encoded = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    kept = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(kept) == "b<|im_end|>"


@pytest.mark.parametrize(
    ("before", "asked", "warned"),
    [
        ("<|im_start|>assistant\\n", "<|im_start|>assistant\\n", False),
        (": ", ": ", True),
        (":\\n", ":\\n<|pad|>", True),
    ],
)
def test_a_prompt_that_no_conversation_has_is_a_warning(
    chat_model: Path, caplog: pytest.LogCaptureFixture, before: str, asked: str, warned: bool
) -> None:
    """In ` The` the space is the answer's, and a prompt that ends in one leaves it to another token."""
    tokenizer = load_tokenizer(chat_model)
    assert tokenizer.tokenize(" The")[0] != "Ġ"
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}{% if m.role == 'assistant' %}{{ '" + before + "' }}{% else %}: {% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant{{ '" + asked + "' }}{% endif %}"
    )
    with caplog.at_level(logging.WARNING, "polm"):
        warn_of_other_prompt(tokenizer, "folder")
    assert ("asked otherwise than it is trained" in caplog.text) == warned


def test_smollm2_template_is_marked_with_the_same_bytes(chat_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    tokenizer.chat_template = SMOLLM2
    turns = [{"role": "user", "content": "it's"}, {"role": "assistant", "content": " b\n"}]
    before = tokenizer.apply_chat_template(turns, tokenize=False)
    assert not marks_generation(tokenizer)
    mark_generation(tokenizer, "folder")
    assert marks_generation(tokenizer)
    assert tokenizer.apply_chat_template(turns, tokenize=False) == before
    assert "SmolLM" in before


def test_a_template_that_nobody_can_mark_is_an_error(chat_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    with pytest.raises(ModelError, match=r"does not mark the assistant's tokens and the end of its turn"):
        mark_generation(tokenizer, "folder")
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"no chat template"):
        mark_generation(tokenizer, "folder")


def test_marks_that_cover_everything_or_nothing_do_not_count(chat_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    for broken in (
        "{% if false %}{% generation %}{% endgeneration %}{% endif %}" + SMOLLM2,
        "{% generation %}" + SMOLLM2 + "{% endgeneration %}",
    ):
        tokenizer.chat_template = broken
        assert not marks_generation(tokenizer)
    tokenizer.chat_template = CHATML
    assert marks_generation(tokenizer)
