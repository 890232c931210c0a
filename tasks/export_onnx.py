"""Export: the trained model as ONNX Runtime GenAI folders, proven to answer like the PyTorch model it was made from.

One folder a form (fp32, int8, int4), built by `onnxruntime_genai.models.builder` for the CPU: float32 weights as they
are, or the weights of the matrix products rounded in small blocks to 8 or 4 bits (MatMulNBits); the embedding stays
float32 unless the recipe names `Gather`. The builder rounds each block by itself; a form with `gptq` gets the decoder's
weights from `tasks/export/gptq.py` instead, which looks at training rows. Then PyTorch and every form answer the same
held-out prompts and are compared (see `tasks/export/parity.py`); a form over its thresholds fails the stage, and
nothing is written. Speeds are measured in turns and kept outside the artifact. One raw row the prompts come from:

    {"id": "p12", "prompt": [{"role": "user", "content": "What is 58 + 67?"}], "answer": "125", "source": "sums"}
"""

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from tasks.compression import calibration as calibration_rows
from tasks.compression.calibration import Calibration
from tasks.export import builder, matmul_nbits, parity
from tasks.export import gptq as gptq_onnx
from tasks.export.decode_speed import decode_speeds
from tasks.export.reference import Prompt, Reference, render_prompts
from tasks.models.folder import check_folder, load_causal_lm, load_tokenizer
from tasks.stage.artifact import read_jsonl, write_json
from tasks.stage.config import StageConfig, Strict
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run, stage

log = logging.getLogger("polm")


class Thresholds(Strict):
    """Bounds of the parity measures; null measures without a bound."""

    max_logprob_difference: float | None
    """Largest value allowed, in nats: over every token of the vocabulary, so only meaningful without quantisation."""
    kl_per_token: float | None
    """Largest value allowed, in nats."""
    argmax_agreement: float | None
    """Smallest share of positions allowed, 0 to 1."""
    greedy_agreement: float | None
    """Smallest share of greedy tokens allowed, 0 to 1."""


class Gptq(Strict):
    """GPTQ of the decoder's weights, which takes their inputs into account."""

    calibration: Calibration
    """Rows whose tokens give the inputs."""
    damping: Annotated[float, Field(gt=0)]
    """Addition to the Hessian's diagonal, as a share of its mean."""


class Form(Strict):
    """One folder to build."""

    precision: Literal["fp32", "int8", "int4"]
    """Precision of the weights."""
    weights: dict[str, Any]
    """The builder's `quant_config.weights`, verbatim: block_size, symmetric, method, accuracy_level, op_types, …"""
    gptq: Gptq | None
    """GPTQ of this form; null leaves the rounding to the builder."""
    thresholds: Thresholds
    """Bounds this form must keep."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.gptq is not None and self.precision == "fp32":
            raise ValueError("gptq rounds weights: set `precision` to int4 or int8, or `gptq: null`")
        return self


class Parity(Strict):
    """Prompts that the forms are compared on."""

    rows: str
    """File of the data artifact, e.g. `prompts/validation.jsonl`; rows with `prompt`, `question` or `messages`."""
    prompts: PositiveInt
    """Number of rows, drawn with the seed."""
    max_new_tokens: PositiveInt
    """Longest answer to each, in tokens."""


class Speed(Strict):
    """Measurement of the decoding speed."""

    new_tokens: Annotated[int, Field(ge=2)]
    """Tokens per answer."""
    repeats: PositiveInt
    """Turns of every engine; the median counts."""


class Config(StageConfig):
    """`params/<recipe>/export_onnx.yaml`."""

    forms: Annotated[dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")], Form], Field(min_length=1)]
    """Name of each folder to the form that is built there."""
    parity: Parity
    """Comparison with PyTorch."""
    speed: Speed
    """Measurement of the decoding speed."""


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Build every form, compare, write `parity.json`.

    Raises:
        ConfigError: an option that the builder refuses, before anything is built.
        DataError: too few held-out prompts, before anything is built.
        ModelError: an architecture that the builder does not know, or a folder that is no model.
        ParityError: a form that does not keep its thresholds, after all of them were measured and logged.
    """
    check_folder(model)
    conversations = held_out(data / config.parity.rows)
    with run.timed("import"):
        options = _options(config, run, model)  # first: it silences the builder's bars, which is only possible once
        from transformers import AutoConfig

    tokenizer = load_tokenizer(model)
    context = AutoConfig.from_pretrained(model).max_position_embeddings
    prompts = _draw(config, data, render_prompts(tokenizer, conversations, {}), context)
    calibrations = {}
    for number, (name, form) in enumerate(config.forms.items()):
        run.progress.update(number, len(config.forms), f"build {name}")
        builder.build(model, run.out / name, precision=form.precision, options=options[name])
        if form.gptq is not None:
            calibrations[name] = _round(form.gptq, run, name, model, tokenizer, data, config.seed)
    reference = Reference(load_causal_lm(model), tokenizer)
    exported = {name: parity.Exported(run.out / name, config.threads) for name in config.forms}
    _compare(exported, reference, prompts, config.parity.max_new_tokens, run)
    measures = {name: form.measures() for name, form in exported.items()}
    _log_table(measures)
    thresholds = {name: form.thresholds.model_dump() for name, form in config.forms.items()}
    parity.check(measures, thresholds, [name for name, form in config.forms.items() if form.precision == "fp32"])
    report = {
        "forms": measures,
        "thresholds": thresholds,
        "prompts": len(prompts),
        "calibration": calibrations,
    }
    write_json(run.out / "parity.json", report)
    run.progress.update(0, 1, "speed")
    sessions = {name: form.model for name, form in exported.items()}
    speeds = decode_speeds(
        reference,
        sessions,
        prompts[0].ids,
        new_tokens=config.speed.new_tokens,
        repeats=config.speed.repeats,
    )
    run.progress.update(1, 1, "speed", **speeds)
    run.measure(tokens_per_second=speeds, bytes={name: values["bytes"] for name, values in measures.items()})


def _compare(
    exported: Mapping[str, parity.Exported], reference: Reference, prompts: list[Prompt], max_new_tokens: int, run: Run
) -> None:
    """Have PyTorch answer every prompt, and take each answer into the measures of every form."""
    for number, prompt in enumerate(prompts):
        run.progress.update(number, len(prompts), "parity")
        answer = reference.generate(prompt.ids, max_new_tokens=max_new_tokens)
        log_probs = reference.log_probs(prompt.ids, answer)
        for form in exported.values():
            form.compare(prompt, answer, log_probs, reference)


def _round(gptq: Gptq, run: Run, name: str, model: Path, tokenizer: Any, data: Path, seed: int) -> dict[str, Any]:
    """Replace the weights that the builder rounded by GPTQ's, and return the record of their calibration rows."""
    rows, record = calibration_rows.draw(gptq.calibration, tokenizer, data, seed, run.params_file)
    policy = load_causal_lm(model)
    products = matmul_nbits.decoder_products(run.out / name, policy)
    grids = {module: gptq_onnx.Grid(p.bits, p.block, p.symmetric) for p in products for module in p.modules()}
    with run.timed(f"round {name}"):
        matrices = gptq_onnx.fit(policy, rows, grids, gptq.damping, run.progress)
    for product in products:
        product.write_parts([matrices[module] for module in product.modules()])
    return record


def held_out(path: Path) -> list[list[dict[str, str]]]:
    """Read the conversations of a file, each up to its last answer.

    Raises:
        DataError: no such file, or a row without `prompt`, `question` or `messages`.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; set `parity.rows` to a file that the data stage writes")
    conversations = []
    for number, row in enumerate(read_jsonl(path), 1):
        if "prompt" in row:
            conversations.append(row["prompt"])
        elif "question" in row:
            conversations.append([{"role": "user", "content": row["question"]}])
        elif "messages" in row and row["messages"][-1]["role"] == "assistant":
            conversations.append(row["messages"][:-1])
        else:
            raise DataError(f"{path}:{number}: neither 'prompt', 'question' nor 'messages' with an answer at the end")
    return conversations


def _options(config: Config, run: Run, model: Path) -> dict[str, dict[str, Any]]:
    """Return the builder's options of every form, checked before the first form is built."""
    try:
        return {
            name: builder.prepare_options(model, name, form.precision, form.weights)
            for name, form in config.forms.items()
        }
    except ConfigError as e:
        raise ConfigError(f"{run.params_file}: {e}") from e


def _draw(config: Config, data: Path, prompts: list[Prompt], context: int) -> list[Prompt]:
    """Draw among the prompts that leave room for an answer in the context. Raises DataError when they are too few."""
    longest = max(config.parity.max_new_tokens, config.speed.new_tokens)
    candidates = [prompt for prompt in prompts if len(prompt.ids) + longest <= context]
    if len(candidates) < config.parity.prompts:
        raise DataError(
            f"{data / config.parity.rows}: {len(candidates)} of {len(prompts)} prompts leave room for {longest} tokens "
            f"in the context of {context}, and `parity.prompts` asks for {config.parity.prompts}; lower one of the two"
        )
    return random.Random(config.seed).sample(candidates, config.parity.prompts)


def _log_table(measures: dict[str, dict[str, Any]]) -> None:
    """Log the whole table, also of a form that fails."""
    names = parity.LOWER_IS_BETTER + parity.HIGHER_IS_BETTER
    log.info("%-8s %s %12s", "form", " ".join(f"{n:>22}" for n in names), "bytes")
    for form, values in measures.items():
        log.info("%-8s %s %12d", form, " ".join(f"{values[n]:>22.6g}" for n in names), values["bytes"])


if __name__ == "__main__":
    stage(main, Config)
