"""Base models that see already, from folders as hubs have them: kept whole, tuned by LoRA, and evaluated."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tasks import base, evaluate, vlm
from tasks.evaluation.task_files import TaskChoice
from tasks.models.multimodal import load_multimodal
from tasks.multimodal import images
from tasks.stage import artifact
from tasks.stage.config import load, parse
from tasks.stage.errors import ConfigError, ModelError
from tests.conftest import REPO
from tests.support import seeing
from tests.support.pictures import PARAMS, configured

MakeRun = Callable[..., Any]
Make = Callable[..., artifact.Manifest]
NEEDED = {"llava": (), "qwen3_vl": ("torchvision",), "smolvlm": ("torchvision", "num2words")}
"""Architecture to the libraries that its processors import, of the extra `vision`."""


def _missing(name: str) -> list[str]:
    return [library for library in NEEDED[name] if importlib.util.find_spec(library) is None]


pytestmark = pytest.mark.usefixtures("one_thread")
ARCHITECTURES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(_missing(name)), reason=f"needs {' and '.join(_missing(name))}"))
    for name in ("llava", "qwen3_vl")
]


@pytest.mark.skipif(bool(_missing("smolvlm")), reason=f"needs {' and '.join(_missing('smolvlm'))}")
def test_a_processor_that_counts_no_tokens_is_refused(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, make_artifact: Make, workspace: Path
) -> None:
    published("smolvlm", chat_model, workspace)
    with pytest.raises(ModelError, match="does not say how many tokens a picture takes"):
        made(make_run, make_artifact, pictures_data, "smolvlm")


def published(name: str, chat_model: Path, workspace: Path) -> Path:
    return seeing.published(getattr(seeing, name), chat_model, workspace / "org" / name)


def settings(source: dict[str, Any], **changes: Any) -> base.Config:
    values = {"seed": 1, "threads": 1, "dtype": "float32", "source": source, **changes}
    return parse(PARAMS, values, base.Config)


def made(make_run: MakeRun, make_artifact: Make, data: Path, name: str, **changes: Any) -> Path:
    """Run `base` on a folder of the hub's layout."""
    run = make_run("base")
    source = {"hub": f"org/{name}", "revision": "main", "adapter": None, "licence": "Apache-2.0"}
    base.main(settings(source, **changes), run, data=data)
    make_artifact(run.out, stage="base")
    return Path(run.out)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_that_sees_is_tuned_and_asked(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, make_artifact: Make, workspace: Path, name: str
) -> None:
    """From the hub's folder to an evaluation: `base`, two steps of LoRA, and questions with and without the picture."""
    folder = published(name, chat_model, workspace)
    start = made(make_run, make_artifact, pictures_data, name)
    before, kept = load_file(folder / "model.safetensors"), load_file(start / "model.safetensors")
    assert before.keys() == kept.keys() and all(before[key].equal(kept[key]) for key in before)
    assert artifact.read_json(start / "origin.json")["hub"] == f"org/{name}"

    lora = {"r": 4, "lora_alpha": 8, "target_modules": ".*(language_model|text_model).*(q|v)_proj"}
    tuned = make_run("tuned")
    vlm.main(configured(vlm, peft=lora, trained=["language_model"]), tuned, model=start, data=pictures_data)
    make_artifact(tuned.out, stage="vlm")
    after = load_file(tuned.out / "model.safetensors")
    changed = {key for key in kept if not kept[key].equal(after[key])}
    assert changed and all("q_proj" in key or "v_proj" in key for key in changed)
    shown = artifact.read_json(tuned.out / "supervision.json")
    assert shown

    task = TaskChoice(file="eval/digits.yaml", limit=6, group_by=["kind"], controls=["black"])
    asked = make_run("asked")
    asked.params_file = REPO / "params/tiny/evaluate_pictures.yaml"
    config = load(asked.params_file, evaluate.Config)
    config = config.model_copy(update={"tasks": [task], "batch_size": 4})
    evaluate.main(config, asked, model=tuned.out, data=pictures_data)
    figures = artifact.read_json(asked.out / "results.json")["tasks"]["digits"]
    assert figures["samples"] == 6 and "black" in figures["controls"]["all"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_text_is_written_as_a_list_of_parts_is(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, make_artifact: Make, workspace: Path, name: str
) -> None:
    published(name, chat_model, workspace)
    _, processor = load_multimodal(made(make_run, make_artifact, pictures_data, name))
    said = [("user", "Which digit?"), ("assistant", "7.")]
    plain = [{"role": role, "content": text} for role, text in said]
    parts = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    written = processor.apply_chat_template(plain, tokenize=False)
    assert "Which digit?" in written and "7." in written
    assert written == processor.apply_chat_template(parts, tokenize=False)
    assert written == processor.tokenizer.apply_chat_template(plain, tokenize=False)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_tokens_of_a_picture_are_counted_as_they_are_read(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, make_artifact: Make, workspace: Path, name: str
) -> None:
    published(name, chat_model, workspace)
    _, processor = load_multimodal(made(make_run, make_artifact, pictures_data, name))
    archive = images.Archive(pictures_data)
    row = artifact.read_jsonl(pictures_data / "eval/digits.jsonl")[0]
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}]
    text = processor.apply_chat_template(turn, tokenize=False)
    read = processor(images=[archive.image(row["images"][0])], text=text, return_tensors="pt", add_special_tokens=False)
    words = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert images.tokens(processor, row, archive) == read["input_ids"].shape[1] - len(words) + 1


def test_an_adapter_of_a_model_that_sees_is_refused(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, workspace: Path
) -> None:
    folder = published("llava", chat_model, workspace)
    source = {"folder": str(folder.relative_to(workspace)), "adapter": "adapter", "licence": "Apache-2.0"}
    with pytest.raises(ConfigError, match=r"source.adapter is merged into language models alone, and org/llava sees"):
        base.main(settings(source), make_run("base"), data=pictures_data)


def test_a_template_that_writes_no_text_is_refused(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, make_artifact: Make, workspace: Path
) -> None:
    published("llava", chat_model, workspace)
    with pytest.raises(ModelError, match="org/llava: the chat template does not write a question and its answer"):
        made(make_run, make_artifact, pictures_data, "llava", chat_template="{{ messages[0]['role'] }}")
