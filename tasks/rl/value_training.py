"""The value model trains and is kept with the policy, although `Trainer` knows of one model only.

A mixin in front of `RLOOTrainer`, for a trainer with `value_model` and `value_learning_rate`.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor

VALUE_MODEL = "value_model.safetensors"
"""File of a checkpoint: V's weights. Its optimizer state is in the policy's, as one more group."""


class ValueTraining:
    """One optimizer and one checkpoint for policy and value model, to be named before the trainer among the bases."""

    _buffered_inputs: list[dict[str, Tensor]] | None

    def create_optimizer(self: Any, model: Any = None) -> Any:
        """Add a group for V to the policy's optimizer; `Trainer` would never set V's gradients to zero."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)  # type: ignore[misc]
        if is_new:
            parameters = list(self.value_model.parameters())
            optimizer.add_param_group({"params": parameters, "lr": self.value_learning_rate, "weight_decay": 0.0})
            optimizer.register_step_post_hook(lambda *_: self.value_model.zero_grad())
        return optimizer

    def _clip_grad_norm(self: Any, model: Any) -> Any:
        both = [*model.parameters(), *self.value_model.parameters()]
        return self.accelerator.clip_grad_norm_(both, self.args.max_grad_norm)

    def _save_optimizer_and_scheduler(self: Any, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        (folder := Path(output_dir)).mkdir(parents=True, exist_ok=True)
        if self.args.should_save:
            save_model(self.accelerator.unwrap_model(self.value_model), str(folder / VALUE_MODEL))
        # The rollout too: a checkpoint may fall between two of its minibatches.
        state = {"step": torch.tensor(self._step), "kl_coef": torch.tensor(self.kl_coef, dtype=torch.float64)}
        for i, part in enumerate(self._buffered_inputs or []):
            state |= {f"{i}.{key}": value.contiguous() for key, value in part.items()}
        save_file(state, folder / self._rollout_file())
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        load_model(self.accelerator.unwrap_model(self.value_model), str(Path(checkpoint) / VALUE_MODEL))
        state = load_file(Path(checkpoint) / self._rollout_file())
        self._step = int(state.pop("step"))
        self.kl_coef = float(state.pop("kl_coef"))
        parts: list[dict[str, Tensor]] = [{} for _ in range(self.args.steps_per_generation)]
        for key, value in state.items():
            number, name = key.split(".")
            parts[int(number)][name] = value.to(self.accelerator.device)
        self._buffered_inputs = parts

    def _rollout_file(self: Any) -> str:
        return f"rollout-{self.accelerator.process_index}.safetensors"
