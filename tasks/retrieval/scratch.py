"""A small encoder from nothing: a byte-level BPE tokenizer trained on the chunks, and a BERT with random weights.

Every byte is a token, so that no name is unknown; a vocabulary little larger than that keeps the words that all chunks
share whole, and spells names. The vector of a text is the mean of its tokens' last states.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.stage.config import Strict
from tasks.stage.errors import DataError

PAD, CLS, SEP, MASK = "[PAD]", "[CLS]", "[SEP]", "[MASK]"
LEAST = 260
"""Tokens of a vocabulary without a merge: 256 bytes, and the special ones."""


class Scratch(Strict):
    """Tokenizer and shape of a new encoder."""

    vocab_size: int = Field(ge=LEAST)
    """Most tokens, 260 of which are the bytes and special ones."""
    max_tokens: int = Field(gt=2)
    """Tokens of a text, two special ones included; what is longer is cut."""
    bert: dict[str, Any]
    """Passed verbatim to `transformers.BertConfig`; the vocabulary and the positions are set from the keys above."""


def build(scratch: Scratch, texts: Sequence[str], seed: int, place: Path) -> Any:
    """Make an encoder with random weights.

    Args:
        scratch: tokenizer and shape.
        texts: to train the tokenizer on.
        seed: of the weights.
        place: empty folder for the files from which sentence-transformers loads it.

    Returns:
        A `SentenceTransformer` on the CPU.

    Raises:
        DataError: no text to train the tokenizer on, or a shape that BERT refuses.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    if not texts:
        raise DataError("there is no chunk to train the encoder's tokenizer on; see the report of the chunks")
    tokenizer = _tokenizer(scratch, texts)
    torch.manual_seed(seed)
    try:
        config = BertConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=scratch.max_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **scratch.bert,
        )
        network = BertModel(config, add_pooling_layer=False)
    except (TypeError, ValueError) as e:
        raise DataError(f"encoder.scratch.bert: {e}; change the recipe") from None
    network.save_pretrained(place, safe_serialization=True)
    tokenizer.save_pretrained(place)
    words = Transformer(str(place), max_seq_length=scratch.max_tokens, model_kwargs={"add_pooling_layer": False})
    model = SentenceTransformer(modules=[words, Pooling(config.hidden_size, "mean")], device="cpu")
    model.model_card_data.local_files_only = True
    return model.eval()


def _tokenizer(scratch: Scratch, texts: Sequence[str]) -> Any:
    """Train a byte-level BPE tokenizer that puts a text between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=scratch.vocab_size,
        special_tokens=[PAD, CLS, SEP, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    ends = [(token, core.token_to_id(token)) for token in (CLS, SEP)]
    core.post_processor = processors.TemplateProcessing(single=f"{CLS} $A {SEP}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
        model_max_length=scratch.max_tokens,
    )
