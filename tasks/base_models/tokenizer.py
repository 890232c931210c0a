"""A byte-level BPE tokenizer with ChatML's special tokens, trained on a recipe's texts."""

import re
from collections import Counter
from typing import Any

from pydantic import Field

from tasks.models.chat_template import CHATML
from tasks.stage.config import Strict

END_OF_TEXT, PAD, TURN_START, TURN_END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"


class TokenizerConfig(Strict):
    """The tokenizer to train."""

    vocab_size: int
    """Number of tokens, special ones included. At least 260: every byte is a token."""
    split_digits: bool
    """One token a digit. Without it a model learns sums of frequent numbers by heart and no others."""
    common_words: float | None = Field(default=None, gt=0, le=1, exclude_if=lambda share: share is None)
    """Share of the texts, 0 to 1, that a word must stand in for the merges to be learnt from it; may be missing, and
    they are learnt from all words. With it a rare word, e.g. a name, is spelt, and a small model copies letters sooner
    than syllables."""


def train_tokenizer(texts: list[str], config: TokenizerConfig) -> Any:
    """Train a byte-level BPE tokenizer with ChatML special tokens and a template that marks assistant tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if config.split_digits else []
    core.pre_tokenizer = pre_tokenizers.Sequence([*digits, bytes_])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts if config.common_words is None else _common(texts, config.common_words), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=TURN_END, pad_token=PAD)
    tokenizer.chat_template = CHATML
    return tokenizer


def _common(texts: list[str], share: float) -> list[str]:
    """Take the words out of texts that stand in less than `share` of them, 0 to 1, with the space before them."""
    found = Counter(word for text in texts for word in set(re.findall(r"\w+", text)))
    common = {word for word, count in found.items() if count >= share * len(texts)}
    return [re.sub(r" ?\w+", lambda word: word[0] if word[0].strip() in common else "", text) for text in texts]
