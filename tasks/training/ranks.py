"""Several processes, one number: losses that do not depend on how a batch is shared out.

Trainers average what each process has averaged over its own part. Where the parts weigh differently, as tokens do, a
mean of such means is not the mean of the batch; and the last held-out batch is filled up with rows from the beginning
of the set, which would count twice. Here a part counts by its weight, and rows that fill up do not count.
"""

import copy
from typing import Any

from tasks.stage.lifecycle import Run

IGNORED = -100
"""Label of a token without loss."""


def trainer_for(run: Run, trainer_class: type[Any]) -> type[Any]:
    """Return a trainer class whose losses are the same in several processes as in one.

    Args:
        run: the stage's run. For one process the class stays as it is.
        trainer_class: TRL's `SFTTrainer`, `RewardTrainer`, `DPOTrainer` or `KTOTrainer`, or a class of ours on these.
    """
    if run.launched.processes == 1:
        return trainer_class
    return type(trainer_class.__name__, (OverRanks, trainer_class), {})


class OverRanks:
    """A mixin in front of a trainer: a batch is what all processes have at once.

    `eval_loss` is the mean over these batches of the mean over a batch's tokens with loss, where it has `labels`, else
    over its rows, as one process with as large batches has it.
    """

    accelerator: Any
    args: Any

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss of the whole batch in every process, and whatever the trainer returns beside it."""
        import torch

        inputs, weight = weighed(inputs, self._own_rows(), self.args.per_device_eval_batch_size)
        loss, *others = super().prediction_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        part = [loss.item() * weight if weight else 0.0, weight]  # a mean over nothing is no number
        total, weights = self.accelerator.reduce(torch.tensor(part, device=loss.device, dtype=torch.float64)).tolist()
        return (loss.new_tensor(total / weights), *others)

    def _own_rows(self) -> int | None:
        """Count this process's rows in a last batch that is not full; None for a full one.

        Accelerate hands a batch out in the order of ranks.
        """
        state = self.accelerator.gradient_state
        if not state.end_of_dataloader or state.remainder <= 0:
            return None
        size = self.args.per_device_eval_batch_size
        return min(max(state.remainder - self.accelerator.process_index * size, 0), size)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, *others: Any, **named: Any) -> Any:
        """Prepare rows as the trainer does; KTO, which pairs prompts and answers within a batch, by the whole batch."""
        together = copy.copy(args)
        together.per_device_train_batch_size = args.per_device_train_batch_size * args.world_size
        return super()._prepare_dataset(dataset, processing_class, together, *others, **named)  # type: ignore[misc]


def weighed(inputs: dict[str, Any], rows: int | None, size: int) -> tuple[dict[str, Any], int]:
    """Take what only fills up a batch out of its loss, and weigh the rest.

    Tokens lose their label. Rows without labels are replaced by the batch's own, in turn, so that all processes keep
    batches of one size; a row may count twice then, within this part of the last batch.

    Args:
        inputs: tensors `(size, …)`, or `(2 · size, …)` of pairs, whose chosen sides come first. Others (patches of
            pictures, rows that are joined) are left as they are, and so is then the whole batch.
        rows: how many of the rows count, from the first; None for all.
        size: rows of a batch.

    Returns:
        The batch, and its weight: tokens with loss where there are `labels`, else rows.
    """
    if "labels" in inputs:
        labels = inputs["labels"].clone()
        if rows is not None:
            labels[rows:] = IGNORED
        return {**inputs, "labels": labels}, int((labels[:, 1:] != IGNORED).sum())
    if rows is None:
        return inputs, size
    if rows and all(len(value) in (size, 2 * size) for value in inputs.values()):
        own = [i % rows for i in range(size)]
        pair = [*own, *(size + i for i in own)]
        inputs = {key: value[own if len(value) == size else pair] for key, value in inputs.items()}
    return inputs, rows
