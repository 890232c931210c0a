"""Pre-training from scratch: a byte-level BPE tokenizer and a small decoder, for recipes that start from nothing.

Documents are tokenised, joined with an end-of-text token and cut into blocks; attention runs across documents, as is
usual in pre-training. A conversation is a row of its own (`tasks/base_models/blocks.py`). Muon (Jordan et al., 2024;
`tasks/base_models/muon.py`) updates the matrices inside the blocks, AdamW the embeddings and norms; both follow one
warm-up, hold and linear decay ("WSD", Hu et al., arXiv:2404.06395).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tasks.base_models import blocks
from tasks.base_models.blocks import Conversations
from tasks.base_models.tokenizer import TokenizerConfig, train_tokenizer
from tasks.stage import artifact
from tasks.stage.config import Strict
from tasks.stage.data_folder import set_folder
from tasks.stage.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tasks.stage.lifecycle import Run


class Pretraining(Strict):
    """Model shape and schedule."""

    tokenizer: TokenizerConfig
    model: dict[str, Any]
    """Passed verbatim to the configuration class of transformers whose `model_type` it names, e.g. `lfm2`; `llama`
    where it names none."""
    conversations: Conversations | None = Field(default=None, exclude_if=lambda conversations: conversations is None)
    """Conversations to learn from in place of `data/pretrain`; may be missing: its texts are learnt."""
    block_size: int
    """Tokens in one training sequence; most tokens of a conversation."""
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


def pretrain(config: Pretraining, seed: int, data: Path, run: "Run") -> tuple[Any, Any, dict[str, float]]:
    """Train tokenizer and model on `data/pretrain`, or on conversations, resuming from a checkpoint of the same inputs.

    Of the texts, the tokenizer sees the fine-tuning conversations too, so that their words are tokens of it.

    Returns:
        Model, tokenizer, and final figures (`loss` in nats per token, `tokens`, `parameters`).

    Raises:
        DataError: the data hold fewer tokens than one step needs.
    """
    import torch

    if config.conversations is None:
        texts = [row["text"] for row in artifact.read_jsonl(data / "pretrain" / "train.jsonl")]
        turns = [m["content"] for row in artifact.read_jsonl(data / "sft" / "train.jsonl") for m in row["messages"]]
        tokenizer = train_tokenizer(texts + turns, config.tokenizer)
        ids = labels = blocks.of_texts(tokenizer, texts, config.block_size)
    else:
        rows = artifact.read_jsonl(data / set_folder(config.conversations.dataset) / "train.jsonl")
        texts = ["\n".join(turn["content"] for turn in row["messages"]) for row in rows]
        tokenizer = train_tokenizer(texts, config.tokenizer)
        ids, labels = blocks.of_conversations(tokenizer, [row["messages"] for row in rows], config.block_size)
    if len(ids) < config.batch_size:
        raise DataError(
            f"{data}: {len(ids)} blocks of {config.block_size} tokens, one step takes "
            f"{config.batch_size}; add rows or lower batch_size"
        )
    torch.manual_seed(seed)
    model = _model(tokenizer, config.model)
    curve = _train(model, ids, labels, config, seed, run)
    artifact.write_jsonl(run.out / "curves.jsonl", curve)
    order = blocks.order(len(ids), config.steps, config.batch_size, config.conversations, seed)
    tokens = sum(int((ids[rows] != tokenizer.pad_token_id).sum()) for rows in order)
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


def _train(model: Any, ids: Any, labels: Any, config: Pretraining, seed: int, run: "Run") -> list[dict[str, Any]]:
    import torch

    optimizers = _optimizers(model, config)
    peaks = [[g["lr"] for g in o.param_groups] for o in optimizers]
    start, curve = _restore(run.checkpoints, model, optimizers)
    order = blocks.order(len(ids), config.steps, config.batch_size, config.conversations, seed)
    model.train()
    for step in range(start, config.steps):
        factor = _rate(step, config)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        batch = blocks.batch(ids, labels, order[step], model.config.pad_token_id)
        loss = model(**batch).loss
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
