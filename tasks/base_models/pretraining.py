"""Pre-training from scratch: a byte-level BPE tokenizer and a small decoder, for recipes that start from nothing.

Documents are tokenised, joined with an end-of-text token and cut into blocks; attention runs across documents, as is
usual in pre-training. Muon (Jordan et al., 2024; `tasks/base_models/muon.py`) updates the matrices inside the blocks,
AdamW the embeddings and norms; both follow one warm-up, hold and linear decay ("WSD", Hu et al., arXiv:2404.06395).
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tasks.models.chat_template import CHATML
from tasks.stage import artifact
from tasks.stage.config import Strict
from tasks.stage.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tasks.stage.lifecycle import Run

END_OF_TEXT, PAD, TURN_START, TURN_END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"


class TokenizerConfig(Strict):
    """The tokenizer to train."""

    vocab_size: int
    """Number of tokens, special ones included. At least 260: every byte is a token."""
    split_digits: bool
    """One token a digit. Without it a model learns sums of frequent numbers by heart and no others."""
    common_words: float | None = Field(gt=0, le=1)
    """Share of the texts, 0 to 1, that a word must stand in for the merges to be learnt from it; null: from all words.
    With it a rare word, e.g. a name, is spelt letter by letter, which a small model copies sooner than syllables."""


class Pretraining(Strict):
    """Model shape and schedule."""

    tokenizer: TokenizerConfig
    model: dict[str, Any]
    """Passed verbatim to the configuration class of transformers whose `model_type` it names, e.g. `lfm2`; `llama`
    where it names none."""
    block_size: int
    """Tokens in one training sequence."""
    batch_size: int
    """Sequences in one optimizer step."""
    steps: int
    """Optimizer steps."""
    muon_learning_rate: float
    """Peak rate of the matrices."""
    adamw_learning_rate: float
    """Peak rate of embeddings and norms."""
    weight_decay: float
    """Decoupled decay, both optimizers, matrices only."""
    warmup_share: float
    """Share of the steps that the rate rises linearly from 0."""
    decay_share: float
    """Share of the steps, at the end, that it falls linearly to 0."""
    checkpoint_steps: int
    """Steps between checkpoints."""


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


def pretrain(config: Pretraining, seed: int, data: Path, run: "Run") -> tuple[Any, Any, dict[str, float]]:
    """Train tokenizer and model on `data/pretrain`, resuming from a checkpoint of the same inputs.

    The tokenizer sees the fine-tuning conversations too, so that their words are tokens of it.

    Returns:
        Model, tokenizer, and final figures (`loss` in nats per token, `tokens`, `parameters`).

    Raises:
        DataError: the data hold fewer tokens than one step needs.
    """
    import torch

    texts = [row["text"] for row in artifact.read_jsonl(data / "pretrain" / "train.jsonl")]
    turns = [m["content"] for row in artifact.read_jsonl(data / "sft" / "train.jsonl") for m in row["messages"]]
    tokenizer = train_tokenizer(texts + turns, config.tokenizer)
    blocks = _blocks(tokenizer, texts, config.block_size)
    if len(blocks) < config.batch_size:
        raise DataError(
            f"{data}/pretrain: {len(blocks)} blocks of {config.block_size} tokens, one step takes "
            f"{config.batch_size}; add rows or lower batch_size"
        )
    torch.manual_seed(seed)
    model = _model(tokenizer, config.model)
    curve = _train(model, blocks, config, seed, run)
    artifact.write_jsonl(run.out / "curves.jsonl", curve)
    tokens = config.steps * config.batch_size * config.block_size
    figures = {"loss": curve[-1]["loss"], "tokens": tokens, "parameters": model.num_parameters()}
    return model, tokenizer, figures


def _model(tokenizer: Any, shape: Mapping[str, Any]) -> Any:
    """Make a decoder with random weights. Raises ConfigError where transformers has none of that `model_type`."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind = shape.get("model_type", "llama")
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(f"source.scratch.model.model_type is '{kind}', which transformers has no decoder for")
    settings = CONFIG_MAPPING[kind](
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **{name: value for name, value in shape.items() if name != "model_type"},
    )
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)](settings)


def _blocks(tokenizer: Any, texts: list[str], size: int) -> Any:
    """Join all documents to one stream of ids, cut into `[blocks, size]`; the remainder is dropped."""
    import torch

    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    ids = [i for row in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in (*row, end)]
    return torch.tensor(ids[: len(ids) // size * size], dtype=torch.long).view(-1, size)


def _train(model: Any, blocks: Any, config: Pretraining, seed: int, run: "Run") -> list[dict[str, Any]]:
    import torch

    optimizers = _optimizers(model, config)
    peaks = [[g["lr"] for g in o.param_groups] for o in optimizers]
    start, curve = _restore(run.checkpoints, model, optimizers)
    order = _order(len(blocks), config, seed)
    model.train()
    for step in range(start, config.steps):
        factor = _rate(step, config)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        batch = blocks[order[step]]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % 10 == 0 or done == config.steps:
            curve.append({"step": done, "loss": round(loss.item(), 6), "rate": round(factor, 6)})
            run.progress.update(done, config.steps, "pre-training", loss=loss.item())
        if done % config.checkpoint_steps == 0 and done < config.steps:
            _save(run.checkpoints, model, optimizers, done, curve)
    return curve


def _optimizers(model: Any, config: Pretraining) -> list[Any]:
    import torch

    from tasks.base_models.muon import Muon

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        Muon(matrices, lr=config.muon_learning_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(rest, lr=config.adamw_learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _order(blocks: int, config: Pretraining, seed: int) -> Any:
    """Shuffle `[steps, batch_size]` block indices by epochs, drawn up front so that a resumed run sees the same."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    needed = config.steps * config.batch_size
    epochs = [torch.randperm(blocks, generator=generator) for _ in range(math.ceil(needed / blocks))]
    return torch.cat(epochs)[:needed].view(config.steps, config.batch_size)


def _rate(step: int, config: Pretraining) -> float:
    """Compute warm-up, hold and linear decay, as a factor of the peak rate."""
    rise = (step + 1) / max(1.0, config.warmup_share * config.steps)
    fall = (config.steps - step) / max(1.0, config.decay_share * config.steps)
    return min(1.0, rise, fall)


def _save(folder: Path, model: Any, optimizers: list[Any], step: int, curve: list[dict[str, Any]]) -> None:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}
    temp = folder / "pretrain.tmp"
    torch.save({**state, "curve": curve}, temp)
    temp.rename(folder / "pretrain.ckpt")


def _restore(folder: Path, model: Any, optimizers: list[Any]) -> tuple[int, list[dict[str, Any]]]:
    """Read the step to start from and the curve so far. The checkpoint is our own, still read with `weights_only`."""
    import torch

    path = folder / "pretrain.ckpt"
    if not path.exists():
        return 0, []
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["curve"]
