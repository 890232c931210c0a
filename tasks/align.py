"""Alignment: a language model is given eyes, and what they see is brought into its embedding space.

One raw row: {"messages": […], "images": ["51f2….png"], "label": "7"}

An encoder and a projector are put in front of the language model (`tasks/multimodal/architecture.py`) and trained as a
classifier of the rows' `label` whose last layer is the model's own embedding matrix (`tasks/multimodal/alignment.py`
says why). The language model itself learns nothing here: after this stage it is given pictures in its own terms, and
has not been taught to talk about them; that is `vlm`. What it leaves out: alignment by the language model's loss, which
`vlm` does where its `trained:` names the projector alone.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.multimodal.settings import Architecture, Augmentation
from tasks.stage import artifact
from tasks.stage.config import StageConfig
from tasks.stage.data_folder import split_file
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run, stage
from tasks.training import rows as training_rows

CHECKPOINT = "align.ckpt"


class Config(StageConfig):
    """`params/<recipe>/align.yaml`."""

    dataset: str
    """Set of the data artifact whose rows have one picture and a `label`."""
    device: str
    """Where it is trained: `cpu`, `cuda`."""
    architecture: Architecture
    """What is put in front of the language model."""
    steps: int = Field(gt=0)
    """Steps of the optimizer."""
    batch_size: int = Field(gt=1)
    """Pictures a step."""
    learning_rate: float = Field(gt=0)
    """Of AdamW at its peak; it warms up and falls to 0 (one cycle)."""
    weight_decay: float = Field(ge=0)
    """Of AdamW."""
    augmentation: Augmentation
    """Random changes of the pictures."""
    checkpoint_steps: int = Field(gt=0)
    """Steps between checkpoints."""


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Write a model folder with `metrics.json` (accuracy on validation rows) and `curves.jsonl`."""
    with run.timed("import"):
        import torch

        from tasks.models.multimodal import keep_statistics, save_multimodal
        from tasks.multimodal import alignment, architecture
        from tasks.multimodal.images import Archive
    sight, processor = architecture.build(model, config.architecture, run.params_file, config.seed)
    archive = Archive(data)
    parts = {split: _labelled(data, config.dataset, split) for split in ("train", "validation")}
    labels = sorted({row["label"] for row in parts["train"]})
    if len(labels) < 2:
        raise DataError(f"{split_file(data, config.dataset, 'train')}: only one label, {labels}; nothing to tell apart")
    sight.to(config.device)
    vectors = alignment.class_vectors(sight, processor.tokenizer, labels)
    if pair := alignment.alike(vectors):
        a, b = (labels[i] for i in pair)
        raise DataError(
            f"{split_file(data, config.dataset, 'train')}: labels '{a}' and '{b}' are of the same tokens, whose order "
            f"alignment does not see; map a `label` of one word in data.yaml"
        )
    images = {split: _pixels(processor, archive, rows).to(config.device) for split, rows in parts.items()}
    targets = {
        split: torch.tensor([labels.index(row["label"]) if row["label"] in labels else -1 for row in rows])
        for split, rows in parts.items()
    }
    curve = _train(config, sight, vectors, images["train"], targets["train"].to(config.device), run)
    keep_statistics(sight)
    with torch.no_grad():
        guesses = torch.cat(
            [alignment.scores(sight.eval(), chunk, vectors).argmax(dim=1) for chunk in images["validation"].split(256)]
        )
    right = (guesses.cpu() == targets["validation"]).double().mean().item()
    artifact.write_jsonl(run.out / "curves.jsonl", curve)
    parameters = {
        "parameters": sum(p.numel() for p in sight.parameters()),
        "trainable_parameters": sum(p.numel() for p in _learnt(sight)),
    }
    artifact.write_json(
        run.out / "metrics.json",
        {"steps": config.steps, "labels": len(labels), "validation_accuracy": round(right, 4), **parameters},
    )
    save_multimodal(sight.cpu(), processor, run.out)


def _labelled(data: Path, name: str, split: str) -> list[dict[str, Any]]:
    """Read rows with a label and one picture. Raises DataError where a row has not."""
    rows = training_rows.read(data, name, split)
    for number, row in enumerate(rows, 1):
        label = row.get("label")
        if len(row.get("images") or ()) != 1 or not isinstance(label, str) or not label.strip():
            raise DataError(
                f"{split_file(data, name, split)}:{number}: alignment needs rows of one picture and a text `label`; "
                f"map both in data.yaml, or name another `dataset`"
            )
    return rows


def _pixels(processor: Any, archive: Any, rows: list[dict[str, Any]]) -> Any:
    """Return the pictures as the encoder takes them, `[rows, 3, height, width]`."""
    import torch

    chunks = [rows[start : start + 256] for start in range(0, len(rows), 256)]
    return torch.cat(
        [
            processor.image_processor(images=[archive.image(row["images"][0]) for row in chunk], return_tensors="pt")[
                "pixel_values"
            ]
            for chunk in chunks
        ]
    )


def _learnt(model: Any) -> list[Any]:
    """List the weights of encoder and projector."""
    return [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]


def _train(config: Config, model: Any, vectors: Any, pixels: Any, targets: Any, run: Run) -> list[dict[str, Any]]:
    """Train encoder and projector, from the last checkpoint of these inputs; return the curve."""
    import torch

    from tasks.multimodal import alignment

    weights = _learnt(model)
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    order = torch.Generator().manual_seed(config.seed)
    numbers = list(alignment.batches(len(targets), config.batch_size, config.steps, order))
    start, curve = _restore(run.checkpoints / CHECKPOINT, model, optimizer, schedule)
    model.train()
    for step in range(start, config.steps):
        # A generator of each step's own: a resumed run draws the same changes.
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        chosen = numbers[step]
        batch = alignment.augmented(pixels[chosen].cpu(), config.augmentation, generator).to(pixels.device)
        logits = alignment.scores(model, batch, vectors)
        loss = torch.nn.functional.cross_entropy(logits, targets[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        done = step + 1
        if done % 10 == 0 or done == config.steps:
            right = (logits.argmax(dim=1) == targets[chosen]).double().mean().item()
            curve.append({"step": done, "loss": round(loss.item(), 6), "accuracy": round(right, 4)})
            run.progress.update(done, config.steps, "aligning", loss=loss.item(), accuracy=right)
        if done % config.checkpoint_steps == 0 and done < config.steps:
            _save(run.checkpoints, {"step": done, "curve": curve}, model, optimizer, schedule)
    if not all(torch.isfinite(weight).all() for weight in weights):
        raise DataError(f"{run.params_file}: training diverged, weights are not finite; lower learning_rate")
    return curve


def _save(folder: Path, state: dict[str, Any], model: Any, optimizer: Any, schedule: Any) -> None:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    torch.save({**state, **parts}, folder / "align.tmp")
    (folder / "align.tmp").rename(folder / CHECKPOINT)


def _restore(path: Path, model: Any, optimizer: Any, schedule: Any) -> tuple[int, list[dict[str, Any]]]:
    """Read the step to start from and the curve so far. The checkpoint is our own, still read with `weights_only`."""
    import torch

    if not path.exists():
        return 0, []
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return state["step"], state["curve"]


if __name__ == "__main__":
    stage(main, Config)
