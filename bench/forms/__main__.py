"""All forms of one model in one table: are they faithful, how large, how fast, how near to what the memory allows.

    python -m bench.forms artifacts/models/sft --onnx artifacts/onnx/sft --data artifacts/data \\
        --params params/smollm2/export_onnx.yaml --form gptq=artifacts/models/quant_gptq --gguf --out table.json

The forms: the folder in float32 (the reference) and bfloat16, other Hugging Face folders, every ONNX Runtime GenAI
folder, and GGUF files written here. Each is loaded in a process of its own. All stay loaded and take turns, so that
other work on the machine falls on all alike; figures are medians over the turns, ratios medians of the turns' ratios.
Prefill is the prompt and the first token, decoding what follows; no row stops early. `memory` is the share of the
memory's bandwidth that decoding at batch 1 takes: bytes of weights a token reads x tokens/s / bytes/s of a plain sum.

Exit status 1: a form is over its threshold. Those of the ONNX forms stand in `--params`, those of the others in
`forms/bounds.yaml` beside it. Chat template and tokenizer must be identical in all. llama.cpp answers no evaluation
task here, and one answering without its package is left out with the line that installs it.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.forms import children as child_processes
from bench.forms import gguf, llama, table
from bench.forms.children import Child, Form
from tasks.export.held_out import conversations
from tasks.export.settings import Thresholds
from tasks.export_onnx import Config
from tasks.stage.artifact import write_json
from tasks.stage.config import Strict, load

PARTS = ("faithfulness", "speed", "task")


class Bounds(Strict):
    """`params/<recipe>/forms/bounds.yaml`."""

    forms: dict[str, Thresholds]
    """Thresholds of the forms that `export_onnx` does not write, by their names in the table."""


def write_prompts(folder: Path, args: argparse.Namespace, config: Config) -> list[list[int]]:
    """Leave prompts and template for the children; return the prompts' token ids."""
    if config.parity.rows is None:
        raise SystemExit("export_onnx.yaml: parity.rows is null; name the file whose prompts every engine is given")
    rows = args.data / config.parity.rows
    count = args.prompts or config.parity.prompts
    new_tokens = args.new_tokens or config.parity.max_new_tokens
    from transformers import AutoConfig

    from tasks.export.reference import render_prompts
    from tasks.models.folder import load_tokenizer

    tokenizer = load_tokenizer(args.model)
    context = AutoConfig.from_pretrained(args.model).max_position_embeddings
    if args.prompt_tokens + args.speed_tokens > context:
        raise SystemExit(f"{args.model}: its context has {context} tokens; lower --prompt-tokens or --speed-tokens")
    fitting = [p for p in render_prompts(tokenizer, conversations(rows), {}) if len(p.ids) + new_tokens <= context]
    if len(fitting) < count:
        raise SystemExit(f"{rows}: {len(fitting)} prompts leave room for {new_tokens} tokens; lower --prompts")
    sample = random.Random(config.seed).sample(fitting, count)
    plain = [
        tokenizer.decode(tokenizer(p.messages[-1]["content"], add_special_tokens=False)["input_ids"]) for p in sample
    ]
    prompts = [
        {"messages": p.messages, "text": p.text, "ids": p.ids, "plain": text}
        for p, text in zip(sample, plain, strict=True)
    ]
    (folder / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    (folder / "template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
    return [p.ids for p in sample]


def say(what: str) -> None:
    """Say what is being done, on one line of the terminal."""
    line = f"\r\033[K{what}" if sys.stderr.isatty() else f"{what}\n"
    print(line, end="", file=sys.stderr, flush=True)


def score(form: Form, args: argparse.Namespace, out: Path, threads: int) -> dict[str, dict[str, dict[str, float]]]:
    """Score every row of the recipe's evaluation tasks."""
    words = [form.place, args.params.parent / "evaluate.yaml", args.data, out, form.dtype]
    subprocess.run(
        [sys.executable, "-m", "bench.forms.task", *map(str, words)],
        env=child_processes.environment(threads),
        check=True,
    )
    scores: dict[str, dict[str, dict[str, float]]] = json.loads(out.read_text(encoding="utf-8"))
    return scores


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="Hugging Face folder: the reference, in float32")
    parser.add_argument("--params", type=Path, required=True, help="the recipe's export_onnx.yaml")
    parser.add_argument("--data", type=Path, required=True, help="data artifact")
    parser.add_argument("--onnx", type=Path, help="folder with one ONNX Runtime GenAI folder a form")
    parser.add_argument(
        "--form", action="append", default=[], metavar="NAME=FOLDER", help="one more Hugging Face folder"
    )
    parser.add_argument("--base", type=Path, help="folder that MODEL's adapter/ was trained on: measure it unmerged")
    parser.add_argument(
        "--gguf",
        nargs="*",
        choices=gguf.KINDS,
        metavar="KIND",
        help="write GGUF files (F32, Q8_0, Q4_1, Q4_0; default: the last three)",
    )
    parser.add_argument("--skip", nargs="*", choices=PARTS, default=[], help="parts to leave out")
    parser.add_argument("--prompts", type=int, help="held-out prompts compared (default: the recipe's)")
    parser.add_argument("--new-tokens", type=int, help="longest answer to each (default: the recipe's)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16], help="rows at once (default: 1 8 16)")
    parser.add_argument(
        "--prompt-tokens", type=int, default=256, help="tokens of each prompt, for speed (default: 256)"
    )
    parser.add_argument("--speed-tokens", type=int, default=64, help="new tokens of each row, for speed (default: 64)")
    parser.add_argument("--turns", type=int, default=5, help="turns of every form, for speed (default: 5)")
    parser.add_argument("--threads", type=int, help="threads of every engine (default: the recipe's)")
    parser.add_argument("--out", type=Path, help="JSON file; a .md file of the same name is written beside it")
    return parser.parse_args()


def forms_of(args: argparse.Namespace, scratch: Path) -> tuple[list[Form], list[str]]:
    """List the rows of the table, and notes on what could not be had."""
    forms = [Form("pytorch", "transformers", args.model), Form("bf16", "transformers", args.model, "bfloat16")]
    if args.base is not None:
        forms.append(Form("unmerged", "transformers", args.base, adapter=args.model / "adapter"))
    for pair in args.form:
        name, equals, folder = pair.partition("=")
        if not equals or name in {form.name for form in forms}:
            raise SystemExit(f"--form {pair}: expected NAME=FOLDER, each name once")
        forms.append(Form(name, "transformers", Path(folder)))
    if args.onnx is not None:
        folders = sorted(p.parent for p in args.onnx.glob("*/genai_config.json"))
        if not folders:
            raise SystemExit(f"{args.onnx}: no folder with a genai_config.json in it")
        forms += [Form(f"onnx_{folder.name}", "onnx", folder) for folder in folders]
    notes = []
    if args.gguf is not None:
        missing = llama.missing()
        for kind in args.gguf or ["Q8_0", "Q4_1", "Q4_0"]:
            if missing:
                notes.append(f"gguf_{kind.lower()}: not measured; {missing}")
                continue
            say(f"write gguf_{kind.lower()}")
            gguf.write_gguf(args.model, path := scratch / f"{kind}.gguf", kind)
            forms.append(Form(f"gguf_{kind.lower()}", "llama", path))
    return forms, notes


def measure(
    forms: list[Form],
    rows: dict[str, dict[str, Any]],
    prompts: list[list[int]],
    args: argparse.Namespace,
    config: Config,
    scratch: Path,
) -> None:
    """Start all forms, let them take turns, then compare each with the first; all goes into the rows."""
    threads = args.threads or config.threads
    shape = {"prompt_tokens": args.prompt_tokens, "new_tokens": args.speed_tokens}
    one = child_processes.batch_of(prompts, 1, args.prompt_tokens)
    with ExitStack() as stack:
        children = {}
        for form in forms:
            say(f"load {form.name}")
            children[form.name] = child = Child(form, threads)
            stack.callback(child.close)
            child.ask("times", rows=one, new_tokens=args.speed_tokens)
            rows[form.name] |= child.ask("bytes")
        if "speed" not in args.skip:
            memory = Child(Form("memory", "memory", Path()), threads)
            stack.callback(memory.close)
            engines = {**children, "memory": memory}
            speeds = child_processes.take_turns(engines, prompts, say, turns=args.turns, batches=args.batches, **shape)
            for name, child in children.items():
                rows[name][f"peak_bytes_{max(args.batches)}"] = child.ask("bytes")["peak_bytes"]
            table.add_speeds(rows, speeds, {f"onnx_{name}": form.precision for name, form in config.forms.items()})
        if "faithfulness" not in args.skip:
            say("the reference answers")
            children[forms[0].name].ask(
                "reference", folder=str(scratch), new_tokens=args.new_tokens or config.parity.max_new_tokens
            )
            for name, child in children.items():
                say(f"compare {name}")
                rows[name] |= child.ask("compare", folder=str(scratch))


def main() -> None:
    """Measure, print, write, and compare with the thresholds."""
    args = arguments()
    os.environ["TQDM_DISABLE"] = "1"  # read once, when tqdm is first imported
    config = load(args.params, Config)
    others = load(args.params.parent / "forms" / "bounds.yaml", Bounds)
    bounds = {name: thresholds.model_dump() for name, thresholds in others.forms.items()}
    bounds |= {f"onnx_{name}": form.thresholds.model_dump() for name, form in config.forms.items()}
    with tempfile.TemporaryDirectory(prefix="forms-") as folder:
        scratch = Path(folder)
        prompts = write_prompts(scratch, args, config)
        forms, notes = forms_of(args, scratch)
        rows: dict[str, dict[str, Any]] = {form.name: {"bytes": form.size()} for form in forms}
        if not {"faithfulness", "speed"} <= set(args.skip):
            measure(forms, rows, prompts, args, config, scratch)
        if "task" not in args.skip:
            scores = {}
            for form in forms:
                if form.kind != "llama" and form.adapter is None:
                    say(f"task, {form.name}")
                    scores[form.name] = score(form, args, scratch / "scores.json", args.threads or config.threads)
            table.add_scores(rows, scores)
    unbound = [name for name in rows if name not in bounds and name != "pytorch"]
    notes += [f"measured without a threshold: {', '.join(unbound)}"] if unbound else []
    page = "\n".join([table.markdown(rows), "", *notes])
    print(page)
    over = table.over(rows, bounds) if "faithfulness" not in args.skip else None
    if args.out is not None:
        write_json(args.out, {"forms": rows, "thresholds": bounds, "notes": notes, "over": over})
        args.out.with_suffix(".md").write_text(page + "\n", encoding="utf-8")
    if over:
        raise SystemExit(over)


if __name__ == "__main__":
    main()
