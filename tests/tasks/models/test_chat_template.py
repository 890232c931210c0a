"""A conversation as the text that a model reads: one way for prompts, calibration rows and judges."""

from pathlib import Path

import pytest

from tasks.models.chat_template import render
from tasks.models.folder import load_tokenizer
from tasks.stage.errors import DataError

QUESTION = [{"role": "user", "content": "What is 1 + 2?"}]


def test_a_prompt_goes_on_to_where_the_assistant_begins(chat_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    text = render(tokenizer, QUESTION, add_generation_prompt=True, chat_template_args={})
    assert text == "<|im_start|>user\nWhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n"


def test_a_whole_conversation_ends_with_its_last_turn(chat_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    answer = {"role": "assistant", "content": "3"}
    text = render(tokenizer, [*QUESTION, answer], add_generation_prompt=False, chat_template_args={})
    assert text.endswith("<|im_start|>assistant\n3<|im_end|>\n")


def test_the_template_gets_its_arguments(chat_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    tokenizer.chat_template += "{%- if not think %}{{- 'No thoughts.' }}{%- endif %}"
    loud = render(tokenizer, QUESTION, add_generation_prompt=True, chat_template_args={"think": True})
    quiet = render(tokenizer, QUESTION, add_generation_prompt=True, chat_template_args={"think": False})
    assert quiet == loud + "No thoughts."


def test_a_refused_conversation_is_an_error_of_the_data(chat_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(DataError, match=r"refuses the row of user that begins 'What is 1 \+ 2\?' \(System role"):
        render(tokenizer, QUESTION, add_generation_prompt=True, chat_template_args={})
