"""Property: a stage's command loads no library that takes seconds, and some stages never load one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.support.imports import imports

HEAVY = {
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "pandas", "pyarrow", "scipy", "sklearn", "sympy",
    "lm_eval", "mergekit", "llmcompressor", "onnx", "onnxruntime", "onnxruntime_genai", "sentence_transformers",
    "matplotlib", "faiss", "mlflow", "prefect", "dvc",
}  # fmt: skip
"""Libraries whose import takes a tenth of a second to several."""
STAGES = sorted(path.stem for path in (REPO / "tasks").glob("*.py") if path.stem != "__init__")
NEVER = {
    "fingerprint": HEAVY,
    "report": HEAVY,
    "data": {"torch", "trl", "peft", "accelerate", "sklearn", "mergekit", "llmcompressor", "onnx", "onnxruntime"},
    "rag_chunks": {"torch", "trl", "peft", "accelerate", "sklearn", "lm_eval", "onnx", "onnxruntime"},
    "evaluate": {"trl", "llmcompressor", "mergekit"},
}
"""Stage to libraries that nothing of its code imports, inside functions either."""
FOR_DEVICES = "tasks.stage.devices"
"""Imports torch where the recipe names another device than `cpu`, and then alone."""


def loaded(code: str) -> set[str]:
    """Libraries of `HEAVY` that are there after this code, in a fresh process."""
    words = [sys.executable, "-c", f"import json, sys; {code}; print(json.dumps(sorted(sys.modules)))"]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=True)
    return HEAVY & {name.split(".")[0] for name in json.loads(done.stdout)}


def reached(stage: str) -> set[str]:
    """Packages that the code of a stage imports when all of it runs, through every module that it imports."""
    ahead, seen, packages = [f"tasks.{stage}"], {FOR_DEVICES}, set()
    while ahead:
        name = ahead.pop()
        path = Path(REPO, *name.split(".")).with_suffix(".py")
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        for found in imports(path):
            packages.add(found.split(".")[0])
            ahead += [found, found.rpartition(".")[0]]
    assert len(seen) > 3, stage
    return packages


def test_no_stage_loads_a_heavy_library_before_it_has_read_its_recipe() -> None:
    assert len(STAGES) > 30
    assert loaded(f"import {', '.join(f'tasks.{stage}' for stage in STAGES)}") == set()


def test_the_command_line_loads_none_before_it_knows_the_command() -> None:
    assert loaded("import flows.cli") == set()


@pytest.mark.parametrize("stage", NEVER)
def test_a_stage_never_loads_what_it_has_no_use_for(stage: str) -> None:
    assert reached(stage) & NEVER[stage] == set()


def test_what_a_stage_imports_inside_functions_is_seen() -> None:
    assert {"torch", "trl", "peft"} <= reached("sft")
