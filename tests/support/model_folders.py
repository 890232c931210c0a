"""Ways to break a model folder, and the base stage that reads it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks import base
from tasks.stage.config import parse

MakeRun = Callable[..., Any]
Break = Callable[[Path], None]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def config_of(folder: Path, adapter: str | None = None) -> base.Config:
    source = {"folder": folder.name, "licence": "own", "adapter": adapter}
    values = {"seed": 1, "threads": 1, "dtype": "float32", "source": source}
    return parse(Path("params/test/base.yaml"), values, base.Config)


def read(folder: Path, make_run: MakeRun, data: Path, adapter: str | None = None) -> Path:
    """Let the base stage read the folder."""
    run = make_run("base")
    base.main(config_of(folder, adapter), run, data=data)
    return Path(run.out)


def put(name: str, text: str | bytes) -> Break:
    """Write a file in place of the folder's."""

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def drop(*names: str) -> Break:
    def unlink(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return unlink


def change(name: str, **values: Any) -> Break:
    """Set keys of a JSON file."""

    def rewrite(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return rewrite


def cut(name: str, size: int) -> Break:
    def truncate(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return truncate


def logits(model: Any, ids: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits
