"""The folder of a base model, as the stage `base` will take it or refuse it, without its weights being loaded."""

from pathlib import Path

from tasks.models import checks
from tasks.models.folder import check_folder
from tasks.models.multimodal import is_multimodal


def check_base(folder: Path) -> None:
    """Refuse a folder that the stage `base` would refuse.

    Raises:
        ModelError: a pickle, code, missing or cut weights, packed ones, or no language model; with the remedy.
    """
    check_folder(folder)
    check_kind(folder)


def check_kind(folder: Path) -> None:
    """Refuse a configuration of neither a causal language model nor one that sees or hears. Raises ModelError."""
    if not is_multimodal(folder):
        checks.check_causal(folder)
