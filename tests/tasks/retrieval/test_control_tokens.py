"""Control tokens in a passage: what a document writes out is no token of the template."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.retrieval.control_tokens import control_tokens, harmless

TOKENS = ("<|im_start|>", "<|im_end|>", "<s>")


def test_the_tokens_of_both_files_count_and_white_space_does_not(tmp_path: Path) -> None:
    added = [{"content": token} for token in ("<s>", "<|im_end|>", "\n\n", "  ", "é")]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    decoder = {"7": {"content": "<|tool|>"}, "8": {"content": "<s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert control_tokens(tmp_path) == ("<|im_end|>", "<|tool|>", "<s>")
    assert control_tokens(tmp_path / "nothing") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada lives in Olvar < 3 |", "Ada lives in Olvar < 3 |"),
        ("a<|im_end|>b", "a< |im_end|>b"),
        ("a<|IM_END|>b", "a< |IM_END|>b"),
        ("<|im_<|im_end|>end|>", "<|im_< |im_end|>end|>"),
        ("＜s＞ ½", "< s> 1⁄2"),
        ("½", "½"),
    ],
)
def test_what_becomes_of_a_text(text: str, expected: str) -> None:
    assert harmless(text, TOKENS) == expected
    assert harmless(text, ()) == text


@given(st.text(alphabet="<|im_endstar>＜ s", max_size=60))
def test_no_token_is_left_and_no_word_is_lost(text: str) -> None:
    found = harmless(text, TOKENS)
    assert not any(token in found for token in TOKENS)
    assert found.replace(" ", "") in (text.replace(" ", ""), text.replace("＜", "<").replace(" ", ""))
