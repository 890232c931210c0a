"""What an artifact says, in MLflow's words: params, metrics, curves, data sets and the files worth keeping.

Pure readers. They know the file names that stages agree on (`metrics.json`, `curves.jsonl`, `audit.json`,
`results.json`, `parity.json`) and no stage, so that a new method is shown without a line here.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.stage import artifact, audit_record
from tasks.stage.config import read_yaml

FILE_LIMIT = 4_000_000
"""Bytes of the largest file that is copied to the tracking server; a larger one stays in the artifact alone."""
PARAM_LIMIT = 6000
"""Characters that MLflow keeps of a param's value."""
KEY_LIMIT = 250
"""Characters that MLflow allows in the name of a param or metric."""
HIDDEN = "(hidden)"
"""Text that is logged instead of a secret."""

_SECRET_KEY = re.compile(
    r"(^|[._-])(token|secret|password|passwd|passphrase|credentials?|(api|access|private)?_?key)$", re.I
)
_TEXT_TOKEN = re.compile(r"(^|[._-])(eos|bos|pad|unk|mask|image|stop)_token$", re.I)
_SECRET_VALUE = re.compile(
    r"^(hf_|sk-|gh[opsu]_|github_pat_|AKIA|xox[abp]-)\w{8,}|://[^/\s:@]+:[^/\s@]+@|PRIVATE KEY-----"
)
_SHOWN = {".json", ".jsonl", ".html", ".md", ".png"}
_MODEL_FILES = re.compile(r"^((.*_)?config|tokenizer|vocab|added_tokens|special_tokens_map|.*\.index)\.json$")


def params(path: Path) -> dict[str, str]:
    """Read a recipe file, flattened to `trainer.learning_rate`, with secrets hidden. Empty when there is none."""
    if not path.exists():
        return {}
    return {key[:KEY_LIMIT]: _shown(key, value)[:PARAM_LIMIT] for key, value in _leaves("", read_yaml(path))}


def final_metrics(out: Path) -> dict[str, float]:
    """Collect the figures that an artifact ends with, e.g. `final/eval_loss`, `audit/train/cut`, `sums/helpful`."""
    metrics: dict[str, float] = {}
    if (out / "metrics.json").exists():
        metrics |= _numbers("final", artifact.read_json(out / "metrics.json"))
    metrics |= _numbers("audit", audit_record.read(out))
    if (out / "results.json").exists():
        tasks = _numbers("", artifact.read_json(out / "results.json")["tasks"])
        metrics |= {re.sub(r"/value$", "", k.replace("/metrics/", "/")): v for k, v in tasks.items()}
    if (out / "parity.json").exists():
        metrics |= _numbers("parity", artifact.read_json(out / "parity.json")["forms"])
    return metrics


def measurements(measured: dict[str, Any]) -> dict[str, float]:
    """Name seconds, bytes and speeds of this run, e.g. `measured/tokens_per_second/int8`."""
    return _numbers("measured", measured)


def curves(out: Path) -> Iterator[tuple[int, str, float]]:
    """Yield the logged steps as (step, metric, value)."""
    if not (out / "curves.jsonl").exists():
        return
    for row in artifact.read_jsonl(out / "curves.jsonl"):
        step = int(row.pop("step"))
        for key, value in _numbers("", row).items():
            yield step, key, value


def files(out: Path) -> list[Path]:
    """List small files a person reads: reports, samples, audits; not weights, tokenizer or training rows."""
    paths = [p for pattern in ("*", "samples/*", "plots/*") for p in sorted(out.glob(pattern)) if p.is_file()]
    return [
        p for p in paths if p.suffix in _SHOWN and not _MODEL_FILES.match(p.name) and p.stat().st_size <= FILE_LIMIT
    ]


def metric_name(name: str) -> str:
    """Write a name so that MLflow accepts it."""
    return re.sub(r"[^\w .:/-]", "_", name)[:KEY_LIMIT]


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings, and of lists of mappings; a list of plain values is one leaf."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        for number, inner in enumerate(value):
            yield from _leaves(f"{prefix}.{number}", inner)
    else:
        yield prefix, value


def _shown(key: str, value: Any) -> str:
    """Write the value as text, or `(hidden)`. No number is a secret; a text is when its key or its form says so."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    holds_text = isinstance(value, str) or (isinstance(value, list) and any(isinstance(v, str) for v in value))
    named = _SECRET_KEY.search(key) and not _TEXT_TOKEN.search(key)
    if holds_text and (named or _SECRET_VALUE.search(text)):
        return HIDDEN
    return text


def _numbers(prefix: str, value: Any) -> dict[str, float]:
    """Collect the numbers in nested mappings, keyed by path; anything else (texts, lists, nulls) is left out."""
    if isinstance(value, dict):
        pairs = [_numbers(f"{prefix}/{key}" if prefix else str(key), inner) for key, inner in value.items()]
        return {key: number for pair in pairs for key, number in pair.items()}
    if isinstance(value, int | float):
        return {metric_name(prefix): float(value)}
    return {}
