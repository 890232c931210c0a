"""Soft adaptation: one frozen model, the same rows and steps, four small adapters to choose between.

    lora    W + BA, two thin matrices beside every weight (Hu et al., arXiv:2106.09685)
    dora    the same, direction and length of W apart (Liu et al., arXiv:2402.09353)
    prompt  vectors put in front of the embedded text (Lester et al., arXiv:2104.08691)
    prefix  keys and values put in front in every layer (Li and Liang, arXiv:2101.00190)

One raw row: as in `sft`. `--method` names the entry of `methods:` that runs. What may
differ is the adapter and its learning rate, since a soft prompt needs one 10 to 100 times that of LoRA; the rest of
`trainer:` is shared. `metrics.json` has the trainable parameters and the adapter's bytes, `evaluate` finds the
accuracy, seconds and memory are measured as of every stage.

LoRA and DoRA are merged. A soft prompt is no weight: it lies beside the untouched ones, in the folder `prompt`. Three
settings do not fit it and are refused: gradient checkpointing (it drops the cache that holds the prefix), packing and
padding-free batches (one prompt for many rows). What it leaves out: prefix reparametrisation, from whose checkpoints
PEFT cannot go on. `prompt_tuning_init: TEXT` needs the `tokenizer_name_or_path` of a model folder.
"""

from pathlib import Path
from typing import Any, Literal

from tasks.stage import artifact, trainer_config
from tasks.stage.config import Strict, check_trainer
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import TrlConfig, Verbatim
from tasks.training import fates, supervised
from tasks.training import trainer as training

row_rule = fates.answers
RESERVED = ("task_type", "inference_mode", "prefix_projection")
"""Keys of PEFT's config classes that the stage sets."""
_JOINED = dict.fromkeys(("packing", "padding_free"), "rows that are joined get one soft prompt together")
UNFIT: dict[str, dict[str, str]] = {
    "LoraConfig": {},
    "PromptTuningConfig": _JOINED,
    "PrefixTuningConfig": {**_JOINED, "gradient_checkpointing": "it drops the cache that holds the prefix"},
}
"""Keys of `trainer:` that must be false for an adapter, and why."""


class Method(Strict):
    """One adapter of the comparison."""

    adapter: Literal["LoraConfig", "PromptTuningConfig", "PrefixTuningConfig"]
    """PEFT's config class."""
    learning_rate: float
    """Peak learning rate of this adapter."""
    peft: dict[str, Any]
    """Passed verbatim to that class."""

    def peft_class(self) -> type[Any]:
        """Return the class whose fields `peft:` may hold."""
        import peft

        config_class: type[Any] = getattr(peft, self.adapter)
        return config_class


class Config(TrlConfig):
    """`params/<recipe>/adapt.yaml`."""

    methods: dict[str, Method]
    """Name of the method to its adapter."""

    def unfit(self, processes: int, sharding: str | None) -> str | None:
        """Refuse a soft prompt over sharded weights: PEFT embeds it outside of them."""
        soft = [name for name, method in self.methods.items() if method.adapter != "LoraConfig"]
        if sharding and soft:
            return (
                f"methods.{soft[0]} is a {self.methods[soft[0]].adapter}, which PEFT keeps outside sharded weights; "
                f"take DDP, as in infra/accelerate/multi_gpu.yaml"
            )
        return None

    def verbatim(self, trainer_class: type[Any]) -> list[Verbatim]:
        """Name `trainer:`, which leaves the learning rate to the methods, and each method's `peft:`."""
        return [
            Verbatim("trainer", self.trainer, trainer_class, (*trainer_config.RESERVED, "learning_rate")),
            *(
                Verbatim(f"methods.{name}.peft", method.peft, method.peft_class(), RESERVED)
                for name, method in self.methods.items()
            ),
        ]


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from trl import SFTConfig

    return SFTConfig


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Adapt `model` by the method that runs, and write a model folder with its curves."""
    method = config.methods[run.method]
    with run.timed("import"):
        for section, values, known, reserved in config.verbatim(trainer_class()):
            check_trainer(run.params_file, values, known, reserved, section)
    paced = config.model_copy(update={"trainer": {**config.trainer, "learning_rate": method.learning_rate}})
    arguments = training.arguments(trainer_class(), paced, run)
    adapter = adapter_config(method, arguments, run)
    trainer, tokenizer, figures = supervised.fine_tune(config, arguments, config.dataset, adapter, run, model, data)
    if run.main_process:
        training.finish(trainer, tokenizer, run)
        weights = run.out.glob("*/adapter_model.safetensors")
        figures["adapter_bytes"] = sum(path.stat().st_size for path in weights)
        artifact.write_json(run.out / "metrics.json", figures)


def adapter_config(method: Method, arguments: Any, run: Run) -> Any:
    """Build the method's PEFT config.

    Raises:
        ConfigError: a value that the class refuses, no `num_virtual_tokens`, or a setting of `trainer:` that does
            not fit the adapter.
    """
    where = f"{run.params_file}: methods.{run.method}.peft"
    try:
        adapter = method.peft_class()(task_type="CAUSAL_LM", **method.peft)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{where}: {e}") from None
    if adapter.is_prompt_learning and not adapter.num_virtual_tokens:
        raise ConfigError(f"{where}: missing key 'num_virtual_tokens', the length of the soft prompt")
    for key, why in UNFIT[method.adapter].items():
        if getattr(arguments, key):
            raise ConfigError(f"{run.params_file}: set trainer.{key} to false for {method.adapter}: {why}")
    return adapter


if __name__ == "__main__":
    stage(main, Config)
