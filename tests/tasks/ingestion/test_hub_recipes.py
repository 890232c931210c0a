"""Property: the recipes on hub data of pictures and sounds run, with local folders in the place of the hub.

The folders have the columns of the data sets, and small untrained models of the architectures stand for the published
weights.
"""

import importlib.util
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import align_speech, base, data, dpo, evaluate, speech, vlm
from tasks.multimodal import images
from tasks.stage import artifact
from tasks.stage.config import load
from tests.conftest import REPO
from tests.support import hub, seeing
from tests.support.data_stage import read, report, run_file
from tests.support.recordings import encoded, played

MakeRun = Callable[..., Any]
Make = Callable[..., artifact.Manifest]
PARAMS = REPO / "params"
EVAL = "eval/pathology"
WORDS = ["SEVEN", "EIGHT", "NINE", "TEN"]
ON_A_CPU = {
    "max_steps": 1, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "warmup_steps": 0,
    "gradient_accumulation_steps": 1, "gradient_checkpointing": False, "bf16": False, "use_cpu": True,
}  # fmt: skip
"""What one step without a GPU changes of a recipe's `trainer:`."""
QWEN = pytest.param(
    "qwen3_vl", marks=pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs torchvision")
)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(autouse=True)
def cache(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workspace / "cache")


def picture(seed: int) -> dict[str, Any]:
    """A picture like no other, as `datasets` writes it."""
    cells = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(cells).resize((64, 64), Image.Resampling.NEAREST).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{seed}.png"}


def publish_pictures() -> None:
    import datasets

    text = datasets.Value("string")
    asked = {"image": datasets.Image(), "question": text, "answer": text}
    for split, start, count in (("train", 0, 24), ("test", 100, 6)):
        rows = [
            {
                "image": picture(start + i // 2),
                "question": f"is there necrosis {i % 2}?",
                "answer": ["yes", "no"][i % 2],
            }
            for i in range(count)
        ]
        hub.publish(Path("flaviagiammarino/path-vqa"), split, rows, asked, "default")
    pairs = [
        {"image": picture(200 + i), "question": f"What is number {i}?", "chosen": f"It is {i}.", "rejected": "No idea."}
        for i in range(20)
    ]
    features = {"image": datasets.Image(), **dict.fromkeys(("question", "chosen", "rejected"), text)}
    hub.publish(Path("sqrti/SPA-VL"), "train", pairs, features, "default")


def made(folder: Path, out: Path, make: Make, **split: float) -> Path:
    """Run the data stage on a recipe file whose splits are as large as small data need."""
    config = load(folder, data.Config)
    config = config.model_copy(update={"split": config.split.model_copy(update=split)})
    run_config(config, folder, out)
    make(out, stage="data")
    return out


def run_config(config: data.Config, path: Path, out: Path) -> None:
    from tasks.stage.lifecycle import Run
    from tasks.stage.progress import Progress

    out.mkdir(parents=True)
    data.main(config, Run(out, path, out.name, out / "checkpoints", {}, Progress(None), main_process=True))


def settings(module: Any, path: Path, **changes: Any) -> Any:
    """A recipe file of a training stage for one step on a CPU; the rest of it stays."""
    config = load(path, module.Config)
    return config.model_copy(update={"launch": None, "threads": 1, "trainer": config.trainer | ON_A_CPU, **changes})


@pytest.mark.parametrize("name", ["llava", QWEN])
def test_a_model_that_sees_is_tuned_on_the_pictures_of_qwen3_vl(
    make_run: MakeRun, chat_model: Path, make_artifact: Make, workspace: Path, name: str
) -> None:
    """From hub folders by data, base, one step of `vlm` and of `vlm_dpo`, to answers with and without the picture."""
    publish_pictures()
    seeing.published(getattr(seeing, name), chat_model, workspace / "Qwen/Qwen3-VL-2B-Instruct")
    out = made(PARAMS / "qwen3_vl/pictures.yaml", workspace / "pictures", make_artifact, validation=0.2)
    train, validation, test = (len(read(out / f"{file}.jsonl")) for file in ("sft/train", "sft/validation", EVAL))
    assert (train + validation, test) == (24, 6)
    assert validation % 2 == 0, "both questions about a picture stay together"
    assert report(out)["sources"]["feedback"]["licence"] == "CC-BY-4.0"
    assert images.Archive(out).image(read(out / "preferences/train.jsonl")[0]["images"][0]).size == (64, 64)

    start = make_run("base")
    base.main(load(PARAMS / "qwen3_vl/base.yaml", base.Config), start, data=out)
    make_artifact(start.out, stage="base")
    tuned = make_run("vlm")
    vlm.main(settings(vlm, PARAMS / "qwen3_vl/vlm.yaml"), tuned, model=start.out, data=out)
    make_artifact(tuned.out, stage="vlm")
    preferred = make_run("vlm_dpo")
    dpo.main(settings(dpo, PARAMS / "qwen3_vl/vlm_dpo.yaml"), preferred, model=tuned.out, data=out)
    make_artifact(preferred.out, stage="dpo")
    for run in (tuned, preferred):
        assert artifact.read_json(run.out / "metrics.json")["steps"] == 1

    asked = make_run("asked")
    asked.params_file = PARAMS / "qwen3_vl/evaluate_pictures.yaml"
    config = load(asked.params_file, evaluate.Config).model_copy(update={"device": "cpu", "threads": 1})
    evaluate.main(config, asked, model=preferred.out, data=out)
    figures = artifact.read_json(asked.out / "results.json")["tasks"]["pathology"]
    assert figures["samples"] == 6 and set(figures["controls"]["all"]) == {"noise", "black", "other"}


def publish_sounds() -> None:
    import datasets

    text, number = datasets.Value("string"), datasets.Value("int64")
    features = {
        "file": text, "audio": datasets.Audio(sampling_rate=16_000), "text": text, "speaker_id": number,
        "chapter_id": number, "id": text,
    }  # fmt: skip
    for split, start, count in (("train.100", 0, 24), ("test", 100, 4)):
        rows = [
            {
                "file": f"{start + i}.flac", "audio": {"bytes": encoded(played(start + i, 2.5), "FLAC"), "path": None},
                "text": f"{WORDS[i % 4]} {WORDS[i // 4 % 4]}", "speaker_id": start + i // 4, "chapter_id": 1,
                "id": str(start + i),
            }
            for i in range(count)
        ]  # fmt: skip
        hub.publish(Path("openslr/librispeech_asr"), split, rows, features, "clean")


def test_a_language_model_is_given_ears_on_the_sounds_of_qwen3(
    make_run: MakeRun, chat_model: Path, hearing_model: Path, make_artifact: Make, workspace: Path
) -> None:
    """From hub folders by data, two steps of `hearing` on a trained encoder, and one of `speech`, to answers."""
    publish_sounds()
    shutil.copytree(hearing_model, workspace / "zai-org/GLM-ASR-Nano-2512")
    out = made(PARAMS / "qwen3/librispeech.yaml", workspace / "librispeech", make_artifact, validation=0.3)
    counts = {file: len(read(out / f"{file}.jsonl")) for file in ("sft/train", "sft/validation", "eval/librispeech")}
    assert counts["eval/librispeech"] == 4 and counts["sft/train"] + counts["sft/validation"] == 24
    assert counts["sft/train"] % 4 == 0, "a speaker's four clips stay together"

    ears = make_run("hearing")
    config = load(PARAMS / "qwen3/hearing.yaml", align_speech.Config)
    small = {"device": "cpu", "threads": 1, "steps": 2, "batch_size": 4}
    align_speech.main(config.model_copy(update=small), ears, model=chat_model, data=out)
    make_artifact(ears.out, stage="align_speech")
    assert artifact.read_json(ears.out / "metrics.json")["sounds"] == counts["sft/train"]
    answering = make_run("speech")
    speech.main(settings(speech, PARAMS / "qwen3/speech.yaml"), answering, model=ears.out, data=out)
    make_artifact(answering.out, stage="speech")

    asked = make_run("asked")
    shutil.copytree(PARAMS / "qwen3", workspace / "params/qwen3")
    task = workspace / "params/qwen3/eval/librispeech.yaml"
    text = task.read_text(encoding="utf-8")
    assert "max_gen_toks: 256" in text
    task.write_text(text.replace("max_gen_toks: 256", "max_gen_toks: 16"), encoding="utf-8")  # of a context of 256
    asked.params_file = workspace / "params/qwen3/evaluate_librispeech.yaml"
    values = {"device": "cpu", "threads": 1, "chat_template_args": {}}
    questions = load(asked.params_file, evaluate.Config).model_copy(update=values)
    evaluate.main(questions, asked, model=answering.out, data=out)
    figures = artifact.read_json(asked.out / "results.json")["tasks"]["librispeech"]
    assert figures["samples"] == 4 and set(figures["word_error_rate"]) == {"own", "noise", "silence", "other"}


def test_the_data_of_words_of_qwen3_vl_are_none(workspace: Path) -> None:
    out = run_file(PARAMS / "qwen3_vl/data.yaml", workspace / "out")
    assert report(out)["sets"] == {}
