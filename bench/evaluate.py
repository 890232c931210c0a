"""Evaluation on ONNX Runtime against PyTorch, side by side: seconds, and whether the scores differ.

    python -m bench.evaluate artifacts/models/sft artifacts/onnx/sft artifacts/data params/smollm2/evaluate.yaml

Every engine answers the same rows of the recipe's tasks, with the recipe's batch size and threads (32 rows at most on
ONNX Runtime); loading is left out. A score's difference from PyTorch's has a paired 95 % interval.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="Hugging Face folder")
    parser.add_argument("onnx", type=Path, help="folder with one ONNX Runtime GenAI folder a form")
    parser.add_argument("data", type=Path, help="data artifact")
    parser.add_argument("params", type=Path, help="the recipe's evaluate.yaml")
    args = parser.parse_args()

    from tasks.evaluate import Config
    from tasks.evaluation.task_files import load_task, read_rows
    from tasks.stage.config import load

    config = load(args.params, Config)
    os.environ["OMP_NUM_THREADS"] = str(config.threads)  # before torch is imported
    os.environ["TQDM_DISABLE"] = "1"
    from tasks.evaluation import harness
    from tasks.evaluation.onnx_model import OnnxLM
    from tasks.grading.bootstrap import paired_difference
    from tasks.stage.progress import Progress

    forms = sorted(p.parent for p in args.onnx.glob("*/genai_config.json"))
    if not forms:
        parser.error(f"{args.onnx}: no folder with a genai_config.json in it")
    tasks: list[Any] = []
    for choice in config.own:
        path = args.params.parent / choice.file
        tasks.append((path, task := load_task(path), read_rows(path, task, choice, args.data)))
    quiet = Progress(None)
    engines: dict[str, Any] = {
        "pytorch": harness.load(
            args.model,
            config.device,
            config.dtype,
            config.batch_size,
            config.chat_template_args,
            config.too_long,
            quiet,
        )
    }
    for form in forms:
        engines[form.name] = OnnxLM(
            form, config.threads, config.batch_size, config.chat_template_args, config.too_long, quiet
        )
    print(f"{'engine':<10}{'task':<16}{'seconds':>9}{'x PyTorch':>11}  metric and difference from PyTorch")
    for path, settings, questions in tasks:
        for name, lm in engines.items():
            task = harness.build_task(path, settings, questions)
            start = time.perf_counter()
            rows = harness.ask(lm, [task], config.seed)[task.task_name]
            seconds = time.perf_counter() - start
            if name == "pytorch":
                base, theirs = seconds, rows
            scores = []
            for metric in rows[0]["scores"]:
                scored, reference = ({row["id"]: row["scores"][metric] for row in side} for side in (rows, theirs))
                d = paired_difference(scored, reference, resamples=4000, confidence=0.95, seed=0)
                value = sum(scored.values()) / len(rows)
                scores.append(f"{metric} {value:.3f} ({d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}])")
            print(
                f"{name:<10}{task.task_name:<16}{seconds:>9.1f}{base / seconds:>11.2f}  {', '.join(scores)}", flush=True
            )


if __name__ == "__main__":
    main()
