"""Property: from rows to an answer on the shared services, by the variables of `.polm/services/env` alone."""

import json
import re
import time
from pathlib import Path

import httpx
import pytest

from infra.services import layout as layouts
from infra.services import store
from tests.support import served_recipe as recipe
from tests.support import services, toy

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(1500)]
QUESTION = {"messages": [{"role": "user", "content": "What is 2 + 3?"}], "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working copy with a recipe of a few steps, in which nothing has run."""
    home = tmp_path_factory.mktemp("copy")
    recipe.make(home)
    return home


def ask(url: str) -> dict[str, str]:
    """One answer."""
    answer = httpx.post(f"{url}/chat/completions", json=QUESTION, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def version(url: str) -> str:
    """The registered version that is served now."""
    return json.dumps(httpx.get(f"{url}/models", timeout=60).json())


def test_run_promote_serve_chat_lineage_and_rollback(home: Path, project: toy.Toy, layout: layouts.Layout) -> None:
    assert services.command(project, "start").returncode == 0
    variables = layouts.variables(layout)
    said = recipe.polm(home, variables, "run", "--push")
    assert "entries of the run-cache to DVC remote 'services' (s3://dvc/polm)" in said
    recipe.polm(home, variables, "promote", "sft")
    recipe.polm(home, variables, "promote", "dpo")
    with recipe.serving(home, variables) as url:
        second = version(url)
        answer = ask(url)
        assert answer["choices"]
        lineage = recipe.polm(home, variables, "lineage", answer["id"])
        assert "dpo" in lineage and "sft" in lineage and "data" in lineage
        recipe.polm(home, variables, "rollback")
        deadline = time.monotonic() + 180
        while version(url) == second:
            assert time.monotonic() < deadline, "the server does not follow the alias"
            time.sleep(0.2)
        assert ask(url)["choices"]
    assert not (home / ".polm/mlflow.db").exists(), "nothing went to a store of its own"
    keys = [item["Key"] for item in store.client(layout, "mlflow").list_objects_v2(Bucket="mlflow")["Contents"]]
    assert any(re.search(r"/model\.onnx$", key) for key in keys), keys
    texts = [p.read_bytes() for p in home.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_size < 1e7]
    assert len(texts) > 100
    for name, secret in layout.secrets.items():
        assert not any(secret.encode() in text for text in texts), f"{name} is told in the working copy"
