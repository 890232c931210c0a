"""Export: the trained model as ONNX Runtime GenAI folders, proven to answer like the PyTorch model it was made from.

One folder a form (fp32, int8, int4), built by `onnxruntime_genai.models.builder` for the CPU: float32 weights as they
are, or the weights of the matrix products rounded in small blocks to 8 or 4 bits (MatMulNBits); the embedding stays
float32 unless the recipe names `Gather`. The builder rounds each block by itself; a form with `gptq` gets the decoder's
weights from `tasks/export/gptq.py` instead, which looks at training rows. Then PyTorch and every form answer the same
held-out prompts and are compared (see `tasks/export/parity.py`); a form over its thresholds fails the stage, and
nothing is written. Speeds are measured in turns and kept outside the artifact. Of a model that sees or hears the
language model is built without its embedding, beside graphs of its embedding and its eyes or ears in float32, and the
prompts come with their pictures or sounds. One raw row the prompts come from:

    {"id": "p12", "prompt": [{"role": "user", "content": "What is 58 + 67?"}], "answer": "125", "source": "sums"}
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from tasks.compression import calibration as calibration_rows
from tasks.compression.available import Taken
from tasks.export import builder, genai, held_out, matmul_nbits, parity
from tasks.export import gptq as gptq_onnx
from tasks.export.decode_speed import decode_speeds
from tasks.export.reference import Prompt, Reference, render_prompts
from tasks.export.settings import Form, Gptq, Parity, Speed
from tasks.models.folder import check_folder, load_causal_lm, load_tokenizer
from tasks.stage.artifact import write_json
from tasks.stage.config import StageConfig
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage

log = logging.getLogger("polm")


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
    with run.timed("import"):
        builder.silence()  # first: that is only possible once
        from tasks.models.multimodal import is_multimodal
    export = _export_multimodal if is_multimodal(model) else _export
    made = export(config, run, model, data)
    _compare(made, config.parity.max_new_tokens, run)
    measures = {name: form.measures() for name, form in made.forms.items()}
    _log_table(measures)
    thresholds = {name: form.thresholds.model_dump() for name, form in config.forms.items()}
    parity.check(measures, thresholds, [name for name, form in config.forms.items() if form.precision == "fp32"])
    report = {
        "forms": measures,
        "thresholds": thresholds,
        "prompts": len(made.prompts),
        "held_out": made.held_out,
        "calibration": made.calibrations,
    }
    write_json(run.out / "parity.json", report)
    run.progress.update(0, 1, "speed")
    tokens = config.speed.new_tokens
    asked = partial(made.reference.generate, made.asked[0], max_new_tokens=tokens, min_new_tokens=tokens)
    speeds = decode_speeds(asked, {name: made.speaker(form, tokens) for name, form in made.forms.items()},
                           repeats=config.speed.repeats)  # fmt: skip
    run.progress.update(1, 1, "speed", **speeds)
    run.measure(tokens_per_second=speeds, bytes={name: values["bytes"] for name, values in measures.items()})


@dataclass(frozen=True)
class _Made:
    """What was built, and what it is compared with."""

    forms: Mapping[str, Any]
    """Each form, loaded: with `compare` and `measures`."""
    reference: Any
    """The PyTorch model."""
    prompts: Sequence[Any]
    asked: Sequence[Any]
    """What the reference is given of each prompt."""
    held_out: dict[str, Any]
    """Record of the rows that the prompts are from."""
    calibrations: dict[str, Any]
    """Form to the record of its calibration rows."""
    speaker: Callable[[Any, int], Callable[[], Iterable[int]]]
    """Makes of a form and a number of tokens what yields so many as an answer to the first prompt."""


def _export(config: Config, run: Run, model: Path, data: Path) -> _Made:
    """Build the forms of a language model."""
    rows = held_out.read(config.parity.rows, data, media=False)
    options = _options(config, run, model, exclude_embeds=False)
    from transformers import AutoConfig

    tokenizer = load_tokenizer(model)
    context = AutoConfig.from_pretrained(model).max_position_embeddings
    rendered = render_prompts(tokenizer, [one.row["prompt"] for one in rows], {})
    prompts: list[Prompt]
    prompts, record = _draw(config, rendered, rows, context, data)
    calibrations = {}
    for number, (name, form) in enumerate(config.forms.items()):
        run.progress.update(number, len(config.forms), f"build {name}")
        builder.build(model, run.out / name, precision=form.precision, options=options[name])
        if form.gptq is not None:
            calibrations[name] = _round(form.gptq, run, name, model, tokenizer, data, config.seed)
    reference = Reference(load_causal_lm(model), tokenizer)
    forms = {name: parity.Exported(run.out / name, config.threads) for name in config.forms}
    asked = [prompt.ids for prompt in prompts]

    def speaker(form: parity.Exported, tokens: int) -> Callable[[], Iterable[int]]:
        return partial(genai.generate, form.model, asked[0], max_new_tokens=tokens, min_new_tokens=tokens)

    return _Made(forms, reference, prompts, asked, record, calibrations, speaker)


def _export_multimodal(config: Config, run: Run, model: Path, data: Path) -> _Made:
    """Build the forms of a model that sees or hears: its language model in each precision, the rest in float32."""
    from tasks.export import multimodal_builder
    from tasks.export.multimodal_parity import ExportedMultimodal
    from tasks.export.multimodal_reference import HearingReference, SeeingReference
    from tasks.models.multimodal import load_multimodal
    from tasks.multimodal.hearing import hears

    rounded = [name for name, form in config.forms.items() if form.gptq is not None]
    if rounded:
        raise ConfigError(
            f"{run.params_file}: forms.{rounded[0]}.gptq: its calibration rows are read without their pictures "
            f"or sounds; set `gptq: null` for a model that sees or hears"
        )
    rows = held_out.read(config.parity.rows, data, media=True)
    network, processor = load_multimodal(model)
    reference = (HearingReference if hears(processor) else SeeingReference)(network, processor, data)
    context = network.config.get_text_config().max_position_embeddings
    rendered = reference.prompts([one.row["prompt"] for one in rows], [one.row for one in rows])
    prompts, record = _draw(config, rendered, rows, context, data)
    with multimodal_builder.language_model(network, processor, model) as text:
        options = _options(config, run, text, exclude_embeds=True)
        for number, (name, form) in enumerate(config.forms.items()):
            run.progress.update(number, len(config.forms), f"build {name}")
            builder.build(text, run.out / name, precision=form.precision, options=options[name])
            multimodal_builder.write_parts(network, model, run.out / name)
    forms = {name: ExportedMultimodal(run.out / name, config.threads) for name in config.forms}

    def speaker(form: ExportedMultimodal, tokens: int) -> Callable[[], Iterable[int]]:
        return partial(form.answer, prompts[0], reference, tokens)

    return _Made(forms, reference, prompts, prompts, record, {}, speaker)


def _compare(made: _Made, max_new_tokens: int, run: Run) -> None:
    """Have PyTorch answer every prompt, and take each answer into the measures of every form."""
    for number, (prompt, asked) in enumerate(zip(made.prompts, made.asked, strict=True)):
        run.progress.update(number, len(made.prompts), "parity")
        answer = made.reference.generate(asked, max_new_tokens=max_new_tokens)
        log_probs = made.reference.log_probs(asked, answer)
        for form in made.forms.values():
            form.compare(prompt, answer, log_probs, made.reference)


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


def _draw(
    config: Config, prompts: Sequence[Any], rows: Sequence[Taken], context: int, data: Path
) -> tuple[list[Any], dict[str, Any]]:
    longest = max(config.parity.max_new_tokens, config.speed.new_tokens)
    return held_out.draw(prompts, rows, config.parity, config.seed, longest=longest, context=context, data=data)


def _options(config: Config, run: Run, model: Path, *, exclude_embeds: bool) -> dict[str, dict[str, Any]]:
    """Return the builder's options of every form, checked before the first form is built."""
    try:
        return {
            name: builder.prepare_options(model, name, form.precision, form.weights, exclude_embeds=exclude_embeds)
            for name, form in config.forms.items()
        }
    except ConfigError as e:
        raise ConfigError(f"{run.params_file}: {e}") from e


def _log_table(measures: dict[str, dict[str, Any]]) -> None:
    """Log the whole table, also of a form that fails."""
    names = parity.LOWER_IS_BETTER + parity.HIGHER_IS_BETTER
    log.info("%-8s %s %12s", "form", " ".join(f"{n:>22}" for n in names), "bytes")
    for form, values in measures.items():
        log.info("%-8s %s %12d", form, " ".join(f"{values[n]:>22.6g}" for n in names), values["bytes"])


if __name__ == "__main__":
    stage(main, Config)
