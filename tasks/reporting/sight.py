"""The report's look at models that see: their scores beside those with other pictures, and the pictures themselves."""

import base64
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.evaluation.pictures import WHOLE
from tasks.multimodal.controls import ORDER
from tasks.stage.data_folder import MEDIA

LARGEST = 60_000
"""Most bytes of a picture or sound on the page: it is one file, and holds them."""
KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".flac": "audio/flac"}
COLUMNS = ("images", "audio")
"""Columns of a question that name its pictures and its sounds."""


def heard(result: Mapping[str, Any]) -> bool:
    """Whether a task asked about sounds."""
    return "silence" in result.get("controls", {}).get(WHOLE, {}) or "word_error_rate" in result


def controls(leaderboard: Mapping[str, Any], models: list[str]) -> list[dict[str, Any]]:
    """List what each model scores in questions about pictures, as `compared` does."""
    rows = compared(leaderboard, models)
    return [row for row in rows if not heard(leaderboard["models"][row["model"]]["tasks"][row["task"]])]


def compared(leaderboard: Mapping[str, Any], models: list[str]) -> list[dict[str, Any]]:
    """List what each model scores by task and group, and with other pictures or sounds.

    Args:
        leaderboard: content of `leaderboard.json`.
        models: names of the models, in order.

    Returns:
        `model`, `task`, `metric`, `group`, `score`, `by` (control to its mean and the paired difference), `blind` (the
        controls without the right picture under which it answers as well) and `verdict` (these in words, or those of a
        clip's order). Empty where no model was asked with controls.
    """
    rows = []
    for model in models:
        for task, result in leaderboard["models"][model]["tasks"].items():
            for group, by in result.get("controls", {}).items():
                column, _, value = group.partition("=")
                metrics = result["metrics"] if group == WHOLE else result["groups"][column][value]
                metric = result["judged_by"]
                as_well = result["answered_blind"].get(group, [])
                blind = [control for control in as_well if control not in ORDER]
                rows.append(
                    {
                        "model": model,
                        "task": task,
                        "metric": metric,
                        "group": group,
                        "score": metrics[metric]["value"],
                        "by": {control: figures[metric] for control, figures in by.items()},
                        "blind": blind,
                        "verdict": _verdict(blind, [control for control in as_well if control in ORDER]),
                    }
                )
    return rows


def _verdict(blind: list[str], without_order: list[str]) -> str:
    if blind:
        return f"no better than with {', '.join(blind)}"
    return f"seen, in any order ({', '.join(without_order)})" if without_order else "seen"


def pictures(artifacts: Mapping[str, Path], samples: Mapping[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Read the pictures and the sounds of the questions that the page shows.

    Args:
        artifacts: artifact name to folder.
        samples: task to the questions shown.

    Returns:
        Name of a picture or sound to a `data:` address of it; large ones are left out.
    """
    wanted = {name for rows in samples.values() for row in rows for key in COLUMNS for name in row.get(key, ())}
    addresses = {}
    for folder in (folder for name, folder in artifacts.items() if name == "data" or name.startswith("media/")):
        if not wanted or not (folder / MEDIA).exists():
            continue
        with zipfile.ZipFile(folder / MEDIA) as archive:
            for info in archive.infolist():
                if info.filename in wanted and info.file_size <= LARGEST:
                    content = base64.b64encode(archive.read(info)).decode()
                    addresses[info.filename] = f"data:{KINDS[Path(info.filename).suffix]};base64,{content}"
    return addresses
