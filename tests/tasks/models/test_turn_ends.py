"""Where an answer ends, by the chat template; and what a model folder says of sampling, left out and named."""

import logging
from pathlib import Path
from typing import Any

import pytest

from tasks.models.chat_template import CHATML, mark_generation, marks_generation
from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.models.turn_ends import end_tokens, rendered_end, require_turn_end, turn_end
from tasks.stage.errors import ModelError

END_OF_TEXT, IM_START, IM_END, PAD = range(4)
TEMPLATES = {
    "right behind the answer": ("{{ m.content }}<|im_end|>", IM_END),
    "behind a space": ("{{ m.content }} <|endoftext|>", END_OF_TEXT),
    "behind a line break": ("{{ m.content }}\n<|im_end|>\n", IM_END),
    "the first of two": ("{{ m.content }}<|im_end|>\n{% if loop.last %}<|endoftext|>{% endif %}", IM_END),
    "at the very end only": ("{{ m.content }}{% if loop.last %}<|pad|>{% else %}<|im_end|>{% endif %}", PAD),
    "plain text": ("{{ m.content }}\n### User:\n", None),
    "a token behind plain text": ("{{ m.content }}\nEnd <|im_end|>", None),
    "nothing": ("{{ m.content }}", None),
    "no answer shown": ("{% if m.role == 'user' %}{{ m.content }}{% endif %}<|im_end|>", None),
    "refused": ("{{ raise_exception('no') }}", None),
}


def templated(chat_model: Path, turn: str) -> Any:
    tokenizer = load_tokenizer(chat_model)
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n" + turn + "{% endfor %}"
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_end_of_a_turn_is_the_token_behind_the_answer(chat_model: Path, name: str) -> None:
    turn, end = TEMPLATES[name]
    assert turn_end(templated(chat_model, turn)) == end


def test_an_answer_without_an_end_is_refused_with_both_texts(chat_model: Path) -> None:
    tokenizer = templated(chat_model, TEMPLATES["plain text"][0])
    with pytest.raises(ModelError, match=r"(?s)writes '\\n### User:\\n.*' behind an answer.*'<\|im_end\|>'"):
        require_turn_end(tokenizer, "folder")
    require_turn_end(load_tokenizer(chat_model), "folder")


def test_a_mark_without_the_end_does_not_count_and_is_mended(chat_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    tokenizer.chat_template = CHATML.replace("+ '<|im_end|>' }}{% endgeneration %}", "}}{% endgeneration %}<|im_end|>")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    before = tokenizer.apply_chat_template(turns, tokenize=False)
    assert rendered_end(tokenizer) == "<|im_end|>\n"
    assert not marks_generation(tokenizer)
    mark_generation(tokenizer, "folder")
    assert marks_generation(tokenizer)
    assert tokenizer.apply_chat_template(turns, tokenize=False) == before


def test_an_end_that_was_text_becomes_special(chat_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_causal_lm(chat_model), load_tokenizer(chat_model)
    tokenizer.add_tokens(["<turn|>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "<turn|>")
    end = tokenizer.convert_tokens_to_ids("<turn|>")
    assert tokenizer.decode([20, end], skip_special_tokens=True).endswith("<turn|>")
    save_model(model, tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert turn_end(loaded) == end
    assert not loaded.decode([20, end], skip_special_tokens=True).endswith("<turn|>")
    assert load_causal_lm(tmp_path).generation_config.eos_token_id == [IM_END, end]


def test_settings_that_change_an_answer_are_left_out_and_named(
    chat_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import json
    import shutil

    shutil.copytree(chat_model, tmp_path / "model")
    path = tmp_path / "model/generation_config.json"
    path.chmod(0o644)
    said = {"eos_token_id": IM_END, "pad_token_id": PAD, "use_cache": True, "repetition_penalty": 1.1, "top_k": 20}
    path.write_text(json.dumps(said))
    with caplog.at_level(logging.WARNING):
        model = load_causal_lm(tmp_path / "model")
    assert "repetition_penalty: 1.1, top_k: 20" in caplog.text
    assert "use_cache" not in caplog.text
    left = {
        key: value for key, value in model.generation_config.to_diff_dict().items() if key != "transformers_version"
    }
    assert left == {"eos_token_id": IM_END, "pad_token_id": PAD}
    assert end_tokens(model, load_tokenizer(chat_model)) == [IM_END]


def test_a_plain_folder_stays_as_it_is(chat_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        save_model(load_causal_lm(chat_model), load_tokenizer(chat_model), tmp_path)
    assert not caplog.text
    name = "generation_config.json"
    assert (tmp_path / name).read_bytes() == (chat_model / name).read_bytes()
