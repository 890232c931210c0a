"""Stand-ins for what the recipe `qwen3` fetches from the hub: its base model and its data sets of text.

The model has the layout of Qwen3-0.6B and random weights, with a tokenizer that is trained on the rows; the data sets
have the columns of the published ones, filled from the docstrings of Python's standard library and with sums in words.
A folder at the path of a hub id (`Qwen/Qwen3-0.6B`) is read in its place.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.generators.stdlib_docs import functions

MODEL = Path("Qwen/Qwen3-0.6B")
CHAT, FEEDBACK, SUMS = (
    Path(name) for name in ("HuggingFaceH4/ultrachat_200k", "HuggingFaceH4/ultrafeedback_binarized", "openai/gsm8k")
)
MODULES = (
    "argparse", "asyncio", "builtins", "collections", "configparser", "csv", "datetime", "decimal", "difflib",
    "email.message", "fractions", "functools", "heapq", "http.client", "inspect", "ipaddress", "itertools", "json",
    "logging", "mailbox", "math", "os", "pathlib", "random", "shutil", "sqlite3", "statistics", "subprocess", "tarfile",
    "tempfile", "textwrap", "threading", "typing", "unittest", "urllib.request", "uuid", "zipfile",
)  # fmt: skip
"""Modules of the standard library whose docstrings are the text."""
SHAPES: dict[str, dict[str, int]] = {
    "0.6B": {
        "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40_960,
    },
    "small": {
        "vocab_size": 2_048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4_096,
    },
}  # fmt: skip
"""Size to the keys of Qwen3's configuration; the first is the published one's (arXiv:2505.09388, table 1)."""
THINGS = ("apples", "books", "coins", "eggs", "lamps", "pens", "shells", "stamps")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def turns(asked: str, reply: str) -> list[dict[str, str]]:
    """Return a conversation of one question and its reply, as `messages`."""
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]


def chats(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield questions about the standard library with their right and their wrong reply, at most `count`."""
    rows = list(functions(list(MODULES), seed=seed, shortest=20, longest=240))
    random.Random(seed).shuffle(rows)
    yield from rows[:count]


def sums(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield `count` sums in words, in GSM8K's columns and with its marks; no two are alike."""
    rng = random.Random(seed)
    for number in range(count):
        things, a, b = rng.choice(THINGS), 2 + number, rng.randint(2, 99)
        asked = (
            f"On day {number} there are {a} {things} in box {seed}. Then {b} {things} more come. How many are there?"
        )
        worked = f"There were {a} {things} and {b} came, which is {a}+{b}=<<{a}+{b}={a + b}>>{a + b}.\n#### {a + b}"
        yield {"question": asked, "answer": worked}


def publish(folder: Path, split: str, rows: Sequence[dict[str, Any]], config: str | None = None) -> None:
    """Write a split of a data set in a hub repository's layout: Parquet, and a README that names configs and splits.

    Args:
        folder: of the data set, `org/name`; its other splits stay.
        split: name of the split.
        rows: mappings of column to value.
        config: name of the configuration; None for the only one.
    """
    import pyarrow
    from pyarrow import parquet

    data = folder / (config or "data")
    data.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), data / f"{split}-00000-of-00001.parquet")
    splits = sorted(path.name.partition("-")[0] for path in data.glob("*.parquet"))
    files = [{"split": name, "path": f"{data.name}/{name}-*"} for name in splits]
    header = json.dumps({"configs": [{"config_name": config or "default", "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{header}\n---\n", encoding="utf-8")


def data_sets(root: Path, rows: int, tested: int, seed: int = 0) -> list[str]:
    """Write the data sets of text that `params/qwen3/data.yaml` names.

    Args:
        root: folder that the recipe runs in.
        rows: of each training split, at most.
        tested: rows of GSM8K's test split.
        seed: of what is drawn.

    Returns:
        All their texts, for a tokenizer to be trained on.
    """
    asked = list(chats(rows, seed))
    chat = [
        {"prompt": row["question"], "prompt_id": str(n), "messages": turns(row["question"], row["answer"])}
        for n, row in enumerate(asked)
    ]
    feedback = [
        {
            "prompt": row["question"], "prompt_id": str(n), "chosen": turns(row["question"], row["answer"]),
            "rejected": turns(row["question"], row["wrong"]), "score_chosen": 9.0, "score_rejected": 2.0,
        }
        for n, row in enumerate(asked)
    ]  # fmt: skip
    trained, held_out = list(sums(rows, seed)), list(sums(tested, seed + 1))
    publish(root / CHAT, "train_sft", chat)
    publish(root / FEEDBACK, "train_prefs", feedback)
    publish(root / SUMS, "train", trained, "main")
    publish(root / SUMS, "test", held_out, "main")
    return [text for row in (*asked, *trained) for text in (row["question"], row["answer"])]


def base_model(root: Path, size: str, texts: Sequence[str], seed: int = 0) -> int:
    """Write a Qwen3 model with random weights in bfloat16, its tokenizer, chat template and generation settings.

    Args:
        root: folder that the recipe runs in; the model lies at its hub id.
        size: of `SHAPES`.
        texts: which the tokenizer is trained on.
        seed: of the weights.

    Returns:
        Its number of parameters.
    """
    import torch
    import trl
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    shape = SHAPES[size]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(shape["vocab_size"], 16_384), special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    trained.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    template = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    end, pad = (tokenizer.convert_tokens_to_ids(token) for token in (SPECIAL[2], SPECIAL[0]))
    torch.manual_seed(seed)
    config = Qwen3Config(**shape, tie_word_embeddings=True, eos_token_id=end, pad_token_id=pad, dtype="bfloat16")
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.95, top_k=20, eos_token_id=[end, pad], pad_token_id=pad
    )
    model.save_pretrained(root / MODEL)
    tokenizer.save_pretrained(root / MODEL)
    return int(model.num_parameters())
