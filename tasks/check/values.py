"""Numbers of recipe files that no schema looks at, because they are passed on or stand in many files: by their name.

Only what is wrong whatever the method is refused: a seed that NumPy does not take, a rate that is not finite.
"""

import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tasks import dpo, kto
from tasks.check.files import Recipe
from tasks.data import Config as DataConfig
from tasks.stage.config import suggest

LARGEST_SEED = 2**32 - 1
"""NumPy's; torch takes larger ones."""
DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Data types of weights, as torch calls them."""


class Rule(NamedTuple):
    """What numbers of a name have to be."""

    name: re.Pattern[str]
    """The last part of the key, whole."""
    fits: Callable[[float], bool]
    expected: str


def _rule(names: str, fits: Callable[[float], bool], expected: str) -> Rule:
    return Rule(re.compile(names), fits, expected)


RULES = (
    _rule("threads", lambda v: v >= 1, "a number of threads, at least 1"),
    _rule("seed", lambda v: 0 <= v <= LARGEST_SEED, f"a seed that NumPy and torch take, 0 to {LARGEST_SEED}"),
    _rule(r"\w*learning_rate|lr", lambda v: 0 < v <= 1, "a rate above 0, at most 1, e.g. 1e-5"),
    _rule("beta", lambda v: v >= 0, "a weight from 0 up"),
    _rule(r"epsilon|epsilon_(low|high)|adam_epsilon", lambda v: v > 0, "a number above 0"),
    _rule("adam_beta[12]", lambda v: 0 <= v < 1, "a share from 0 to below 1"),
    _rule("confidence", lambda v: 0 < v < 1, "a share above 0 and below 1, e.g. 0.95"),
    _rule("top_p", lambda v: 0 < v <= 1, "a share above 0, at most 1"),
    _rule(
        r"\w*(_share|_ratio|dropout)|max_left_out|max_cut|label_smoothing(_factor)?",
        lambda v: 0 <= v <= 1,
        "a share, 0 to 1",
    ),
    _rule(r"resamples|bootstrap_samples", lambda v: v >= 1, "a number of bootstrap samples, at least 1"),
    _rule(r"\w*temperature|weight_decay|max_grad_norm|warmup_steps", lambda v: v >= 0, "a number from 0 up"),
    _rule("num_train_epochs", lambda v: v > 0, "a number of epochs above 0"),
    _rule("max_steps", lambda v: v == -1 or v >= 1, "a number of steps, at least 1 (-1: as `num_train_epochs` says)"),
    _rule(
        r"\w*batch_size|gradient_accumulation_steps|max_length|max_completion_length|max_new_tokens|max_gen_toks"
        r"|samples_per_prompt|num_generations|logging_steps|save_steps|checkpoint_steps|block_size|steps|r|lora_alpha|limit",
        lambda v: v > 0,
        "a number above 0",
    ),
)


DRAWN = "trainer.temperature"
"""Temperature by which a trainer divides what it draws answers from."""


def check(under_check: Recipe) -> Iterator[str]:
    """Check the numbers of every file, at any depth, and the data types that files name."""
    for file, config in sorted(under_check.configs.items()):
        path = under_check.folder / file
        values = config.model_dump()
        for key, value in leaves(values):
            name = [part for part in key.split(".") if not part.isdigit()][-1]
            if name == "dtype" and isinstance(value, str) and value not in DTYPES:
                yield f"{path}: {key} is '{value}', no data type of weights{suggest(value, DTYPES)}"
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            rule = next((rule for rule in RULES if rule.name.fullmatch(name)), None)
            if not math.isfinite(value):
                expected = rule.expected if rule else "a finite number"
                yield f"{path}: {key} is {value}, which is not finite; expected {expected}"
            elif rule and not rule.fits(value):
                yield f"{path}: {key} is {value}; expected {rule.expected}"
            elif key == DRAWN and value == 0:
                yield f"{path}: {key} is 0, by which logits are divided; expected a number above 0"
        yield from (f"{path}: {fault}" for fault in _trained(config, values))
        if isinstance(config, DataConfig) and config.split.validation + config.split.test >= 1:
            held = config.split.validation + config.split.test
            yield f"{path}: split holds back {held:g} of the groups and leaves none to train on; lower its shares"


def _trained(config: Any, values: Mapping[str, Any]) -> Iterator[str]:
    """Say which settings of a trainer learn nothing, learn the contrary, or cannot run on a CPU."""
    trainer = values.get("trainer") or {}
    if not isinstance(trainer, Mapping):
        return
    if trainer.get("use_cpu") is True and trainer.get("fp16") is True:
        yield "trainer.fp16 and trainer.use_cpu are true, and scaled half precision needs a GPU; set one to false"
    if not isinstance(config, dpo.Config | kto.Config):
        return
    beta, smoothing = trainer.get("beta"), trainer.get("label_smoothing")
    if beta == 0:
        yield "trainer.beta is 0, by which the margin is multiplied, so that nothing is learnt; usual is 0.1"
    if isinstance(smoothing, int | float) and smoothing >= 0.5:
        yield (
            f"trainer.label_smoothing is {smoothing}, the share of pairs that are the wrong way round; from 0.5 on the "
            f"worse replies are learnt; expected a number below"
        )


OPTIONAL = {
    "use_liger_kernel": "liger-kernel", "use_vllm": "vllm", "deepspeed": "deepspeed", "optim": "bitsandbytes",
}  # fmt: skip
"""Key of a trainer to the package that it needs where it is set; of `optim`, for names with `bnb` or `8bit`."""


def _packages(trainer: Mapping[str, Any]) -> Iterator[str]:
    """Say which packages a trainer will import that are not installed here."""
    for key, package in OPTIONAL.items():
        value = trainer.get(key)
        asked = ("bnb" in value or "8bit" in value) if key == "optim" and isinstance(value, str) else value
        if asked and importlib.util.find_spec(package.replace("-", "_")) is None:
            yield f"trainer.{key} is {value!r}, which needs the package {package}, and it is not installed here"


def notices(under_check: Recipe) -> Iterator[str]:
    """Say that a training ends before its learning rate is reached, as one of a few steps for a trial does.

    A package that is missing is no fault: the stage may run on another machine.
    """
    for file, config in sorted(under_check.configs.items()):
        trainer = config.model_dump().get("trainer") or {}
        if isinstance(trainer, Mapping):
            yield from (f"{under_check.folder / file}: {said}" for said in _packages(trainer))
        steps, warmup = trainer.get("max_steps"), trainer.get("warmup_steps")
        if isinstance(steps, int) and isinstance(warmup, int | float) and 1 < steps < warmup:
            yield (
                f"{under_check.folder / file}: trainer.warmup_steps is {warmup}, and trainer.max_steps {steps}: the "
                f"learning rate is never reached; warm up for fewer steps"
            )


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf below a value as (`trainer.betas.0`, value)."""
    if isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, inner in pairs:
            yield from leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
