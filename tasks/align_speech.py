"""Alignment of speech: a language model is given ears, and what they hear is brought into its embedding space.

One raw row: {"messages": […], "audio": ["51f2….flac"], "label": "3 + 5"}

An encoder and a projector are put in front of the language model (`tasks/multimodal/speech_architecture.py`) and
trained to spell the rows' `label` by connectionist temporal classification (Graves et al., 2006), whose last layer is
the model's own embedding matrix: each frame has to be near to the embedding of the unit that is said in it, or to that
of the blank. So a sound reaches the model in its own terms, before it has heard one; it learns to answer in `speech`.
The language model itself learns nothing here.

Matrices are trained by Muon and the rest by AdamW, as `base` does. What it leaves out: alignment by the language
model's loss, which `speech` does where its `trained:` names the projector alone.
"""

import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tasks.multimodal.speech_settings import SpeechArchitecture, SpeechAugmentation
from tasks.stage import artifact
from tasks.stage.config import StageConfig, Strict
from tasks.stage.data_folder import split_file
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run, stage
from tasks.training import rows as training_rows

log = logging.getLogger("polm")

CHECKPOINT = "align.ckpt"
WARMUP = 20
"""Steps in which the learning rates rise."""


class Rates(Strict):
    """The section `learning_rate:`, at its peak; it falls to a fiftieth by half a cosine."""

    muon: float = Field(gt=0)
    """Of the matrices."""
    adamw: float = Field(gt=0)
    """Of everything else."""


class Config(StageConfig):
    """`params/<recipe>/align_speech.yaml`."""

    dataset: str
    """Set of the data artifact whose rows have one sound and a `label`; each sound is learnt once."""
    device: str
    """Where it is trained: `cpu`, `cuda`."""
    architecture: SpeechArchitecture
    """What is put in front of the language model."""
    units: Literal["words", "tokens"]
    """What a frame spells: words of the label, each by the mean of its tokens' embeddings, or the tokens themselves."""
    blank: str
    """Token of the language model whose embedding stands for no unit, e.g. `<|pad|>`."""
    trained: list[Literal["encoder", "projector"]] = Field(min_length=1)
    """Parts that learn."""
    steps: int = Field(gt=0)
    """Steps of the optimizers."""
    batch_size: int = Field(gt=0)
    """Sounds a step."""
    learning_rate: Rates
    """Of the two optimizers."""
    weight_decay: float = Field(ge=0)
    """Of both."""
    augmentation: SpeechAugmentation
    """Random changes of the sounds."""
    checkpoint_steps: int = Field(gt=0)
    """Steps between checkpoints."""


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Write a model folder with `metrics.json` (word error rate on validation rows) and `curves.jsonl`."""
    with run.timed("import"):
        from tasks.models.multimodal import save_multimodal
        from tasks.multimodal import ctc, hearing, speech_architecture
        from tasks.multimodal.images import Archive
    listener, processor = speech_architecture.build(model, config.architecture, run.params_file, config.seed)
    archive = Archive(data)
    parts = {split: _labelled(data, config.dataset, split) for split in ("train", "validation")}
    blank = processor.tokenizer.convert_tokens_to_ids(config.blank)
    if blank is None or processor.tokenizer.convert_ids_to_tokens(blank) != config.blank:
        raise ConfigError(f"{run.params_file}: blank is '{config.blank}', no token of {model}")
    units = ctc.Units([row["label"] for row in parts["train"]], config.units, blank, listener, processor.tokenizer)
    _warn(run.params_file, units, [row["label"] for row in parts["validation"]])
    sounds = {
        split: [hearing.heard(archive, row["audio"][0], processor) for row in rows] for split, rows in parts.items()
    }
    for split, rows in parts.items():
        for row, sound in zip(rows, sounds[split], strict=True):
            _check(row["place"], units.split(row["label"]), sound, processor)
    listener.to(config.device)
    curve = _train(config, listener, processor, units, sounds["train"], [row["label"] for row in parts["train"]], run)
    ctc.rescale(listener.eval(), processor, units, sounds["validation"])
    rate = ctc.error_rate(listener, processor, units, sounds["validation"], parts["validation"])
    artifact.write_jsonl(run.out / "curves.jsonl", curve)
    figures = {
        "parameters": sum(p.numel() for p in listener.parameters()),
        "trainable_parameters": sum(p.numel() for p in _learnt(config, listener)),
        "units": len(units.names),
        "sounds": len(sounds["train"]),
    }
    artifact.write_json(run.out / "metrics.json", {"steps": config.steps, "validation_wer": rate, **figures})
    save_multimodal(listener.cpu(), processor, run.out)


def _labelled(data: Path, name: str, split: str) -> list[dict[str, Any]]:
    """Read rows with a label and one sound, one row of each sound. Raises DataError where a row has not."""
    by_sound: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(training_rows.read(data, name, split), 1):
        label = row.get("label")
        place = f"{split_file(data, name, split)}:{number}"
        if len(row.get("audio") or ()) != 1 or not isinstance(label, str) or not label.strip():
            raise DataError(
                f"{place}: alignment needs rows of one sound and a text `label`; map both in the data, or name another "
                f"`dataset`"
            )
        known = by_sound.setdefault(row["audio"][0], {**row, "place": place})
        if known["label"] != label:
            raise DataError(
                f"{place}: the label is '{label}', and another row of the same sound has '{known['label']}'"
            )
    return list(by_sound.values())


def _check(place: str, spelt: list[Any], sound: Any, processor: Any) -> None:
    """Raise DataError for a sound that its label cannot be learnt of. A unit said twice needs a blank between."""
    from tasks.multimodal import hearing

    extractor = processor.feature_extractor
    if len(sound) > extractor.n_samples:
        raise DataError(
            f"{place}: its sound lasts {len(sound) / extractor.sampling_rate:.1f} s, and the encoder hears "
            f"{extractor.chunk_length} s at once; leave the row out, or raise architecture.features.chunk_seconds"
        )
    room = hearing.counted(processor, [sound], place)
    needed = len(spelt) + sum(unit == before for unit, before in zip(spelt[1:], spelt, strict=False))
    if needed > room:
        raise DataError(
            f"{place}: the label has {len(spelt)} units, which take {needed} frames, and there is room for {room}; is "
            f"it the label of this sound?"
        )


def _warn(where: Path, units: Any, validation: list[str]) -> None:
    """Name what no training will make the ears spell: units of one embedding, and units of validation rows alone."""
    if alike := units.alike():
        named = "; ".join(" and ".join(group) for group in alike[:3])
        log.warning(
            "%s: units of labels have one embedding, and cannot be told apart: %s%s; choose other `units`, or another "
            "`blank`", where, named, f" and {len(alike) - 3} more" if len(alike) > 3 else "",
        )  # fmt: skip
    if new := units.unknown(validation):
        log.warning(
            "%s: %d units of the validation labels are in no training label, and count as errors: %s",
            where, len(new), ", ".join(map(repr, new[:5])),
        )  # fmt: skip


def _learnt(config: Config, model: Any) -> list[Any]:
    """List the weights that learn."""
    parts = {"encoder": model.model.audio_tower, "projector": model.model.multi_modal_projector}
    return [weight for name in config.trained for weight in parts[name].parameters()]


def _train(
    config: Config, model: Any, processor: Any, units: Any, sounds: list[Any], labels: list[str], run: Run
) -> list[dict[str, Any]]:
    """Train encoder and projector, from the last checkpoint of these inputs; return the curve."""
    import numpy as np
    import torch

    from tasks.base_models.muon import Muon
    from tasks.multimodal import alignment, ctc
    from tasks.multimodal.speech_augmentation import changed

    weights = _learnt(config, model)
    matrices = [weight for weight in weights if weight.ndim == 2]
    others = [weight for weight in weights if weight.ndim != 2]
    optimizers = {
        "muon": Muon(matrices, config.learning_rate.muon, config.weight_decay),
        "adamw": torch.optim.AdamW(others, config.learning_rate.adamw, weight_decay=config.weight_decay),
    }
    order = torch.Generator().manual_seed(config.seed)
    numbers = list(alignment.batches(len(sounds), config.batch_size, config.steps, order))
    start, curve = _restore(run.checkpoints / CHECKPOINT, model, optimizers)
    rate, longest = processor.feature_extractor.sampling_rate, processor.feature_extractor.n_samples
    model.train()
    for step in range(start, config.steps):
        chosen = numbers[step].tolist()
        # Generators of each step's own: a resumed run draws the same changes.
        rngs = [np.random.default_rng([config.seed, step, place]) for place in range(len(chosen))]
        batch = [
            changed(sounds[i], rate, longest, config.augmentation, rng) for i, rng in zip(chosen, rngs, strict=True)
        ]
        features, frames = ctc.spectrograms(processor, batch)
        features = ctc.masked(features, frames, config.augmentation, rngs).to(config.device)
        loss = units.loss(*ctc.scores(model, features, frames, units), [labels[i] for i in chosen])
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        share = min(1.0, (step + 1) / WARMUP) * max(0.02, 0.5 + 0.5 * float(np.cos(np.pi * step / config.steps)))
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = share * getattr(config.learning_rate, name)
            optimizer.step()
        done = step + 1
        if done % 10 == 0 or done == config.steps:
            curve.append({"step": done, "loss": round(loss.item(), 6)})
            run.progress.update(done, config.steps, "aligning", loss=loss.item())
        if done % config.checkpoint_steps == 0 and done < config.steps:
            _save(run.checkpoints, {"step": done, "curve": curve}, model, optimizers)
    if not all(torch.isfinite(weight).all() for weight in weights):
        raise DataError(f"{run.params_file}: training diverged, weights are not finite; lower learning_rate")
    return curve


def _save(folder: Path, state: dict[str, Any], model: Any, optimizers: dict[str, Any]) -> None:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    parts = {"model": model.state_dict(), **{name: optimizer.state_dict() for name, optimizer in optimizers.items()}}
    torch.save({**state, **parts}, folder / "align.tmp")
    (folder / "align.tmp").rename(folder / CHECKPOINT)


def _restore(path: Path, model: Any, optimizers: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """Read the step to start from and the curve so far. The checkpoint is our own, still read with `weights_only`."""
    import torch

    if not path.exists():
        return 0, []
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state[name])
    return state["step"], state["curve"]


if __name__ == "__main__":
    stage(main, Config)
