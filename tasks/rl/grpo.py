"""`GRPOTrainer` with DAPO's dynamic sampling (Yu et al., arXiv:2503.14476, section 3.2).

When all answers to a prompt get the same reward, every advantage is 0: the group costs as much as any other and moves
nothing, and the share of such groups grows as the policy gets better. Dynamic sampling replaces them before the update.
DAPO draws until the batch is full; here the recipe bounds the rounds, so that a step's time is bounded too. What is
still without signal after the last round stays in the batch.
"""

import random
from typing import Any

import torch
from trl import GRPOTrainer

from tasks.sampling.rollout import Rollouts
from tasks.stage.errors import ConfigError

LEFT_PADDED = ("prompt_ids", "prompt_mask")
"""Tensors of a batch whose rows end together; all others begin together."""


class DynamicGRPOTrainer(Rollouts, GRPOTrainer):
    """GRPO that replaces groups without signal by groups of other prompts."""

    def __init__(self, *args: Any, resampling_rounds: int, **kwargs: Any) -> None:
        """Args: resampling_rounds: most rounds of replacing in a step; 0 is plain GRPO.

        Raises:
            ConfigError: a group would be spread over processes.
        """
        super().__init__(*args, **kwargs)
        self._rounds = resampling_rounds
        local = self.args.per_device_train_batch_size * self.args.steps_per_generation
        if resampling_rounds and local % self.num_generations:
            raise ConfigError(
                f"dynamic_sampling needs whole groups on each device: per_device_train_batch_size × "
                f"steps_per_generation is {local}, num_generations is {self.num_generations}; make the first a multiple"
            )

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any
    ) -> Any:
        answers = self.draw_answers(prompt_ids, images, multimodal_fields)
        if answers is None:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        return answers.ids, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if not self.model.training or not self._rounds:
            return batch
        replaced = 0
        for number in range(self._rounds):
            empty = self._without_signal(batch)
            needed = int(self.accelerator.gather(torch.tensor([len(empty)], device=self.accelerator.device)).max())
            if not needed:  # every process decides alike: sampling is a collective operation
                break
            metrics = {key: list(values) for key, values in self._metrics["train"].items()}
            fresh = super()._generate_and_score_completions(self._other_prompts(needed, number))
            self._metrics["train"].clear()  # few groups must not weigh as much as the step's own: they are not logged
            self._metrics["train"].update(metrics)
            empty_of_fresh = set(self._without_signal(fresh))
            live = [group for group in range(needed) if group not in empty_of_fresh]
            pairs = list(zip(empty, live, strict=False))
            batch, replaced = self._replace(batch, fresh, pairs), replaced + len(pairs)
        groups = len(batch["advantages"]) // self.num_generations
        self._metrics["train"]["dynamic_sampling/replaced"].append(replaced / groups)
        self._metrics["train"]["dynamic_sampling/still_empty"].append(len(self._without_signal(batch)) / groups)
        return batch

    def _without_signal(self, batch: dict[str, Any]) -> list[int]:
        """Find the groups of the batch whose advantages are all 0."""
        grouped = batch["advantages"].view(-1, self.num_generations)
        return (grouped.abs().amax(dim=1) < 1e-6).nonzero().flatten().tolist()

    def _other_prompts(self, count: int, number: int) -> list[dict[str, Any]]:
        """Draw rows to try instead, each for a whole group, from a seed of this step: a resumed run draws the same."""
        rank = self.accelerator.process_index
        part = self._step % self.args.gradient_accumulation_steps  # `_step` counts from where training was resumed
        rng = random.Random(f"{self.args.seed}-{self.state.global_step}-{part}-{number}-{rank}")
        numbers = [rng.randrange(len(self.train_dataset)) for _ in range(count)]
        return [self.train_dataset[i] for i in numbers for _ in range(self.num_generations)]

    def _replace(self, batch: dict[str, Any], fresh: dict[str, Any], pairs: list[tuple[int, int]]) -> dict[str, Any]:
        """Put group `b` of `fresh` in the place of group `a` of `batch`, for each pair (a, b).

        Tensors are `[completions, length]` or `[completions]`; lengths are padded to the longer of the two.
        """
        size = self.num_generations
        rows = [(a * size + i, b * size + i) for a, b in pairs for i in range(size)]
        merged = dict(batch)
        for key, value in batch.items():
            if not isinstance(value, torch.Tensor) or value.ndim == 0:
                continue
            ours, theirs = _same_length(value, fresh[key], key, self._tokenizer.pad_token_id)
            for to, source in rows:
                ours[to] = theirs[source]
            merged[key] = ours
        merged["num_items_in_batch"] = self.accelerator.gather(merged["completion_mask"].sum()).sum()
        return merged


def _same_length(a: torch.Tensor, b: torch.Tensor, key: str, pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy both, padded to the longer one's length as the trainer pads that tensor."""
    if a.ndim == 1:
        return a.clone(), b
    length = max(a.shape[1], b.shape[1])
    value = pad_token_id if key.endswith("_ids") else 0

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        missing = length - tensor.shape[1]
        return torch.nn.functional.pad(tensor, (missing, 0) if key in LEFT_PADDED else (0, missing), value=value)

    return padded(a).clone(), padded(b)
