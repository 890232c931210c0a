"""The training prompts of a set that leave room for whole answers, with the record of those that do not."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.models.multimodal import tokenizer_of
from tasks.stage.audit_record import Record
from tasks.stage.data_folder import split_file
from tasks.stage.lifecycle import Run
from tasks.stage.trainer_config import TrlConfig
from tasks.training import audit, pictured, rows

View = Callable[[dict[str, Any]], dict[str, Any]]
"""A row to the row that is measured in its place."""


def fitting_prompts(
    config: TrlConfig,
    run: Run,
    part: str,
    data: Path,
    reader: Any,
    limit: audit.Limit,
    chat_template_args: Mapping[str, Any],
    view: View = dict,
) -> tuple[Any, Record]:
    """Read the training prompts of the recipe's `dataset` that leave room for an answer.

    Args:
        config: the stage's configuration.
        run: the stage's run.
        part: name of the record, for the warning.
        data: data artifact.
        reader: tokenizer of the model that answers, or its processor.
        limit: most tokens of a prompt.
        chat_template_args: passed to the chat template.
        view: a row to the row whose `prompt` is measured in its place.

    Returns:
        A `datasets.Dataset`, and the record for `audit.json`.

    Raises:
        DataError: no such set, or more of its prompts leave no room than the recipe allows.
        ConfigError: the rows have pictures, and the model takes none.
    """
    source = (config.dataset, split_file(data, config.dataset, "train"))
    viewed = [view(row) for row in rows.read(data, config.dataset, "train")]
    measured = pictured.counted(run, viewed, reader, source[1], data)
    record, numbers = audit.asked(config, run, part, measured, source, tokenizer_of(reader), limit, chat_template_args)
    dataset = rows.prompt_dataset(data, config.dataset, "train")
    return dataset.select(numbers) if record["left_out"] else dataset, record
