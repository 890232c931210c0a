"""What the training stages share: TRL configuration, checkpoints that survive a kill, curves, and writing the model."""

import logging
import math
import shutil
from pathlib import Path
from typing import Any

from tasks.models.folder import PROMPT, save_model
from tasks.models.multimodal import save_multimodal, tokenizer_of
from tasks.stage import artifact, launch
from tasks.stage.config import check_trainer
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run
from tasks.stage.trainer_config import RESERVED, AdapterConfig, TrlConfig
from tasks.training import sharding

log = logging.getLogger("polm")

COMPLETE = "polm-complete"
"""Marker written into a checkpoint once it is whole."""
CLOCK = ("runtime", "per_second", "step_time", "total_flos", "num_tokens")
"""Parts of log keys that tell of this process and not of the model; TRL counts tokens from where it resumed."""


def arguments(config_class: type[Any], config: TrlConfig, run: Run) -> Any:
    """Build TRL's config object for a stage.

    Raises:
        ConfigError: an unknown or reserved key, a value that the class refuses, or checkpoints between two log entries.
    """
    check_trainer(run.params_file, config.trainer, config_class, RESERVED)
    _check_save_steps(config, run)
    if config.trainer.get("completion_only_loss") is False:
        raise ConfigError(
            f"{run.params_file}: trainer.completion_only_loss is false, which would learn the prompts, and the "
            f"turns of weight 0 in them; take it out"
        )
    fixed = {"report_to": "none", "disable_tqdm": True, "save_strategy": "steps", "seed": config.seed}
    try:
        trl_config = config_class(output_dir=str(run.checkpoints), **fixed, **config.trainer)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{run.params_file}: trainer: {e}") from None
    if run.launched.processes > 1 and config.trainer.get("precompute_ref_log_probs"):
        raise ConfigError(
            f"{run.params_file}: trainer.precompute_ref_log_probs keeps them in a folder of each process, where the "
            f"others do not find them; set it to false, or launch one process"
        )
    sharding.prepare(trl_config, run)
    return trl_config


def _check_save_steps(config: TrlConfig, run: Run) -> None:
    """Refuse checkpoints between two log entries. Raises ConfigError."""
    log_every = config.trainer.get("logging_steps")
    save_every = config.trainer.get("save_steps")
    if isinstance(log_every, int) and isinstance(save_every, int) and log_every > 0 and save_every % log_every:
        raise ConfigError(
            f"{run.params_file}: trainer.save_steps is {save_every}, no multiple of trainer.logging_steps "
            f"({log_every}); a run that goes on from such a checkpoint would log other means than one that was not "
            f"stopped"
        )


def peft_config(config: AdapterConfig, run: Run, task_type: str) -> Any:
    """Build `peft.LoraConfig`, or None. Raises ConfigError for a key it does not know."""
    if config.peft is None:
        return None
    from peft import LoraConfig

    check_trainer(run.params_file, config.peft, LoraConfig, ("task_type",), "peft")
    return LoraConfig(task_type=task_type, **config.peft)


def train(trainer: Any, run: Run) -> dict[str, float]:
    """Train, resuming from the last whole checkpoint of exactly these inputs, and write `curves.jsonl`.

    Of a sharded model `trainer.model` is whole afterwards, in the main process alone.

    Returns:
        Final figures: steps, parameters, trainable parameters, last training loss, and the evaluation's if there is a
        held-out set.

    Raises:
        ConfigError: other processes came up than the recipe asks for.
        DataError: weights are not finite, or training moved none.
    """
    from transformers import PrinterCallback

    launch.check_accelerator(run.launched, run.params_file, trainer.accelerator, trainer.args)
    if run.launched.processes > 1 and run.main_process:
        log.info("%s", _batch(trainer.args))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_callback(run, trainer.accelerator))
    skeleton = None
    if sharding.is_sharded(trainer):
        skeleton = sharding.skeleton(trainer.model)
        sharding.generate_in_step(trainer.model)
    _fit(trainer, run)
    evaluation = trainer.evaluate() if trainer.eval_dataset is not None else {}
    parameters = list(trainer.model.parameters())
    figures: dict[str, float] = {
        "steps": trainer.state.global_step,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        **_clean({k: v for k, v in evaluation.items() if k != "epoch"}),
    }
    if skeleton is not None:
        sharding.gather(trainer.model, skeleton)
        trainer.model = skeleton
    curve = [_clean(entry) for entry in trainer.state.log_history if "train_runtime" not in entry]
    if run.main_process:
        artifact.write_jsonl(run.out / "curves.jsonl", curve)
    losses = [entry["loss"] for entry in curve if "loss" in entry]
    if losses:
        figures["loss"] = losses[-1]
    return figures


def _batch(arguments: Any) -> str:
    """Say how many rows a step has."""
    parts = arguments.per_device_train_batch_size, arguments.world_size, arguments.gradient_accumulation_steps
    return "a step: {} row(s) a process x {} processes x {} accumulated = {} rows".format(*parts, math.prod(parts))


def _fit(trainer: Any, run: Run) -> None:
    """Train from the last whole checkpoint, if there is one. Raises DataError as `train`."""
    before = _fingerprint(trainer.model)
    if run.main_process:
        _remove_halves(run.checkpoints)
    trainer.accelerator.wait_for_everyone()
    checkpoint = _last_checkpoint(run.checkpoints)
    if checkpoint:
        log.info("resuming from %s", checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    after = _fingerprint(trainer.model)
    # The weights and not the loss: transformers leaves losses that are no numbers out of its log.
    if not all(math.isfinite(total) for total in after):
        raise DataError(f"{run.params_file}: training diverged, weights are not finite; lower trainer.learning_rate")
    if after == before and not checkpoint:
        raise DataError(f"{run.params_file}: training moved no weight; check trainer.learning_rate and the data")


def finish(trainer: Any, reader: Any, run: Run) -> None:
    """Write the model folder; a PEFT model is merged, and its adapter kept in `adapter/`.

    A soft prompt cannot be merged: beside the untouched weights it lies in `prompt/` (`tasks.models.folder.PROMPT`).

    Args:
        trainer: after training.
        reader: the tokenizer, or the processor of a model that sees or hears.
        run: the stage's run.
    """
    from peft import PeftModel

    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.args.gradient_checkpointing:
        model.gradient_checkpointing_disable()
    model.config.get_text_config().use_cache = True
    save = save_model if tokenizer_of(reader) is reader else save_multimodal
    if not isinstance(model, PeftModel):
        save(model, reader, run.out)
    elif model.active_peft_config.is_prompt_learning:
        save(model.get_base_model(), reader, run.out)
        _save_adapter(model, run.out / PROMPT)
    else:
        _save_adapter(model, run.out / "adapter")
        save(model.merge_and_unload(), reader, run.out)


def _save_adapter(model: Any, folder: Path) -> None:
    """Write an adapter by itself. The bytes depend on its weights and settings alone."""
    config = model.active_peft_config
    config.base_model_name_or_path = ""
    for name, value in vars(config).items():
        if isinstance(value, set):  # names of modules, in another order in each process
            setattr(config, name, sorted(value))
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)


def _clean(entry: dict[str, Any]) -> dict[str, float]:
    """Take the clocks out of a log entry, round and sort it: one read back from a checkpoint comes in another order.

    TRL logs None for a mean of nothing, e.g. of clipped ratios when every answer was cut off; that is left out.
    """
    values = {k: v for k, v in sorted(entry.items()) if v is not None and not any(part in k for part in CLOCK)}
    return {k: v if isinstance(v, int) else float(f"{float(v):.8g}") for k, v in values.items()}


def _fingerprint(model: Any) -> list[float]:
    """Sum up each trainable parameter: enough to see whether any of them moved."""
    return [sharding.whole(p.detach()).double().sum().item() for p in model.parameters() if p.requires_grad]


def _remove_halves(folder: Path) -> None:
    """Remove checkpoints that a kill cut short."""
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            log.info("removing the half-written %s", path)
            shutil.rmtree(path)


def _last_checkpoint(folder: Path) -> Path | None:
    """Find the newest whole checkpoint."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).exists()]
    return max(whole, key=lambda p: int(p.name.split("-")[1]), default=None)


def _callback(run: Run, accelerator: Any) -> Any:
    """Make a `TrainerCallback` that reports progress and marks checkpoints as whole.

    Each process writes a part of a checkpoint, so the mark waits for all.
    """
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
            ordered = sorted(_clean(numbers).items(), key=lambda item: not item[0].endswith("loss"))
            run.progress.update(state.global_step, state.max_steps, "training", **dict(ordered))

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            accelerator.wait_for_everyone()
            if run.main_process:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    return Report()
