"""Models that see, asked through the harness: the answers of plain transformers, whatever the batch, and controls."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.evaluate import Config, main
from tasks.models.multimodal import load_multimodal
from tasks.multimodal.controls import other_rows, replaced
from tasks.multimodal.images import Archive
from tasks.stage import artifact
from tasks.stage.config import load
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.conftest import REPO
from tests.support.pictures import build_lively, build_lively_text
from tests.support.sight import SCORED, build_questions, evaluate, plainly, rows_of, samples

Make = Callable[..., artifact.Manifest]
CHOSEN = {
    "output_type": "multiple_choice",
    "doc_to_choice": "choices",
    "process_results": "graders.told",
    "generation_kwargs": {},
    "metric_list": [{"metric": f"of_{i}", "aggregation": "mean", "higher_is_better": True} for i in range(4)],
}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lively_text(chat_model: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Make) -> Path:
    """The chat model with larger weights: it says something else to every question, in printable ASCII."""
    return build_lively_text(chat_model, tmp_path_factory.mktemp("lively_text") / "text", make_artifact)


@pytest.fixture(scope="module")
def lively(lively_text: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Make) -> Path:
    """That model with eyes, whose features are as large as its embeddings."""
    return build_lively(lively_text, tmp_path_factory.mktemp("lively") / "seeing", make_artifact)


@pytest.fixture(scope="module")
def shown(lively: Path, pictures_data: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Make) -> Path:
    """A data artifact of 18 questions of many lengths: with a picture, with two, without; its answers the model's."""
    return build_questions(lively, pictures_data, tmp_path_factory.mktemp("shown") / "data", make_artifact)


@pytest.mark.parametrize("size", [1, 8, 100])
def test_answers_are_those_of_transformers_whatever_the_batch(
    workspace: Path, lively: Path, shown: Path, size: int
) -> None:
    """Rows of other lengths, with and without pictures, padded together; the samples in the order of the rows."""
    found = samples(evaluate(lively, shown, batch_size=size))
    rows = rows_of(shown)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["response"] for row in found] == [row["answer"] for row in rows]
    assert [row["question"] for row in found] == [row["question"] for row in rows]
    assert [row.get("images") for row in found] == [row.get("images") for row in rows]
    assert len({row["response"] for row in found}) > 10, "answers that differ tell a mixed-up batch"


def test_it_answers_words_as_the_language_model_it_was_made_from(
    workspace: Path, lively: Path, lively_text: Path, shown: Path
) -> None:
    words = {"dataset_kwargs": {"data_files": {"test": "eval/words.jsonl"}}}
    sees, reads = (evaluate(model, shown, words) for model in (lively, lively_text))
    assert samples(sees) == samples(reads)
    assert len(samples(sees)) == 4


def likelihood(model: Any, processor: Any, archive: Archive, row: dict[str, Any], answer: str) -> float:
    """The log-likelihood of an answer, computed by transformers in one piece."""
    pictures = [archive.image(name) for name in row.get("images", ())]
    text = "<image>" * len(pictures) + row["question"]
    asked = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor(text=[asked], **({"images": [pictures]} if pictures else {}), return_tensors="pt")
    tail = torch.tensor([processor.tokenizer(answer, add_special_tokens=False)["input_ids"]])
    ids = torch.cat([inputs.pop("input_ids"), tail], dim=1)
    inputs.pop("attention_mask")
    with torch.no_grad():
        logps = model.eval()(input_ids=ids, **inputs).logits[0].log_softmax(-1)
    start = ids.shape[1] - tail.shape[1]
    return sum(logps[start - 1 + i, token].item() for i, token in enumerate(tail[0].tolist()))


@pytest.mark.parametrize("size", [1, 8])
def test_a_likelihood_is_what_the_model_gives(workspace: Path, lively: Path, shown: Path, size: int) -> None:
    """The loss is that of the answer alone, given the question and its pictures; computed here row by row."""
    found = samples(evaluate(lively, shown, SCORED, batch_size=size))
    loaded, archive = load_multimodal(lively), Archive(shown)
    for row, sample in zip(rows_of(shown), found, strict=True):
        expected = -likelihood(*loaded, archive, row, row["answer"]) / len(row["answer"].encode())
        assert sample["scores"]["nats_per_byte"] == pytest.approx(expected, rel=1e-4)


def test_the_choices_of_a_question_are_scored_as_each_alone(
    workspace: Path, lively: Path, shown: Path, make_artifact: Make
) -> None:
    """The prompt is read once for all of them, whatever their lengths, and whether or not the row shows a picture."""
    choices = ["3.", "Twelve and a half?", "7", "1 2 3"]
    rows = [{**row, "choices": choices} for row in rows_of(shown)]
    folder = _changed(workspace / "chosen", shown, make_artifact, rows)
    found = samples(evaluate(lively, folder, CHOSEN))
    loaded, archive = load_multimodal(lively), Archive(shown)
    assert {len(row.get("images", ())) for row in rows} == {0, 1, 2}
    for row, sample in zip(rows, found, strict=True):
        expected = [likelihood(*loaded, archive, row, choice) for choice in choices]
        assert list(sample["scores"].values()) == pytest.approx(expected, rel=1e-4)


def test_controls_show_what_they_say(workspace: Path, lively: Path, shown: Path) -> None:
    out = evaluate(lively, shown, controls=["noise", "black", "other"])
    rows, archive = rows_of(shown), Archive(shown)
    alike = [f"{row['kind']} {min(len(row.get('images', ())), 2)}" for row in rows]
    other = other_rows([f"shown:{row['id']}" for row in rows], alike, [row["answer"] for row in rows], 0)
    for number in (0, 1, 12):
        row = rows[number]
        own = [archive.image(name) for name in row.get("images", ())]
        partner = other[number]
        assert partner is not None
        swapped = [archive.image(name) for name in rows[partner].get("images", ())]
        expected = {
            "other": swapped,
            "black": [replaced(picture, "black", 0, "") for picture in own],
            "noise": [replaced(own[k], "noise", 0, f"shown:{row['id']}:{k}") for k in range(len(own))],
        }
        for control, pictures in expected.items():
            found = samples(out, f"shown@{control}")[number]
            assert found["id"] == row["id"]
            assert found["response"] == plainly(lively, row["question"], pictures), control
    again = evaluate(lively, shown, controls=["other", "noise", "black"], batch_size=3)
    for control in ("noise", "black", "other"):
        assert samples(again, f"shown@{control}") == samples(out, f"shown@{control}"), "the seed's"
    plain = samples(evaluate(lively, shown))
    assert samples(out) == plain, "the controls leave no trace in the model"


def test_what_is_answered_blind_is_named(workspace: Path, lively: Path, shown: Path) -> None:
    out = evaluate(lively, shown, controls=["noise", "black", "other"], group_by=["kind"])
    result = artifact.read_json(out / "results.json")["tasks"]["shown"]
    assert result["metrics"]["same"]["value"] == 1.0
    assert set(result["controls"]) == {"all", "kind=seen", "kind=two", "kind=words", "kind=constant"}
    blind = result["answered_blind"]
    assert blind["kind=constant"] == blind["kind=words"] == ["noise", "black", "other"]
    assert "kind=seen" not in blind and "all" not in blind
    for control in ("noise", "black", "other"):
        figures = result["controls"]["kind=constant"][control]["same"]
        assert figures == {"value": 1.0, "difference": 0.0, "low": 0.0, "high": 0.0}
        seen = result["controls"]["kind=seen"][control]["same"]
        assert seen["difference"] == pytest.approx(1.0 - seen["value"]) and seen["low"] > 0


def test_a_question_copied_out_of_a_document_is_asked_as_it_is(
    workspace: Path, lively: Path, lively_text: Path, shown: Path, make_artifact: Make
) -> None:
    """U+FFFC stands in such texts where the document had an object; it is no picture of the row."""
    rows = [{**row, "question": "Which \ufffc digit?"} for row in rows_of(shown)[:3]]
    data = _changed(workspace, shown, make_artifact, rows)
    found = samples(evaluate(lively, data))
    assert [row["question"] for row in found] == [row["question"] for row in rows]
    archive = Archive(shown)
    for row, sample in zip(rows, found, strict=True):
        pictures = [archive.image(name) for name in row.get("images", ())]
        assert sample["response"] == plainly(lively, row["question"], pictures)


def _changed(folder: Path, source: Path, make: Make, rows: list[dict[str, Any]]) -> Path:
    data = folder / "changed"
    shutil.copytree(source, data)
    artifact.write_jsonl(data / "eval" / "shown.jsonl", rows)
    make(data, stage="data")
    return data


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ({}, {}, "its rows show pictures, and .* takes none; ask it in words, or take a vlm"),
        (
            {"dataset_kwargs": {"data_files": {"test": "eval/words.jsonl"}}},
            {"controls": ["black"]},
            "its rows show no pictures: there is nothing to replace, so drop `controls`",
        ),
    ],
)
def test_what_a_text_model_cannot_be_asked_is_refused(
    workspace: Path, lively_text: Path, shown: Path, task: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^params/mine/eval/shown.yaml: {message}"):
        evaluate(lively_text, shown, task, **changes)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        (
            {"dataset_kwargs": {"data_files": {"test": "eval/words.jsonl"}}},
            {"controls": ["other"]},
            "nothing to replac",
        ),
        ({"num_fewshot": 2}, {}, "num_fewshot shows no pictures of its examples; set it to 0"),
        ({"generation_kwargs": {"do_sample": True}}, {}, "generation_kwargs ask for sampling"),
        ({"generation_kwargs": {"temperature": 0.7}}, {}, "generation_kwargs ask for sampling"),
        ({"generation_kwargs": {"max_gen_tok": 3}}, {}, "unknown key 'generation_kwargs.max_gen_tok'; did you mean"),
        ({}, {"controls": ["noize"]}, "controls"),
    ],
)
def test_what_no_model_that_sees_can_be_asked_is_refused(
    workspace: Path, lively: Path, shown: Path, task: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(lively, shown, task, **changes)


def test_another_rows_picture_needs_answers_to_differ(
    workspace: Path, lively: Path, shown: Path, make_artifact: Make
) -> None:
    said = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "7."}]
    rows = [{"id": row["id"], "messages": said, "images": row["images"]} for row in rows_of(shown)[:2]]
    data = _changed(workspace, shown, make_artifact, rows)
    task = SCORED | {"process_results": "reference_loss", "doc_to_text": "Which?", "doc_to_target": "7."}
    with pytest.raises(ConfigError, match="control `other` needs rows with an `answer`"):
        evaluate(lively, data, task, controls=["other"])
    assert len(samples(evaluate(lively, data, task, controls=["black"]), "shown@black")) == 2


def test_a_question_that_spells_the_placeholder_is_refused(
    workspace: Path, lively: Path, shown: Path, make_artifact: Make
) -> None:
    rows = [{**row, "question": "<image> Which digit?"} for row in rows_of(shown)[:2]]
    with pytest.raises(DataError, match=r"the row that begins '<image> Which digit\?': a text has '<image>', which"):
        evaluate(lively, _changed(workspace, shown, make_artifact, rows))


def test_a_question_whose_pictures_do_not_fit_is_told_or_left_out(
    workspace: Path, lively: Path, shown: Path, make_artifact: Make
) -> None:
    rows = rows_of(shown)[:2]
    long = {**rows[0], "images": rows[0]["images"] * 16}
    data = _changed(workspace, shown, make_artifact, [rows[1], long])
    with pytest.raises(DataError, match=r"task shown, row q0: a prompt of 2\d\d tokens .* in the context of 256"):
        evaluate(lively, data)
    found = samples(evaluate(lively, data, too_long="unanswered"))
    assert found[0]["response"] == rows[1]["answer"]
    assert (found[1]["unanswered"], found[1]["response"], found[1]["scores"]) == (True, "", {"same": 0.0})


def test_the_recipes_own_tasks_are_asked(workspace: Path, lively: Path, pictures_data: Path) -> None:
    """`params/tiny/evaluate_pictures.yaml`, on the small data."""
    folder = Path("params/mine")
    shutil.copytree(REPO / "params/tiny/eval", folder / "eval")
    shutil.copy(REPO / "params/tiny/evaluate_pictures.yaml", folder)
    run = Run(Path("out"), folder / "evaluate_pictures.yaml", "m", Path("x"), {}, Progress(None), main_process=True)
    main(load(folder / "evaluate_pictures.yaml", Config), run, model=lively, data=pictures_data)
    tasks = artifact.read_json(run.out / "results.json")["tasks"]
    assert {name: set(task["controls"]) for name, task in tasks.items()} == {
        "digits": {"all", "kind=which", "kind=parity"},
        "digit_sums": {"all"},
    }
    assert set(tasks["digit_sums"]["metrics"]) == {"exact_match", "adds_up"}
