"""Settings of a base model that is trained from scratch in seconds."""

from pathlib import Path
from typing import Any

from tasks import base
from tasks.stage.config import parse

SCRATCH = {
    "tokenizer": {"vocab_size": 300, "split_digits": True},
    "model": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
    "block_size": 32,
    "batch_size": 8,
    "steps": 30,
    "muon_learning_rate": 0.02,
    "adamw_learning_rate": 3e-3,
    "weight_decay": 0.01,
    "warmup_share": 0.1,
    "decay_share": 0.4,
    "checkpoint_steps": 10,
}


def configured(source: dict[str, Any]) -> base.Config:
    values = {"seed": 1, "threads": 2, "dtype": "float32", "source": source}
    return parse(Path("params/test/base.yaml"), values, base.Config)
