"""Quantisation: weights in 8 or 4 bits, stored so that transformers and vLLM load them as they are.

    rtn     each weight to the nearest of its group's levels; needs no data
    gptq    one column at a time, the rest making up for the error (Frantar et al., arXiv:2210.17323, eq. 2 and 3)
    awq     channels scaled up before rounding where inputs are large (Lin et al., arXiv:2306.00978, eq. 4 and 5)
    w8a8    8-bit weights by channel, and inputs rounded to 8 bits by token while the model runs

All are llm-compressor's modifiers, their fields verbatim in the recipe; the folder is in the compressed-tensors format,
with the embedding and the head in float32. One raw row, for calibration (training split only):

    {"id": "…", "messages": [{"role": "user", "content": "What is 58 + 67?"}, {"role": "assistant", "content": "…"}]}

`quantize.json` says what calibrated it (set, rows, SHA-256 of ids and texts), every field of the modifiers, how large
it is, and how near it is to its parent: the folder is loaded again and read along the parent's greedy answers to
held-out prompts (measures as in `tasks/export/parity.py`). `--method` names the entry of `methods:` that runs. Such a
model can be evaluated and served, but neither trained further nor exported to ONNX, which quantises for itself. On a
CPU transformers unpacks the weights: they are smaller on disk and no faster. What it leaves out: quantisation-aware
training, float8.
"""

import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tasks.compression import calibration as calibration_rows
from tasks.compression import held_out as held_out_rows
from tasks.compression import modifiers as llm_modifiers
from tasks.compression.calibration import Calibration
from tasks.compression.held_out import HeldOut
from tasks.export import parity
from tasks.models.chat_template import mark_generation
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.models.turn_ends import templated
from tasks.stage import artifact
from tasks.stage.config import StageConfig, Strict, check_trainer
from tasks.stage.lifecycle import Run, stage
from tasks.training import rows as training_rows

log = logging.getLogger("polm")
Kind = Literal["QuantizationModifier", "GPTQModifier", "AWQModifier", "SmoothQuantModifier"]


class Method(Strict):
    """One way to quantise."""

    modifiers: dict[Kind, dict[str, Any]] = Field(min_length=1)
    """llm-compressor's modifiers in the order in which they run, their fields verbatim."""


class Config(StageConfig):
    """`params/<recipe>/quantize.yaml`."""

    methods: dict[str, Method]
    """Name of the method to how it quantises."""
    calibration: Calibration
    """Rows that GPTQ, AWQ and SmoothQuant look at."""
    held_out: HeldOut
    """The comparison."""
    device: str
    """Where the comparison runs: `cpu`, `cuda`. llm-compressor takes an accelerator where there is one."""


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Quantise `model` by the method that runs; write the folder and `quantize.json`."""
    name = run.method
    chosen, section = config.methods[name].modifiers, f"methods.{name}.modifiers"
    held = config.held_out
    answers = training_rows.read(data, held.answers, "validation")[: held.answer_rows]
    asked = training_rows.read(data, held.prompts, "validation")[: held.prompt_rows]
    with run.timed("import"):
        for kind, values in chosen.items():
            check_trainer(
                run.params_file, values, llm_modifiers.fields(kind), llm_modifiers.RESERVED, f"{section}.{kind}"
            )
        modifiers = llm_modifiers.build(chosen, section, run.params_file)
    tokenizer = load_tokenizer(model)
    rows, record = None, None
    if any(modifier.requires_calibration_data for modifier in modifiers):
        rows, record = calibration_rows.draw(config.calibration, tokenizer, data, config.seed, run.params_file)
    policy = load_causal_lm(model)
    with run.timed("quantize"):
        llm_modifiers.oneshot(policy, tokenizer, modifiers, rows, section, run.params_file)
    llm_modifiers.save(policy, tokenizer, run.out)
    mark_generation(tokenizer, model)
    prompts = rendered(tokenizer, [row["prompt"] for row in asked], held.chat_template_args)
    whole, packed = (load_causal_lm(folder, quantized=True).to(config.device) for folder in (model, run.out))
    both = {"parent": whole, "quantized": packed}
    loss = {whose: held_out_rows.answer_loss(each, tokenizer, answers) for whose, each in both.items()}
    found = compare(whole, packed, tokenizer, prompts, held.max_new_tokens, run)
    sizes = {"parent": weight_bytes(model), "quantized": weight_bytes(run.out)}
    how = {"modifiers": llm_modifiers.described(modifiers), "calibration": record}
    artifact.write_json(run.out / "quantize.json", {**found, "loss": loss, "bytes": sizes, **how})
    log.info("%s: KL %.4g nats a token, argmax agreement %.4f, %.2f of %.2f MB", run.name, found["kl_per_token"],
             found["argmax_agreement"], sizes["quantized"] / 1e6, sizes["parent"] / 1e6)  # fmt: skip


def weight_bytes(folder: Path) -> int:
    """Size of a model folder's weights on disk, in bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def rendered(
    tokenizer: Any, conversations: list[list[dict[str, str]]], chat_template_args: dict[str, Any]
) -> list[list[int]]:
    """Token ids of conversations, each up to where the assistant begins to answer."""
    options = {"tokenize": False, "add_generation_prompt": True, **chat_template_args}
    texts = [templated(tokenizer, messages, **options) for messages in conversations]
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def compare(
    whole: Any, packed: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int, run: Run
) -> dict[str, Any]:
    """Hold a quantised model against its parent, along the parent's greedy answers.

    Args:
        whole: the parent, in float32.
        packed: the quantised model.
        tokenizer: of both.
        prompts: from `rendered`.
        max_new_tokens: longest answer.
        run: for the progress.

    Returns:
        `kl_per_token` (mean KL(parent || quantised), in nats), `argmax_agreement` and `greedy_agreement` (shares, as
        `_parity` defines them), and how many `prompts` and `tokens` they are over.
    """
    import numpy as np

    parent, ours = (parity.Reference(each, tokenizer) for each in (whole, packed))
    kl, agreed, same, positions = 0.0, 0, 0, 0
    for number, prompt in enumerate(prompts):
        run.progress.update(number, len(prompts), "comparing")
        answer = parent.generate(prompt, max_new_tokens=max_new_tokens)
        p, q = (each.log_probs(prompt, answer) for each in (parent, ours))
        kl += float((np.exp(p) * (p - q)).sum())
        agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
        positions += len(answer)
        free = ours.generate(prompt, max_new_tokens=len(answer))
        same += next((i for i, pair in enumerate(zip(answer, free, strict=False)) if pair[0] != pair[1]), len(free))
    return {
        "kl_per_token": round(kl / positions, 8),
        "argmax_agreement": round(agreed / positions, 6),
        "greedy_agreement": round(same / positions, 6),
        "prompts": len(prompts),
        "tokens": positions,
    }


if __name__ == "__main__":
    stage(main, Config)
