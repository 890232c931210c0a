"""Models that hear, asked through the harness: the answers of plain transformers, whatever the batch, and controls."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.evaluate import Config, main
from tasks.models.multimodal import load_multimodal, save_multimodal
from tasks.multimodal import hearing
from tasks.multimodal.controls import muted, other_rows
from tasks.multimodal.images import Archive
from tasks.stage import artifact
from tasks.stage.config import load
from tasks.stage.errors import ArtifactError, ConfigError, DataError
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.conftest import REPO
from tests.support.pictures import build_lively_text
from tests.support.sight import SCORED, evaluate, rows_of, samples
from tests.support.sounds import RATE, build_model

Make = Callable[..., artifact.Manifest]
WORDS = {"dataset_kwargs": {"data_files": {"test": "eval/words.jsonl"}}}
TRANSCRIBED = {"process_results": "transcription", "metric_list": [
    {"metric": "wer", "aggregation": "mean", "higher_is_better": False},
    {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True},
]}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lively(chat_model: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Make) -> Path:
    """A model that hears and says something else to every sound and question: its features are large."""
    folder = tmp_path_factory.mktemp("lively_ears")
    text = build_lively_text(chat_model, folder / "text", make_artifact)
    model, processor = load_multimodal(build_model(text, folder / "plain", make_artifact))
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight.mul_(30)
    save_multimodal(model, processor, folder / "lively")
    make_artifact(folder / "lively", stage="speech")
    return folder / "lively"


def plainly(folder: Path, question: str, sounds: list[Any], length: int = 8) -> str:
    """The greedy answer by transformers alone, to one question."""
    model, processor = load_multimodal(folder)
    text = f"<|im_start|>user\n{'<audio>' * len(sounds)}{question}<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor(text=[text], audio=sounds) if sounds else processor.tokenizer([text], return_tensors="pt")
    tokens = model.eval().generate(**inputs, max_new_tokens=length, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return str(processor.tokenizer.decode(tokens, skip_special_tokens=True))


def heard(model: Path, data: Path, row: dict[str, Any]) -> list[Any]:
    _, processor = load_multimodal(model)
    return [hearing.heard(Archive(data), name, processor) for name in row.get("audio", ())]


@pytest.fixture(scope="module")
def asked(lively: Path, spoken_data: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Make) -> Path:
    """A data artifact of ten questions of many lengths, with a sound or without; its answers the model's."""
    names = [row["audio"][0] for row in artifact.read_jsonl(spoken_data / "eval" / "transcripts.jsonl")]
    rows: list[dict[str, Any]] = []
    for i in range(10):
        kind = "words" if i % 4 == 3 else "constant" if i >= 8 else "heard"
        row = {"id": f"q{i}", "question": f"What {'very ' * (i % 5)}number is it, {i}?", "kind": kind}
        rows.append(row if kind == "words" else {**row, "audio": names[i : i + 1]})
        while not (answer := plainly(lively, rows[-1]["question"], heard(lively, spoken_data, rows[-1]))):
            rows[-1]["question"] += " Please."
        rows[-1]["answer"] = answer
    folder = tmp_path_factory.mktemp("asked") / "data"
    (folder / "eval").mkdir(parents=True)
    shutil.copy(spoken_data / "media.zip", folder)
    artifact.write_jsonl(folder / "eval" / "shown.jsonl", rows)
    artifact.write_jsonl(folder / "eval" / "words.jsonl", [row for row in rows if row["kind"] == "words"])
    make_artifact(folder, stage="data")
    return folder


@pytest.mark.parametrize("size", [1, 8])
def test_answers_and_likelihoods_are_those_of_transformers_whatever_the_batch(
    workspace: Path, lively: Path, asked: Path, size: int
) -> None:
    """Rows of other lengths, with and without a sound, padded together; the samples in the order of the rows."""
    rows = rows_of(asked)
    found = samples(evaluate(lively, asked, batch_size=size))
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["response"] for row in found] == [row["answer"] for row in rows]
    assert [row.get("audio") for row in found] == [row.get("audio") for row in rows]
    assert len({row["response"] for row in found}) > 6, "answers that differ tell a mixed-up batch"
    scored = samples(evaluate(lively, asked, SCORED, batch_size=size))
    model, processor = load_multimodal(lively)
    for row, sample in zip(rows, scored, strict=True):
        sounds = heard(lively, asked, row)
        text = f"<|im_start|>user\n{'<audio>' * len(sounds)}{row['question']}<|im_end|>\n<|im_start|>assistant\n"
        inputs = processor(text=[text], audio=sounds) if sounds else processor.tokenizer([text], return_tensors="pt")
        tail = torch.tensor([processor.tokenizer(row["answer"], add_special_tokens=False)["input_ids"]])
        ids = torch.cat([inputs.pop("input_ids"), tail], dim=1)
        inputs.pop("attention_mask")
        with torch.no_grad():
            logps = model.eval()(input_ids=ids, **inputs).logits[0].log_softmax(-1)
        start = ids.shape[1] - tail.shape[1]
        expected = -sum(logps[start - 1 + i, token].item() for i, token in enumerate(tail[0].tolist()))
        assert sample["scores"]["nats_per_byte"] == pytest.approx(expected / len(row["answer"].encode()), rel=1e-3)


def test_controls_say_what_they_say(workspace: Path, lively: Path, asked: Path) -> None:
    out = evaluate(lively, asked, controls=["noise", "silence", "other"], group_by=["kind"])
    rows = rows_of(asked)
    alike = [f"{row['kind']} {len(row.get('audio', ()))}" for row in rows]
    other = other_rows([f"shown:{row['id']}" for row in rows], alike, [row["answer"] for row in rows], 0)
    for number in (0, 1):
        row, partner = rows[number], other[number]
        assert partner is not None and rows[partner]["answer"] != row["answer"]
        (own,) = heard(lively, asked, row)
        expected = {
            "other": heard(lively, asked, rows[partner])[0],
            "silence": muted(own, "silence", 0, ""),
            "noise": muted(own, "noise", 0, f"shown:{row['id']}:0"),
        }
        for control, sound in expected.items():
            sample = samples(out, f"shown@{control}")[number]
            assert (sample["id"], sample["response"]) == (row["id"], plainly(lively, row["question"], [sound])), control
    result = artifact.read_json(out / "results.json")["tasks"]["shown"]
    assert result["metrics"]["same"]["value"] == 1.0
    assert result["answered_blind"]["kind=constant"] == ["noise", "silence", "other"]
    assert "kind=heard" not in result["answered_blind"]
    assert samples(out) == samples(evaluate(lively, asked)), "the controls leave no trace in the model"


def test_a_model_that_hears_is_asked_in_words_alone(workspace: Path, lively: Path, asked: Path) -> None:
    found = samples(evaluate(lively, asked, WORDS))
    rows = rows_of(asked, "words")
    assert [row["response"] for row in found] == [row["answer"] for row in rows]


def _changed(folder: Path, source: Path, make: Make, rows: list[dict[str, Any]]) -> Path:
    data = folder / f"changed{len(list(folder.glob('changed*')))}"
    shutil.copytree(source, data)
    artifact.write_jsonl(data / "eval" / "shown.jsonl", rows)
    make(data, stage="data")
    return data


def test_what_a_model_does_not_take_is_refused(
    workspace: Path, lively: Path, chat_model: Path, seeing_model: Path, asked: Path, pictures_data: Path,
    make_artifact: Make,
) -> None:  # fmt: skip
    for model in (chat_model, seeing_model):
        with pytest.raises(
            ConfigError, match=r"shown.yaml: its rows have sounds, and .* takes none; ask it in words, or"
        ):
            evaluate(model, asked)
    shown = artifact.read_jsonl(pictures_data / "eval" / "digits.jsonl")[:2]
    data = workspace / "pictures"
    shutil.copytree(pictures_data, data)
    artifact.write_jsonl(data / "eval" / "shown.jsonl", [{**row, "kind": "heard"} for row in shown])
    make_artifact(data, stage="data")
    with pytest.raises(ConfigError, match=r"shown.yaml: its rows show pictures, and .* takes none"):
        evaluate(lively, data)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ({}, {"controls": ["black"]}, "control 'black' is none of sounds; take of noise, silence, other"),
        ({}, {"controls": ["shuffled"]}, "control 'shuffled' is none of sounds"),
        (WORDS, {"controls": ["silence"]}, "there is nothing to replace, so drop `controls`"),
        ({"num_fewshot": 2}, {}, "num_fewshot shows no sounds of its examples; set it to 0"),
    ],
)
def test_what_no_model_that_hears_can_be_asked_is_refused(
    workspace: Path, lively: Path, asked: Path, task: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(lively, asked, task, **changes)


def test_a_row_that_cannot_be_asked_is_named(workspace: Path, lively: Path, asked: Path, make_artifact: Make) -> None:
    import zipfile

    from tests.support.recordings import encoded, played

    rows = rows_of(asked)[:2]
    spelt = _changed(workspace, asked, make_artifact, [{**rows[0], "question": "<audio> What?"}])
    with pytest.raises(DataError, match=r"the row that begins '<audio> What\?': a text has '<audio>', which"):
        evaluate(lively, spelt)
    short = _changed(workspace, asked, make_artifact, [rows[1], {**rows[0], "audio": ["short.flac"]}])
    with zipfile.ZipFile(short / "media.zip", "a") as archive:
        archive.writestr("short.flac", encoded(played(1, 0.05, RATE), "FLAC", rate=RATE))
    make_artifact(short, stage="data")
    with pytest.raises(DataError, match=r"task shown, row q0: its sound lasts 50 ms, too short to become a token"):
        evaluate(lively, short)
    wordless = _changed(workspace, asked, make_artifact, [rows[1], {**rows[0], "answer": "?!"}])
    with pytest.raises(
        ArtifactError, match=r"shown.jsonl:2: the grader transcription cannot grade this row \(ValueError: the ref"
    ):
        evaluate(lively, wordless, TRANSCRIBED)


def test_the_recipes_own_tasks_are_asked(workspace: Path, lively: Path, spoken_data: Path) -> None:
    """`params/tiny/evaluate_spoken.yaml`, on the small data: rates by voice, with and without the sounds."""
    folder = Path("params/mine")
    shutil.copytree(REPO / "params/tiny/eval", folder / "eval")
    shutil.copy(REPO / "params/tiny/evaluate_spoken.yaml", folder)
    run = Run(Path("out"), folder / "evaluate_spoken.yaml", "m", Path("x"), {}, Progress(None), main_process=True)
    main(load(folder / "evaluate_spoken.yaml", Config), run, model=lively, data=spoken_data)
    tasks = artifact.read_json(run.out / "results.json")["tasks"]
    voices = {f"voice={row['voice']}" for row in artifact.read_jsonl(spoken_data / "eval" / "transcripts.jsonl")}
    assert {name: set(task["controls"]) >= {"all"} for name, task in tasks.items()} == {
        "transcripts": True,
        "spoken_sums": True,
    }
    rates = tasks["transcripts"]["word_error_rate"]
    assert set(rates) == {"own", "noise", "silence", "other"}
    assert all(set(by_voice) == {"all", *voices} for by_voice in rates.values())
    own = rates["own"]["all"]
    assert own["words"] == sum(rates["own"][voice]["words"] for voice in voices) > 20
    assert own["value"] == pytest.approx(own["errors"] / own["words"], abs=1e-6)
    assert "word_error_rate" not in tasks["spoken_sums"]
