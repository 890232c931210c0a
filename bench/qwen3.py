"""The stages of text of the recipe `qwen3`, from its data to its exports, with stand-ins for what the hub has.

    python -m bench.qwen3                              # a GPU: 0.6 B parameters, bf16, the recipe's own settings
    python -m bench.qwen3 --vllm --steps 20            # GRPO draws its answers by vLLM
    python -m bench.qwen3 --size small --cpu           # a CPU: every stage for a few steps of a small model

Works in a copy of the working tree. The model has the layout of Qwen3-0.6B, random weights and a tokenizer trained
here, so no figure says how good a method is: the run shows that each stage of the recipe works on this machine, how
long it takes and how much memory. Of the recipe's files, the steps of each training are changed, the bounds of the
exports, and what GRPO pays for, since no random answer is right; with `--cpu` also the device, the launcher and the
sizes. Exits 1 when a stage fails, and prints the run's table.
"""

import argparse
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench import stand_ins, working_copy

RECIPE = "qwen3"
TARGETS = ("evaluate", "export_onnx", "evaluate_onnx")
"""Methods whose stages, with all that they need, are the recipe's text."""
TRAININGS = ("sft", "cot", "dpo", "grpo")
FEW = {
    "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "gradient_accumulation_steps": 1,
    "warmup_steps": 0, "use_cpu": True, "gradient_checkpointing": False, "logging_steps": 1,
}  # fmt: skip
"""Keys of `trainer:` that a CPU takes; `bf16` stays as the recipe says."""


def shorten(params: Path, steps: int, cpu: bool, vllm: bool, tested: int) -> None:
    """Change the files of a recipe so that it runs with the stand-ins; everything that is not named here stays.

    Args:
        params: folder of the recipe.
        steps: optimizer steps of each training.
        cpu: True to run on a CPU in one process, with small batches and short answers.
        vllm: True to draw GRPO's answers by vLLM in the training process.
        tested: questions of each evaluation.
    """
    for name in TRAININGS:
        trainer: dict[str, Any] = {"max_steps": steps, "save_steps": max(1, steps // 2)}
        if cpu:
            trainer |= FEW
        if name == "grpo":
            trainer |= _answers(params, cpu, vllm)
        elif cpu:
            trainer["max_length"] = 256  # tokens: bf16 on a CPU computes a step of 2,048 in seconds
        edit(params / f"{name}.yaml", {"trainer": trainer} | ({"launch": None, "threads": 1} if cpu else {}))
    tasks = [{"limit": tested}, {"limit": tested}]
    edit(params / "evaluate.yaml", {"tasks": tasks} | ({"device": "cpu", "threads": 1} if cpu else {}))
    bounds = dict.fromkeys(("max_logprob_difference", "kl_per_token", "argmax_agreement", "greedy_agreement"))
    forms = {form: {"thresholds": bounds} for form in ("fp32", "int8", "int4")}
    parity = {"prompts": min(100, tested), "max_new_tokens": 8}
    edit(params / "export_onnx.yaml", {"forms": forms, "parity": parity})  # random weights: no two tokens apart
    if cpu:
        edit(params / "base.yaml", {"threads": 1})
        edit(params / "data.yaml", {"threads": 1})


def _answers(params: Path, cpu: bool, vllm: bool) -> dict[str, Any]:
    """Let GRPO learn from random answers: none is right and none ends, so they are paid by their length."""
    length = 8 if cpu else 512
    paid = {"max_characters": 8 * length, "buffer_characters": 8 * length}
    edit(params / "grpo.yaml", {"graders": {"brief": {"options": paid}}})
    few = {"num_generations": 4} if cpu else {}
    return {"use_vllm": vllm, "max_completion_length": length, "mask_truncated_completions": False} | few


def edit(path: Path, changes: dict[str, Any]) -> None:
    """Write changes into a YAML file, into its mappings and lists of mappings too; comments stay."""
    yaml = YAML()
    yaml.width = 4096
    values = yaml.load(path)
    _merge(values, changes)
    with path.open("w", encoding="utf-8") as f:
        yaml.dump(values, f)


def _merge(values: Any, changes: Any) -> None:
    pairs = changes.items() if isinstance(changes, dict) else enumerate(changes)
    for key, value in pairs:
        if isinstance(value, dict | list) and isinstance(values, list | dict) and _has(values, key):
            _merge(values[key], value)
        else:
            values[key] = value


def _has(values: Any, key: Any) -> bool:
    return key in values if isinstance(values, dict) else key < len(values)


def main() -> None:
    """Write the stand-ins, run the stages, print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=stand_ins.SHAPES, default="0.6B", help="of the model (default: 0.6B)")
    parser.add_argument("--rows", type=int, default=1500, help="of each data set, at most (default: 1500)")
    parser.add_argument("--steps", type=int, default=20, help="of each training (default: 20)")
    parser.add_argument("--questions", type=int, default=64, help="of each evaluation (default: 64)")
    parser.add_argument("--cpu", action="store_true", help="in one process on a CPU, with small batches")
    parser.add_argument("--vllm", action="store_true", help="draw GRPO's answers by vLLM")
    parser.add_argument("--target", action="append", help="as of `polm run`; may be repeated (default: all of text)")
    parser.add_argument("--work", type=Path, help="folder for the copy, which stays; without it, one that is removed")
    args = parser.parse_args()
    with nullcontext(args.work) if args.work else tempfile.TemporaryDirectory() as temp:
        work = Path(temp).resolve() / "polm"
        working_copy.make(work)
        texts = stand_ins.data_sets(work, args.rows, max(args.questions, 8))
        parameters = stand_ins.base_model(work, args.size, texts)
        print(f"{stand_ins.MODEL}: {parameters:,} parameters, random; {len(texts) // 2:,} rows of text", flush=True)
        shorten(work / "params" / RECIPE, args.steps, args.cpu, args.vllm, args.questions)
        targets = [word for target in args.target or TARGETS for word in ("--target", target)]
        done, said = working_copy.run(work, ["run", "--recipe", RECIPE, *targets])
        print(said)
        losses(work)
        print(f"`{done.words}`: {done.seconds:.0f} s, {done.cpu:.0f} s of CPU")


def losses(work: Path) -> None:
    """Print the first and the last logged loss of each training: a loss that is no number is seen here."""
    for name in TRAININGS:
        path = work / "artifacts/models" / name / "curves.jsonl"
        if path.is_file():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            logged = [row["loss"] for row in rows if "loss" in row]
            print(f"{name}: loss {logged[0]:.4g} -> {logged[-1]:.4g} over {rows[-1].get('step', len(rows))} steps")


if __name__ == "__main__":
    main()
