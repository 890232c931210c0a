"""Decode speed of one model in PyTorch and in every exported form, side by side, in one run.

    python -m bench.decode artifacts/models/sft artifacts/onnx/sft --threads 2

The engines take turns within one process, so that other work on the machine falls on all of them; compare ratios, not
tokens per second of different runs. Batch 1, greedy, the prompt's own time left out, medians.
"""

import argparse
import os
from pathlib import Path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="Hugging Face folder")
    parser.add_argument("onnx", type=Path, help="folder with one ONNX Runtime GenAI folder a form")
    parser.add_argument("--threads", type=int, default=2, help="of every engine (default: 2)")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens per answer (default: 64)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of every engine (default: 5)")
    parser.add_argument("--prompt", default="What is 58 + 67?", help="what is asked")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before torch is imported

    from tasks import _parity
    from tasks._models import load_causal_lm, load_tokenizer

    folders = sorted(p.parent for p in args.onnx.glob("*/genai_config.json"))
    if not folders:
        parser.error(f"{args.onnx}: no folder with a genai_config.json in it")
    tokenizer = load_tokenizer(args.model)
    reference = _parity.Reference(load_causal_lm(args.model), tokenizer)
    exported = {folder.name: _parity.Exported(folder, args.threads) for folder in folders}
    [prompt] = _parity.prompts(tokenizer, [[{"role": "user", "content": args.prompt}]])
    speeds = _parity.decode_speeds(reference, exported, prompt.ids, new_tokens=args.new_tokens, repeats=args.repeats)
    print(f"{'engine':<12}{'tokens/s':>12}{'x PyTorch':>12}{'MB':>10}")
    for name, speed in speeds.items():
        size = f"{exported[name].bytes / 1e6:.1f}" if name in exported else ""
        print(f"{name:<12}{speed:>12.1f}{speed / speeds['pytorch']:>12.2f}{size:>10}")


if __name__ == "__main__":
    main()
