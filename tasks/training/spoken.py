"""Rows with sounds as a trainer is given them: audited before the first step, changed at random, and collated.

The audit is the one of the other trainers (`tasks/training/audit.py`): nothing is cut here, so a row is used whole, or
the stage stops before the model has learnt anything.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback

from tasks.multimodal import hearing
from tasks.multimodal.images import Archive
from tasks.multimodal.sounds import AUDIO
from tasks.multimodal.speech_augmentation import changed, masked
from tasks.multimodal.speech_settings import SpeechAugmentation
from tasks.stage.audit_record import Record
from tasks.stage.data_folder import split_file
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run
from tasks.stage.trainer_config import TrlConfig
from tasks.training import audit, fates
from tasks.training import rows as training_rows
from tasks.training.fates import Fate

Rows = list[dict[str, Any]]


def audited(config: TrlConfig, run: Run, data: Path, processor: Any, model: Path) -> dict[str, Rows]:
    """Read both splits of the recipe's `dataset`, one row for each answer that is learnt, and write `audit.json`.

    Args:
        config: the stage's configuration.
        run: the stage's run.
        data: data artifact.
        processor: of the model.
        model: folder of the model that is trained.

    Returns:
        Split to rows of `prompt`, `completion` and `audio`.

    Raises:
        ConfigError: the model takes no sounds.
        DataError: a row has not one sound that can be heard whole, spells the token that stands for one, or is beyond
            the model's context.
    """
    if not hearing.hears(processor):
        raise ConfigError(f"{run.params_file}: {model} takes no sounds; take a model that `align_speech` made")
    archive = Archive(data)
    records: dict[str, Record] = {}
    splits: dict[str, Rows] = {}
    most = audit.context(model)
    lengths: dict[str, int] = {}
    for split in ("train", "validation"):
        path = split_file(data, config.dataset, split)
        rows = training_rows.read(data, config.dataset, split)
        _check(rows, processor, path)
        for number, row in enumerate(rows, 1):
            name = row[AUDIO][0]
            if name not in lengths:
                sound = hearing.heard(archive, name, processor)
                lengths[name] = hearing.counted(processor, [sound], f"{path}:{number}")
        plain = {"max_length": None, "packing": False, "packing_strategy": "bfd", "truncation_mode": "keep_start"}
        words = fates.answers(rows, processor.tokenizer, plain)
        sized = [Fate(fate.tokens + lengths[row[AUDIO][0]], "used") for fate, row in zip(words, rows, strict=True)]
        limit = audit.Limit(None, "no limit", "shorten the rows")
        records[split] = audit.count(rows, sized, config.dataset, limit)
        longest = max(sized).tokens
        if most is not None and longest > most:
            raise DataError(
                f"{path}: rows of up to {longest} tokens would be trained on, and the context of {model} is {most}; "
                f"leave longer sounds out of the data"
            )
        splits[split] = [{**piece, AUDIO: row[AUDIO]} for row in rows for piece in training_rows.answers(row)]
    audit.write(run, records)
    return splits


def _check(rows: Sequence[Mapping[str, Any]], processor: Any, path: Path) -> None:
    """Raise DataError for a row that no sound can be learnt of."""
    for number, row in enumerate(rows, 1):
        if len(row.get(AUDIO) or ()) != 1:
            raise DataError(f"{path}:{number}: has {len(row.get(AUDIO) or ())} sounds; `speech` needs one in each row")
        for text in (turn["content"] for side in fates.sides(row) for turn in side):
            if processor.audio_token in text:
                raise DataError(
                    f"{path}:{number}: a text has '{processor.audio_token}', which stands for a sound in what the "
                    f"model reads; take it out of the data: the sound is put before the first question"
                )


class Answers(torch.utils.data.Dataset[dict[str, Any]]):
    """Answers to be learnt, with their sounds, which are decoded and changed when an item is read."""

    def __init__(
        self, rows: Rows, processor: Any, data: Path, augmentation: SpeechAugmentation | None, seed: int
    ) -> None:
        """Render the rows.

        Args:
            rows: of `prompt`, `completion` and `audio`.
            processor: of the model.
            data: data artifact with the sounds.
            augmentation: changes of the sounds; None leaves them as they are.
            seed: of the changes.
        """
        self._archive = Archive(data)
        self._processor = processor
        self._augmentation = augmentation
        self._seed = seed
        self._epoch = 0
        self._names = [row[AUDIO][0] for row in rows]
        self._texts = []
        for row in rows:
            turns = hearing.conversation([*row["prompt"], *row["completion"]], 1)
            asked = len(row["prompt"])
            prompt = processor.apply_chat_template(turns[:asked], add_generation_prompt=True, tokenize=False)
            self._texts.append((prompt, processor.apply_chat_template(turns, tokenize=False)))

    def begin(self, epoch: int) -> None:
        """Draw the changes of an epoch, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return `sound` (at the model's rate), the texts `prompt` and `whole`, and `rng`, which changes it further."""
        rng = None
        sound = hearing.heard(self._archive, self._names[number], self._processor)
        if self._augmentation is not None:
            rng = np.random.default_rng([self._seed, self._epoch, number])
            extractor = self._processor.feature_extractor
            other = changed(sound, extractor.sampling_rate, extractor.n_samples, self._augmentation, rng)
            if hearing.tokens(self._processor, [other]):  # a sound of one token, made faster, may become none
                sound = other
        prompt, whole = self._texts[number]
        return {"sound": sound, "prompt": prompt, "whole": whole, "rng": rng}


class Collator:
    """Makes the tensors of a batch, with `labels` on the answers alone."""

    def __init__(self, processor: Any, augmentation: SpeechAugmentation | None) -> None:
        """Args: processor: of the model; augmentation: changes of the spectrograms of rows that are learnt."""
        self._processor = processor
        self._augmentation = augmentation

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate items of `Answers`."""
        sounds = [item["sound"] for item in items]
        batch = hearing.encoded(self._processor, [item["whole"] for item in items], sounds, "right")
        rngs = [item["rng"] for item in items if item["rng"] is not None]
        if self._augmentation is not None and rngs:
            lengths = batch["input_features_mask"].sum(dim=1).tolist()
            if len(lengths) == len(items):  # else some sound takes several chunks
                batch["input_features"] = masked(batch["input_features"], lengths, self._augmentation, rngs)
        labels = batch["input_ids"].clone()
        labels[batch["attention_mask"] == 0] = -100
        labels[labels == self._processor.audio_token_id] = -100
        for row, mask, item in zip(labels, batch["attention_mask"], items, strict=True):
            row[: int(mask.sum()) - _learnt(self._processor.tokenizer, item["prompt"], item["whole"])] = -100
        return {**batch, "labels": labels}


class Epochs(TrainerCallback):
    """Tells rows at which epoch the training is, also where it is resumed and where it has several processes.

    There accelerate calls the `set_epoch` of a sampler, and not that of a data set.
    """

    def __init__(self, answers: Answers) -> None:
        """Args: answers: the rows that are learnt."""
        self._answers = answers

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on to the epoch that begins, or that is taken up again."""
        self._answers.begin(int(state.epoch or 0))


class WholeTrainer(Trainer):
    """`Trainer` that goes on from the weights of a checkpoint, whatever the architecture.

    transformers writes the weights of some architectures, GLM-ASR's among them, under other names than the model has;
    `Trainer` looks for the model's, finds none, warns, and goes on from the weights that the run began with.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        loaded = model or self.model
        if not isinstance(loaded, PreTrainedModel):  # an adapter, whose names stay
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        kept = type(loaded).from_pretrained(resume_from_checkpoint, dtype=loaded.dtype, use_safetensors=True)
        loaded.load_state_dict(kept.state_dict())


def _learnt(tokenizer: Any, prompt: str, whole: str) -> int:
    """Count the last tokens of a row that carry loss: all after those that prompt and row begin with alike."""
    asked, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, whole))
    same = 0
    for mine, its in zip(asked, ids, strict=False):
        if mine != its:
            break
        same += 1
    return len(ids) - same


def supervision(answers: Answers, processor: Any) -> dict[str, Any]:
    """Count the tokens that carry loss, and show one row with its mask.

    Returns:
        `rows`, `trained_tokens`, and `example`: runs of text, trained or not.

    Raises:
        DataError: an answer does not begin where its prompt ends, so that none of its tokens can be told apart.
    """
    tokenizer = processor.tokenizer
    trained = 0
    for number in range(len(answers)):
        prompt, whole = answers._texts[number]
        if not whole.startswith(prompt):
            raise DataError(
                "the chat template writes a question otherwise before an answer than where an answer is asked for; "
                "`speech` cannot tell which tokens to learn"
            )
        trained += _learnt(tokenizer, prompt, whole)
    prompt, whole = answers._texts[0]
    example = [{"text": prompt, "trained": False}, {"text": whole[len(prompt) :], "trained": True}]
    return {"rows": len(answers), "trained_tokens": trained, "example": example}
