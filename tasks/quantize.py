"""Quantisation: weights in 8 or 4 bits, stored so that transformers and vLLM load them as they are.

    rtn     each weight to the nearest of its group's levels; needs no data
    gptq    one column at a time, the rest making up for the error (Frantar et al., arXiv:2210.17323, eq. 2 and 3)
    awq     channels scaled up before rounding where inputs are large (Lin et al., arXiv:2306.00978, eq. 4 and 5)
    w8a8    8-bit weights by channel, and inputs rounded to 8 bits by token while the model runs

All are llm-compressor's modifiers, their fields verbatim in the recipe; the folder is in the compressed-tensors format,
with the embedding and the head in float32. One raw row, for calibration (training split only):

    {"id": "…", "messages": [{"role": "user", "content": "What is 58 + 67?"}, {"role": "assistant", "content": "…"}]}

`quantize.json` records the calibration rows (set, number, SHA-256 of ids and texts), every field of the modifiers, the
size, and the distance from the parent: the folder is loaded again and read along the parent's greedy answers to
held-out prompts (measures as in `tasks/export/divergence.py`). `--method` names the entry of `methods:` that runs. Such
a model can be evaluated and served, but neither trained further nor exported to ONNX, which quantises for itself. On a
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
from tasks.export.divergence import Divergence
from tasks.export.reference import Prompt, Reference, render_prompts
from tasks.models.chat_template import mark_generation
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.stage.config import StageConfig, Strict, check_trainer
from tasks.stage.lifecycle import Run, stage

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
    """Calibration rows of GPTQ, AWQ and SmoothQuant."""
    held_out: HeldOut
    """Rows that the quantised model is compared with its parent on."""
    device: str
    """Device of the comparison: `cpu`, `cuda`. llm-compressor takes an accelerator where there is one."""


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Quantise `model` by the method that runs; write the folder and `quantize.json`."""
    name = run.method
    section = f"methods.{name}.modifiers"
    held_out = config.held_out
    answers, questions, taken = held_out_rows.read(held_out, data)
    with run.timed("import"):
        modifiers = _modifiers(config.methods[name], section, run.params_file)
    tokenizer = load_tokenizer(model)
    rows, record = None, None
    if any(modifier.requires_calibration_data for modifier in modifiers):
        rows, record = calibration_rows.draw(config.calibration, tokenizer, data, config.seed, run.params_file)
    policy = load_causal_lm(model)
    with run.timed("quantize"):
        llm_modifiers.oneshot(policy, tokenizer, modifiers, rows, section, run.params_file)
    llm_modifiers.save(policy, tokenizer, run.out)
    mark_generation(tokenizer, model)
    prompts = render_prompts(tokenizer, [row["prompt"] for row in questions], held_out.chat_template_args)
    parent = load_causal_lm(model, quantized=True).to(config.device)
    quantized = load_causal_lm(run.out, quantized=True).to(config.device)
    loss = {
        "parent": held_out_rows.loss_per_token(parent, tokenizer, answers),
        "quantized": held_out_rows.loss_per_token(quantized, tokenizer, answers),
    }
    measures = compare(parent, quantized, tokenizer, prompts, held_out.max_new_tokens, run)
    sizes = {"parent": weight_bytes(model), "quantized": weight_bytes(run.out)}
    report = {
        **measures,
        "loss": loss,
        "bytes": sizes,
        "modifiers": llm_modifiers.dump(modifiers),
        "calibration": record,
        "held_out": taken,
    }
    artifact.write_json(run.out / "quantize.json", report)
    log.info(
        "%s: KL %.4g nats a token, argmax agreement %.4f, %.2f of %.2f MB",
        run.name,
        measures["kl_per_token"],
        measures["argmax_agreement"],
        sizes["quantized"] / 1e6,
        sizes["parent"] / 1e6,
    )


def _modifiers(method: Method, section: str, params_file: Path) -> list[Any]:
    """Build llm-compressor's modifiers. Raises ConfigError for a field that one of them does not know or refuses."""
    for kind, values in method.modifiers.items():
        check_trainer(params_file, values, llm_modifiers.fields(kind), llm_modifiers.RESERVED, f"{section}.{kind}")
    return llm_modifiers.build(method.modifiers, section, params_file)


def weight_bytes(folder: Path) -> int:
    """Return the size of a model folder's weights on disk, in bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def compare(
    parent: Any, quantized: Any, tokenizer: Any, prompts: list[Prompt], max_new_tokens: int, run: Run
) -> dict[str, Any]:
    """Compare a quantised model with its parent, along the parent's greedy answers.

    Args:
        parent: the whole model, in float32.
        quantized: the quantised model.
        tokenizer: of both.
        prompts: from `render_prompts`.
        max_new_tokens: longest answer.
        run: for the progress.

    Returns:
        `kl_per_token` (mean KL(parent || quantised), in nats), `argmax_agreement` and `greedy_agreement` (shares, as
        `tasks/export/divergence.py` defines them), and how many `prompts` and `tokens` they are over.
    """
    reference = Reference(parent, tokenizer)
    packed = Reference(quantized, tokenizer)
    divergence = Divergence()
    for number, prompt in enumerate(prompts):
        run.progress.update(number, len(prompts), "comparing")
        answer = reference.generate(prompt.ids, max_new_tokens=max_new_tokens)
        p = reference.log_probs(prompt.ids, answer)
        q = packed.log_probs(prompt.ids, answer)
        divergence.add(p, q, answer, packed.generate(prompt.ids, max_new_tokens=len(answer)))
    measures = divergence.measures()
    return {
        "kl_per_token": round(measures.kl_per_token, 8),
        "argmax_agreement": round(measures.argmax_agreement, 6),
        "greedy_agreement": round(measures.greedy_agreement, 6),
        "prompts": len(prompts),
        "tokens": measures.tokens,
    }


if __name__ == "__main__":
    stage(main, Config)
