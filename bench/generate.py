"""Tokens per second of `tasks/sampling/generate.py` against `model.generate` of transformers, side by side in one run.

    python -m bench.generate
    python -m bench.generate --large MODEL --large-data DATA    # also a model of another recipe; minutes a turn

The sides take turns in one process with one thread, from the same seeds; what is timed is CPU time, so that other work
on the machine counts for neither. Tokens are those of the answers, up to and with the one that ends each; what
`generate` writes behind it is its loss. The table shows medians, and the median of the ratios of the turns.

- ppo: 64 prompts, an answer each, up to 40 tokens, the tiny recipe's fine-tuned model (0.9 M parameters);
- grpo: 32 prompts, 8 answers each, up to 56 tokens, the tiny recipe's chain-of-thought model;
- large: 8 prompts, 4 answers each, up to 96 tokens, a model of your choice, e.g. SmolLM2-135M.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any


def sides(folder: Path, questions: list[Any], copies: int, length: int) -> dict[str, Callable[[], int]]:
    """Make the two functions that draw the answers and return how many tokens they have."""
    import torch
    from transformers import GenerationConfig

    from tasks.models.folder import load_causal_lm, load_tokenizer
    from tasks.sampling import generate

    model, tokenizer = load_causal_lm(folder).eval(), load_tokenizer(folder)
    encoded = tokenizer.apply_chat_template(questions, add_generation_prompt=True)["input_ids"]
    prompts = [ids for ids in encoded for _ in range(copies)]
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    config = GenerationConfig(
        max_new_tokens=length,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        disable_compile=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    how = generate.plan(model, config)
    if how is None:
        raise SystemExit(f"{folder}: no model that tasks/sampling/generate.py draws from")

    def transformers() -> int:
        with torch.no_grad():
            new = model.generate(**batch, generation_config=config)[:, batch["input_ids"].size(1) :]
        ended = new == tokenizer.eos_token_id
        return int((ended.cumsum(1) - ended.long() == 0).sum())

    def ours() -> int:
        return sum(map(len, generate.draw(model, prompts, how).ids))

    return {"transformers": transformers, "ours": ours}


def measure(draws: dict[str, Callable[[], int]], turns: int) -> dict[str, list[float]]:
    """Measure tokens per second of CPU time, a figure a turn; the first turn of each is not counted."""
    import torch

    speeds: dict[str, list[float]] = {name: [] for name in draws}
    for turn in range(turns + 1):
        for name, draw in draws.items():
            torch.manual_seed(turn)
            start = time.process_time()
            tokens = draw()
            if turn:
                speeds[name].append(tokens / (time.process_time() - start))
    return speeds


def read(path: Path, count: int) -> list[Any]:
    """Read the first prompts of a set."""
    with (path / "train.jsonl").open() as lines:
        return [json.loads(line)["prompt"] for line, _ in zip(lines, range(count), strict=False)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("artifacts/models"), help="holds sft and cot of tiny")
    parser.add_argument("--data", type=Path, default=Path("artifacts/data"), help="data of the tiny recipe")
    parser.add_argument("--large", type=Path, help="one more model folder")
    parser.add_argument("--large-data", type=Path, help="data artifact with its prompts")
    parser.add_argument("--turns", type=int, default=7, help="turns of each side (default: 7)")
    args = parser.parse_args()
    if (args.large is None) != (args.large_data is None):
        parser.error("--large needs --large-data, and the other way round")
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    shapes = [
        ("ppo, 64 × 1 × 40", args.models / "sft", read(args.data / "prompts", 64), 1, 40),
        ("grpo, 32 × 8 × 56", args.models / "cot", read(args.data / "prompts-long", 32), 8, 56),
    ]
    if args.large is not None:
        shapes.append(("large, 8 × 4 × 96", args.large, read(args.large_data / "prompts", 8), 4, 96))
    print(f"{'tokens/s':<20}{'transformers':>14}{'ours':>10}{'ratio':>8}")
    for name, folder, questions, copies, length in shapes:
        speeds = measure(sides(folder, questions, copies, length), args.turns)
        theirs, ours = speeds["transformers"], speeds["ours"]
        ratio = median(b / a for a, b in zip(theirs, ours, strict=True))
        print(f"{name:<20}{median(theirs):>14.0f}{median(ours):>10.0f}{ratio:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
