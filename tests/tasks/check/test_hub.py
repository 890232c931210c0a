"""Property: recipes on hub ids pass the check with folders of the same layout in their place, which are looked at."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.check import recipe as recipe_check
from tests.conftest import REPO
from tests.support import hub, seeing
from tests.support.small_recipe import change

THOUGHT = "{% if enable_thinking is defined and enable_thinking is false %}{% endif %}"


@pytest.fixture
def recipes(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real recipes, and folders in the place of what `qwen3` takes from the hub, but for its sounds."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workspace / "cache")
    shutil.copytree(REPO / "params", "params", symlinks=True)
    shutil.copytree(REPO / "infra/accelerate", "infra/accelerate")
    for file in ("dvc.yaml", "mlflow/gates.yaml"):
        Path(file).parent.mkdir(exist_ok=True)
        shutil.copyfile(REPO / file, file)
    return workspace


def published() -> None:
    from datasets import List, Value

    text = Value("string")
    turns = List({"role": text, "content": text})

    def talk(number: int, reply: str) -> list[dict[str, str]]:
        asked = {"role": "user", "content": f"What is {number} + 1?"}
        return [asked, {"role": "assistant", "content": f"{reply} {number + 1}."}]

    def publish(name: str, split: str, rows: list[dict[str, Any]], features: dict[str, Any], config: str) -> None:
        hub.publish(Path(name), split, rows, features, config)

    chats = [{"messages": talk(n, "It is")} for n in range(8)]
    publish("HuggingFaceH4/ultrachat_200k", "train_sft", chats, {"messages": turns}, "default")
    pairs = [{"chosen": talk(n, "Surely"), "rejected": talk(n, "No:")} for n in range(8)]
    sides = {"chosen": turns, "rejected": turns}
    publish("HuggingFaceH4/ultrafeedback_binarized", "train_prefs", pairs, sides, "default")
    for split in ("train", "test"):
        sums = [{"question": f"{split} {n} + 1?", "answer": f"{n} and 1.\n#### {n + 1}"} for n in range(8)]
        publish("openai/gsm8k", split, sums, {"question": text, "answer": text}, "main")


def model(chat_model: Path, folder: Path) -> None:
    """A small model with the context of the published one, and a template that has Qwen3's variable."""
    shutil.copytree(chat_model, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 40960}))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + THOUGHT)


def test_qwen3_passes_with_folders_in_the_place_of_the_hub(
    recipes: Path, chat_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published()
    model(chat_model, Path("Qwen/Qwen3-0.6B"))
    folder = Path("params/qwen3")
    assert recipe_check.check(folder) == []
    assert "not on this machine yet" not in caplog.text
    far = [line for line in caplog.messages if "not looked at" in line]
    assert len(far) == 2, far
    for file, named in {"librispeech.yaml": "hub openslr/librispeech_asr", "qadocs.yaml": "hotpotqa"}.items():
        assert any(file in line and named in line for line in far), far
    change(folder / "data.yaml", "sets/eval:gsm8k/rows/0/map/question", "{quest}")
    change(folder / "sft.yaml", "trainer/max_length", 50000)
    faults = "\n".join(recipe_check.check(folder))
    assert "data.yaml: sets.eval:gsm8k.rows.0.map: no column 'quest'" in faults
    assert "sft.yaml: trainer.max_length is 50000 tokens, and Qwen/Qwen3-0.6B takes 40960" in faults


def test_what_this_machine_lacks_is_said_with_the_device_to_write(recipes: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has what the recipe names")
    checked = subprocess.run(
        [sys.executable, "-m", "tasks.check.recipe", "params/qwen3"], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert checked.returncode == 2
    faults = [line for line in checked.stderr.splitlines() if not line.startswith("warning: ")]
    assert faults and all("cuda" in line for line in faults), checked.stderr


def test_qwen3_vl_passes_with_a_folder_in_the_place_of_its_model(
    recipes: Path, chat_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seeing.published(seeing.llava, chat_model, Path("Qwen/Qwen3-VL-2B-Instruct").absolute())
    assert recipe_check.check(Path("params/qwen3_vl")) == []
    assert "not on this machine yet" not in caplog.text
    change(Path("params/qwen3_vl/vlm.yaml"), "peft/target_modules", ".*langage_model.*q_proj")
    assert "peft.target_modules is '.*langage_model.*q_proj', which matches no" in str(
        recipe_check.check(Path("params/qwen3_vl"))
    )
