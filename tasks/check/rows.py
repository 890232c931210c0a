"""The rows of a recipe whose data are made, against the limits of its training files, before any of them is trained on.

A stage counts all its rows (`tasks/training/audit.py`); this is the look that costs little: of each set the rows with
the most characters are tokenised, enough of them to see that more are too long than the recipe allows. What is found is
a lower bound, so that no recipe is refused which its stages would take. What a stage makes itself (judgements, a
teacher's answers, labels) is not there yet, and validation rows are left to the stage.
"""

from pathlib import Path
from typing import Any

from tasks.check.files import Recipe
from tasks.models.chat_template import mark_generation
from tasks.models.folder import load_tokenizer
from tasks.self_training.rounds import RoundsConfig
from tasks.stage import artifact, recipe
from tasks.stage.config import digest
from tasks.stage.data_folder import split_file
from tasks.stage.errors import DataError, PolmError
from tasks.stage.trainer_config import TrlConfig
from tasks.training import audit
from tasks.training import fates as row_fates
from tasks.training import rows as training_rows
from tasks.training.audit import Limit
from tasks.training.fates import Fate, Rows

DATA, BASE = Path("artifacts/data"), Path("artifacts/models/base")
FIRST = 32
"""Rows of a set that are looked at; more only where one of them is too long."""


def check(under_check: Recipe) -> list[str]:
    """Check the training files of a recipe against its rows: those of the models that learn from its `data`.

    Returns:
        What is wrong, one message a file; nothing where data or base model are not made yet, or by other settings.
    """
    folder = under_check.folder
    if not made_by(under_check):
        return []
    models = under_check.graph.models.items()
    others = {f"{name}.yaml" for name, model in models if recipe.DATA_KEY in model.values}
    try:
        tokenizer = load_tokenizer(BASE)
        mark_generation(tokenizer, BASE)
    except PolmError:  # the stages say what is wrong with it
        return []
    errors = []
    for name, module, config in under_check.trained():
        if name not in others and getattr(module, "row_rule", None) is not None:
            path = split_file(DATA, config.dataset, "train")
            if not path.exists() or not path.stat().st_size:  # the stage says so
                continue
            try:
                found = _too_long(config, folder / name, module.trainer_class(), module.row_rule, tokenizer)
            except DataError as e:
                found = f"{folder / name}: {path}: {e}"
            errors += [found] if found else []
    return errors


def made_by(under_check: Recipe) -> bool:
    """Whether data and base model are those of this recipe's files."""
    if not all((folder / artifact.MANIFEST).exists() for folder in (DATA, BASE)):
        return False
    files = [under_check.configs.get(name) for name in ("data.yaml", "base.yaml")]
    made = [artifact.read_manifest(folder) for folder in (DATA, BASE)]
    asked = [None if config is None else digest(config) for config in files]
    return [manifest.params for manifest in made] == asked and made[1].inputs["data"] == made[0].digest


def _too_long(config: TrlConfig, path: Path, config_class: type[Any], rule: Any, tokenizer: Any) -> str | None:
    """The message for a file whose training rows do not fit it."""
    rows = training_rows.read(DATA, config.dataset, "train")
    longest = sorted(rows, key=lambda row: len(str(row)), reverse=True)
    fates, limit = _fates_of(config, config_class, rule, longest[:FIRST], tokenizer)
    if all(fate.state == "used" for fate in fates):
        return None
    most = max(config.max_left_out, config.max_cut)
    longest = longest[: FIRST + round(2 * most * len(rows))]
    fates, limit = _fates_of(config, config_class, rule, longest, tokenizer)
    record = {**audit.count(longest, fates, config.dataset, limit), "rows": len(rows)}
    refused = audit.excess(config, path, record, limit)
    source = split_file(DATA, config.dataset, "train")
    remedy = f"where the sources have changed since, delete {DATA}"
    return f"{path}: of {source} at least {refused}; {remedy}" if refused else None


def _fates_of(
    config: TrlConfig, config_class: type[Any], rule: Any, rows: Rows, tokenizer: Any
) -> tuple[list[Fate], Limit]:
    """Return what becomes of the rows in the stage, and their limit. `rule` is the stage's `row_rule`."""
    if isinstance(config, RoundsConfig):
        limit = audit.longest_prompt(BASE, config.sampling.max_new_tokens, "sampling.max_new_tokens")
        return row_fates.prompts(rows, tokenizer, limit.tokens, config.chat_template_args), limit
    values = row_fates.settings(config.trainer, config_class)
    if rule is not row_fates.prompts:
        return rule(rows, tokenizer, values), audit.longest_row(config.trainer, config_class)
    limit = audit.longest_prompt(BASE, values["max_completion_length"] or 1, "trainer.max_completion_length")
    return row_fates.prompts(rows, tokenizer, limit.tokens, config.trainer.get("chat_template_kwargs") or {}), limit
