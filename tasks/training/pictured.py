"""Rows with pictures before they are learnt: the tokens that their pictures take, and settings that do not fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.models.multimodal import tokenizer_of
from tasks.multimodal import images
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run
from tasks.training.fates import IMAGE_TOKENS, Rows, sides

TEXT_ALONE = ("assistant_only_loss", "packing", "padding_free")
"""Keys of `trainer` that TRL takes for rows without pictures alone."""


def counted(run: Run, rows: Rows, reader: Any, source: Path, data: Path) -> Rows:
    """Count the tokens of each row's pictures, in a column of its own; rows without any picture stay as they are.

    Args:
        run: the stage's run.
        rows: of a set.
        reader: tokenizer, or the processor of a model that sees.
        source: file that the rows are from, for messages.
        data: data artifact with the pictures.

    Raises:
        ConfigError: the model takes no pictures.
        DataError: a text spells the token that stands for a picture.
    """
    if not images.has_images(rows):
        return rows
    if tokenizer_of(reader) is reader:
        raise ConfigError(
            f"{run.params_file}: the rows of {source} have pictures, and the model takes none; take one that sees, or "
            f"name another `dataset`"
        )
    for number, row in enumerate(rows, 1):
        for text in (turn["content"] for side in sides(row) for turn in side):
            if reader.image_token in text:
                raise DataError(f"{source}:{number}: {images.spelt(reader)}")
    archive = images.Archive(data)
    return [{**row, IMAGE_TOKENS: images.tokens(reader, row, archive)} for row in rows]


def check_trainer(run: Run, trainer: Mapping[str, Any], longest: int | None) -> None:
    """Refuse settings that rows with pictures cannot have.

    Args:
        run: the stage's run.
        trainer: the recipe's `trainer:`.
        longest: `max_length` of the trainer, in tokens.

    Raises:
        ConfigError: rows would be cut, packed, or learnt by a mask that there is none of.
    """
    if longest is not None:
        raise ConfigError(
            f"{run.params_file}: trainer.max_length is {longest}, which would cut pictures in two; set it to null, and "
            f"leave long rows out of the data"
        )
    for key in TEXT_ALONE:
        if trainer.get(key):
            raise ConfigError(f"{run.params_file}: trainer.{key} is for rows of text alone; set it to false")
