"""Parts of pruning: the weights that may go, the influence of each block, and training that keeps the zeros."""

from pathlib import Path
from typing import Any

from tasks.stage.lifecycle import Run
from tasks.training import ranks
from tasks.training import rows as training_rows


def matrices(model: Any) -> dict[str, Any]:
    """Return the weights of the linear layers in the blocks, by name; the embedding and the head are never pruned."""
    import torch

    blocks = model.get_decoder().layers
    return {
        f"{i}.{name}": module.weight
        for i, block in enumerate(blocks)
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def cut_smallest(matrix: Any, share: float) -> None:
    """Set that share of a matrix's weights to zero, those of least size, in place; ties fall in order of place."""
    import torch

    with torch.no_grad():
        order = matrix.abs().flatten().argsort(stable=True)
        matrix.view(-1)[order[: round(share * matrix.numel())]] = 0.0


def block_influence(model: Any, rows: list[list[int]]) -> list[float]:
    """Return ShortGPT's block influence (arXiv:2403.03853, eq. 1): 1 - mean cosine of each token before and after.

    Args:
        model: a decoder, on its device.
        rows: token ids.

    Returns:
        One number a block, from 0 (the block does nothing) to 2.
    """
    import torch

    blocks = model.get_decoder().layers
    cosine_sums = [0.0] * len(blocks)
    tokens = sum(map(len, rows))

    def watch(place: int) -> Any:
        def hook(_block: Any, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            cosine_sums[place] += float(torch.cosine_similarity(before, after, dim=-1).double().sum())

        return hook

    hooks = [block.register_forward_hook(watch(i), with_kwargs=True) for i, block in enumerate(blocks)]
    with torch.inference_mode():
        for ids in rows:
            model(torch.tensor([ids], device=model.device))
    for hook in hooks:
        hook.remove()
    return [1 - total / tokens for total in cosine_sums]


def healer(
    run: Run, arguments: Any, dataset: str, policy: Any, tokenizer: Any, data: Path, dense: Any, weight: float
) -> Any:
    """Make a trainer that keeps the zeros of the model it is given.

    Args:
        run: the stage's run.
        arguments: `trl.SFTConfig`.
        dataset: set of the data artifact to train on.
        policy: the pruned model.
        tokenizer: its tokenizer.
        data: data artifact.
        dense: the model before pruning, which teaches; None for plain fine-tuning.
        weight: share of the teacher's divergence in the loss (`tasks/compression/distillation.py`), above 0 where
            there is a teacher.

    Returns:
        `trl.SFTTrainer`.
    """
    from transformers import TrainerCallback
    from trl import SFTTrainer

    from tasks.compression.distillation import Distillation

    masks = [(matrix, matrix.detach() != 0) for matrix in matrices(policy).values() if bool((matrix == 0).any())]

    class KeepZeros(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for matrix, mask in masks:
                matrix.data.mul_(mask)

    common = {
        "model": policy,
        "args": arguments,
        "processing_class": tokenizer,
        "callbacks": [KeepZeros()],
        "train_dataset": training_rows.examples(data, dataset, "train"),
        "eval_dataset": training_rows.examples(data, dataset, "validation"),
    }
    if dense is None:
        return ranks.trainer_for(run, SFTTrainer)(**common)
    return ranks.trainer_for(run, Distillation)(
        **common,
        teacher=dense,
        teacher_weight=weight,
        beta=0.0,
        temperature=1.0,
        on_policy=0.0,
        sampling=None,
    )


def sparsity(model: Any) -> dict[str, Any]:
    """Return the share of zeros in each of the `kinds` of matrix (q_proj, …), in all `matrices`, in `all_weights`."""
    zeros: dict[str, list[int]] = {}
    for name, matrix in matrices(model).items():
        counts = zeros.setdefault(name.rsplit(".", 1)[-1], [0, 0])
        counts[0] += int((matrix == 0).sum())
        counts[1] += matrix.numel()
    total = sum(count for count, _ in zeros.values())
    return {
        "kinds": {kind: round(count / size, 6) for kind, (count, size) in zeros.items()},
        "matrices": round(total / sum(size for _, size in zeros.values()), 6),
        "all_weights": round(total / sum(p.numel() for p in model.parameters()), 6),
    }
