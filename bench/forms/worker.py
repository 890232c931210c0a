"""The process of one form of a model: it loads it, then answers `python -m bench.forms`, a JSON line each way.

    python -m bench.forms.worker KIND PLACE THREADS DTYPE [ADAPTER]     # KIND: transformers, onnx, llama, memory

    {"do": "reference", "folder": …, "new_tokens": 64}   answer folder/prompts.json, keep the logits there
    {"do": "compare", "folder": …}                       the measures against what `reference` left there
    {"do": "times", "rows": [[…], …], "new_tokens": 64}  the clock of one turn
    {"do": "bytes"}                                      peak memory so far, and the weights that one token reads

One process a form: so its peak memory is its own, and the forms take turns while all of them stay loaded.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.forms.children import READ_BYTES
from bench.forms.engines import Engine, OnnxRuntime, Transformers, onnx_weight_bytes
from bench.forms.llama import LlamaCpp
from tasks.export.divergence import Divergence, log_softmax


def load(kind: str, place: Path, threads: int, *options: str) -> Engine:
    """Load the engine of a form."""
    if kind == "transformers":
        return Transformers(place, threads, options[0], *map(Path, options[1:]))
    return OnnxRuntime(place, threads) if kind == "onnx" else LlamaCpp(place, threads)


def reference(engine: Engine, folder: Path, new_tokens: int) -> dict[str, Any]:
    """Answer the prompts; write `answers.json` and the logits along each answer, float32 `[answer, vocabulary]`."""
    answers = []
    for number, prompt in enumerate(json.loads((folder / "prompts.json").read_text(encoding="utf-8"))):
        answers.append(answer := engine.answer(prompt["ids"], new_tokens))
        logits = engine.logits([*prompt["ids"], *answer])[len(prompt["ids"]) - 1 : -1]
        np.save(folder / f"{number}.npy", logits, allow_pickle=False)
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    return {"tokens": sum(map(len, answers))}


def compare(engine: Engine, folder: Path) -> dict[str, Any]:
    """Measure the form along the answers of `reference`, as `tasks/export/divergence.py` defines it, and its text."""
    prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    template = engine.template == (folder / "template.jinja").read_text(encoding="utf-8")
    tokens = True
    divergence = Divergence()
    max_logit_difference = 0.0
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids = prompt["ids"]
        template &= engine.text(prompt["messages"]) in (prompt["text"], None)
        tokens &= engine.encode(prompt["text"]) == ids
        tokens &= engine.decode(engine.encode(prompt["plain"])) == prompt["plain"]
        theirs = np.load(folder / f"{number}.npy", allow_pickle=False)
        ours = engine.logits([*ids, *answer])[len(ids) - 1 : -1]
        max_logit_difference = max(max_logit_difference, float(np.abs(theirs - ours).max()))
        divergence.add(log_softmax(theirs), log_softmax(ours), answer, engine.answer(ids, len(answer)))
    measures = divergence.measures()
    return {
        "chat_template_identical": template,
        "tokenizer_identical": tokens,
        "max_logit_difference": float(f"{max_logit_difference:.3g}"),
        "max_logprob_difference": float(f"{measures.max_logprob_difference:.3g}"),
        "kl_per_token": float(f"{round(measures.kl_per_token, 9):.3g}"),
        "argmax_agreement": round(measures.argmax_agreement, 6),
        "greedy_agreement": round(measures.greedy_agreement, 6),
        "tokens": measures.tokens,
    }


class Memory:
    """A buffer larger than any cache, to be read; no model."""

    def __init__(self, threads: int) -> None:
        """Args: threads: threads that read."""
        import torch

        torch.set_num_threads(threads)
        self._buffer = torch.ones(READ_BYTES // 4)

    def times(self, _rows: Any, _new_tokens: int) -> list[float]:
        """Read the clock before and after a sum over all of it; the second twice, as if a token came."""
        start = time.perf_counter()
        self._buffer.sum()
        end = time.perf_counter()
        return [start, end, end + 1]


def peak_bytes() -> int:
    """Read the most memory this process has held, files mapped into it included.

    `getrusage` would also count what the parent held when it started this process.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def weight_bytes(engine: Engine, place: Path) -> int:
    """Count the bytes of weights that decoding one token reads."""
    if isinstance(engine, Transformers):
        return engine.weight_bytes()
    if isinstance(engine, OnnxRuntime):
        return onnx_weight_bytes(place)
    from bench.forms import gguf

    return gguf.weight_bytes(place)


def main() -> None:
    """Load, say so, and answer until the input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not belong among the replies
    kind, place, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    engine: Any = Memory(threads) if kind == "memory" else load(kind, place, threads, *sys.argv[4:])
    print(json.dumps({"loaded": kind}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "reference":
            reply = reference(engine, Path(request["folder"]), request["new_tokens"])
        elif request["do"] == "compare":
            reply = compare(engine, Path(request["folder"]))
        elif request["do"] == "bytes":  # the peak first: counting the weights takes memory of its own
            reply = {"peak_bytes": peak_bytes()}
            reply["weight_bytes"] = weight_bytes(engine, place)
        else:
            reply = {"times": engine.times(np.asarray(request["rows"]), request["new_tokens"])}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
