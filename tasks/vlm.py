"""Vision-language tuning: a model that is given pictures learns to answer questions about them.

One raw row: {"messages": [{"role": "user", "content": "Add the two digits."},
                           {"role": "assistant", "content": "3 + 5 = 8."}], "images": ["51f2….png"]}

TRL's `SFTTrainer` on conversations with pictures, for any model that `AutoModelForMultimodalLM` loads: one that `align`
made, or one from the hub. `trained` says which of its parts learn, so the usual two phases are two models of the graph:
first `trained: [projector]`, then `trained: [projector, language_model]`, all weights or LoRA. The frames of a video
are pictures in order, so a model of videos is a recipe file of this stage and no stage of its own.

A falling loss proves nothing here: a blind model learns how answers look. `evaluate` asks every question again without
the picture. What it leaves out: packing, and cutting rows (`trainer.max_length` has to be null).
"""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tasks.stage import artifact
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import AdapterConfig
from tasks.training import fates, supervised
from tasks.training import trainer as training

row_rule = fates.answers

Part = Literal["encoder", "projector", "language_model"]
PARTS: dict[str, str] = {
    "projector": r"projector|connector|merger|multi_modal|resampler|aligner",
    "encoder": r"vision|visual|audio|image_tower|encoder",
}
"""Part to a pattern of its weights' names, the first that matches; what is left is the language model."""


class Config(AdapterConfig):
    """`params/<recipe>/vlm.yaml`."""

    trained: list[Part] = Field(min_length=1)
    """Parts that learn: `encoder`, `projector`, `language_model`. With `peft`, those that its adapter reaches learn by
    the adapter, and the others whole."""


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from trl import SFTConfig

    return SFTConfig


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Tune `model` on the recipe's `dataset` and write a model folder with its curves and audit."""
    with run.timed("import"):
        arguments = training.arguments(trainer_class(), config, run)
        adapter = training.peft_config(config, run, "CAUSAL_LM")

    def freeze(loaded: Any) -> None:
        select(loaded, config.trained, run.params_file)
        if adapter is not None:
            share(adapter, loaded, config.trained, run.params_file)

    trainer, reader, figures = supervised.fine_tune(
        config, arguments, config.dataset, adapter, run, model, data, freeze
    )
    if run.main_process:
        artifact.write_json(run.out / "metrics.json", figures)
        training.finish(trainer, reader, run)


def part_of(name: str) -> str:
    """Tell to which part of a model a weight belongs, by its name."""
    if "language_model" in name or name.startswith("lm_head"):
        return "language_model"
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name)), "language_model")


def select(model: Any, trained: list[Part], where: Path) -> None:
    """Let the weights of some parts learn and hold the others, in place.

    Args:
        model: with all its parts.
        trained: the parts that learn.
        where: the recipe file, for messages.

    Raises:
        ConfigError: a part that the model has not.
    """
    there = {part_of(name) for name, _ in model.named_parameters()}
    for part in trained:
        if part not in there:
            raise ConfigError(
                f"{where}: trained names '{part}', and the model has {', '.join(sorted(there))}; a model without eyes "
                f"is given them by `align`"
            )
    for name, weight in model.named_parameters():
        weight.requires_grad_(part_of(name) in trained)


def share(adapter: Any, model: Any, trained: list[Part], where: Path) -> None:
    """Let an adapter learn for the parts that it reaches, and the other trained parts learn whole beside it, in place.

    PEFT holds every weight that is none of the adapter's; it trains, keeps and merges the modules of `modules_to_save`.

    Args:
        adapter: PEFT's configuration.
        model: with all its parts.
        trained: the parts that learn.
        where: the recipe file, for messages.

    Raises:
        ConfigError: a soft prompt, or an adapter that reaches a part which does not learn, or not the language model,
            which learns.
    """
    if adapter.is_prompt_learning or not adapter.target_modules:
        raise ConfigError(f"{where}: peft.target_modules has to name layers, and there are no soft prompts here")
    reached = {part_of(f"{name}.weight") for name, module in model.named_modules() if _reaches(adapter, name, module)}
    if not reached:
        raise ConfigError(f"{where}: peft.target_modules reaches no layer of the model")
    for part in sorted(reached - set(trained)):
        raise ConfigError(
            f"{where}: peft.target_modules reaches the {part}, which `trained` does not name; name it there, or write "
            f"a pattern of whole names, e.g. '.*language_model.*(q|v)_proj'"
        )
    whole = [part for part in trained if part not in reached]
    if "language_model" in whole:
        raise ConfigError(f"{where}: trained names 'language_model', which peft.target_modules does not reach")
    names = [name for part in whole for name in roots(model, part)]
    adapter.modules_to_save = [*(adapter.modules_to_save or []), *names]


def _reaches(adapter: Any, name: str, module: Any) -> bool:
    import torch
    from peft.tuners.tuners_utils import check_target_module_exists

    if adapter.target_modules == "all-linear":
        return isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
    return bool(check_target_module_exists(adapter, name))


def roots(model: Any, part: str) -> list[str]:
    """Name the outermost modules of a model whose weights are all of one part."""
    found: list[str] = []
    for name, module in model.named_modules():
        parts = {part_of(f"{name}.{weight}") for weight, _ in module.named_parameters()}
        if name and parts == {part} and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


if __name__ == "__main__":
    stage(main, Config)
