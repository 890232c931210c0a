"""Settings of an export: its forms, the bounds they must keep, and what they are measured on."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from tasks.compression.calibration import Calibration
from tasks.stage.config import Strict


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

    rows: str | None
    """File of the data artifact, e.g. `prompts/validation.jsonl`; rows with `prompt`, `question` or `messages`. Null
    takes the held-out prompts that there are (`tasks/compression/available.py`)."""
    prompts: PositiveInt
    """Number of rows, drawn with the seed; of rows that nobody named, at most so many."""
    max_new_tokens: PositiveInt
    """Longest answer to each, in tokens."""


class Speed(Strict):
    """Measurement of the decoding speed."""

    new_tokens: Annotated[int, Field(ge=2)]
    """Tokens per answer."""
    repeats: PositiveInt
    """Turns of every engine; the median counts."""
