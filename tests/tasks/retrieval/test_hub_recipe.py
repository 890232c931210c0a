"""Property: retrieval of `qwen3` runs from hub data to a reader's rows, with local folders in the place of the hub.

The folders have HotpotQA's columns, and a small untrained encoder stands for the published one.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from tasks import data, raft, rag_chunks, rag_index, retriever
from tasks.retrieval import encoder
from tasks.retrieval.chunks import read_chunks
from tasks.retrieval.index import Index
from tasks.retrieval.scratch import Scratch, build
from tasks.stage import artifact
from tasks.stage.config import parse, read_yaml
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.conftest import REPO
from tests.support import hub
from tests.support.indexed import SCRATCH, lines

QWEN3 = REPO / "params" / "qwen3"
TOWNS = ["Olvar", "Fallmouth", "Brenth", "Quarra", "Selm", "Dunwick", "Istra", "Pellow"]
ON_A_CPU = {"max_steps": 1, "per_device_train_batch_size": 8, "bf16": False, "use_cpu": True, "warmup_steps": 0}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(autouse=True)
def cache(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workspace / "cache")


def paragraph(number: int) -> tuple[str, list[str]]:
    """A title and its sentences; one title has a slash, as some of Wikipedia's have."""
    name = f"Person {number:03}" + ("/Life" if number == 3 else "")
    town, year = TOWNS[number % len(TOWNS)], 1700 + 2 * number
    return name, [
        f"{name} was a chemist.",
        f" The chemist number {number} lived in {town}.",
        f" The death came in {year}.",
    ]


def question(number: int, rng: random.Random) -> dict[str, Any]:
    """A row with ten paragraphs; every fifth is answered by yes, which stands in no sentence."""
    shown = [number, *rng.sample([other for other in range(100) if other != number], 9)]
    rng.shuffle(shown)
    context = [paragraph(other) for other in shown]
    title, told = paragraph(number)
    at = 1 + number % 2
    answer = "yes" if number % 5 == 4 else told[at].rstrip(".").split()[-1]
    asked = f"Where did chemist number {number} live?" if at == 1 else f"When did chemist number {number} die?"
    return {
        "id": f"{number:024x}",
        "question": asked,
        "answer": answer,
        "type": "bridge",
        "level": ["easy", "medium", "hard"][number % 3],
        "supporting_facts": {"title": [title, title], "sent_id": [0, at]},
        "context": {"title": [title for title, _ in context], "sentences": [sentences for _, sentences in context]},
    }


def publish() -> None:
    import datasets

    text = datasets.Value("string")
    features = {
        **dict.fromkeys(("id", "question", "answer", "type", "level"), text),
        "supporting_facts": {"title": datasets.List(text), "sent_id": datasets.List(datasets.Value("int32"))},
        "context": {"title": datasets.List(text), "sentences": datasets.List(datasets.List(text))},
    }
    rng = random.Random(0)
    for split, numbers in (("train", range(80)), ("validation", range(80, 100))):
        rows = [question(number, rng) for number in numbers]
        hub.publish(Path("hotpotqa/hotpot_qa"), split, rows, features, "distractor")


def made(module: Any, name: str, **inputs: Path) -> Path:
    """Run a stage by its file of the recipe, for a machine without a GPU."""
    values = read_yaml(QWEN3 / f"{name}.yaml") | {"threads": 1}
    if "split" in values:
        values["split"] = values["split"] | {"validation": 0.25}
    if "trainer" in values:
        values = values | {"launch": None, "trainer": values["trainer"] | ON_A_CPU}
    folder = Path("artifacts") / name
    manifests = {key: artifact.verify(place) for key, place in inputs.items()}
    identities = {key: manifest.digest for key, manifest in manifests.items()}
    stage = module.__name__.removeprefix("tasks.")
    with artifact.writing(folder, stage=stage, params="0" * 64, inputs=identities) as temp:
        path = QWEN3 / f"{name}.yaml"
        run = Run(temp, path, name, Path(".checkpoints") / name, manifests, Progress(None), main_process=True)
        module.main(parse(path, values, module.Config), run, **inputs)
    return folder


def test_qwen3_reads_hotpotqa_from_hub_to_rows_with_passages(workspace: Path) -> None:
    """By data, passages, one step of the retriever, the index and RAFT's rows."""
    publish()
    questions = made(data, "qadocs")
    asked = [row for split in ("train", "validation") for row in lines(questions / f"prompts/{split}.jsonl")]
    tested = lines(questions / "eval/hotpotqa.jsonl")
    assert (len(asked), len(tested)) == (64, 16), "of five questions, one is answered by yes"
    assert {row["answer"] for row in tested} <= {*TOWNS, *map(str, range(1700, 1900))}

    passages = made(rag_chunks, "qapassages")
    chunks = read_chunks(passages)
    assert len({chunk.document for chunk in chunks}) == len(chunks) == 100, "a paragraph is a passage, and stands once"
    assert chunks[0].text.startswith("Person 000\n\nPerson 000 was a chemist. The chemist")
    (slashed,) = [row for row in asked if row["document"] == "hotpot/Person 003%2FLife.txt"]
    assert slashed["answer"] == "1706" and slashed["document"] in {chunk.document for chunk in chunks}

    stand_in, place = Path("BAAI/bge-small-en-v1.5"), Path("scratch")
    place.mkdir()
    encoder.save(build(Scratch(**SCRATCH), [chunk.text for chunk in chunks], 0, place), stand_in)
    trained = made(retriever, "qaretriever", chunks=passages, data=questions)
    assert artifact.read_json(trained / "metrics.json")["steps"] == 1
    counts = artifact.read_json(trained / "report.json")
    assert not [key for key, value in counts.items() if key == "in no chunk" and value]

    index = made(rag_index, "qaindex", chunks=passages, encoder=trained, data=questions)
    hit = Index.open(index).search(["Where did chemist number 12 live?"], 1, "lexical")[0][0]
    assert hit.chunk.document == "hotpot/Person 012.txt"
    rows = made(raft, "qagrounded", index=index, data=questions)
    conditions = {row["condition"] for row in lines(rows / "eval/hotpotqa.jsonl")}
    assert conditions == set(read_yaml(QWEN3 / "qagrounded.yaml")["conditions"])
    report = artifact.read_json(rows / "report.json")
    assert report["train"]["in no chunk"] == report["test"]["in no chunk"] == 0
    quoted = [row for row in lines(rows / "sft/train.jsonl") if row["condition"] == "gold"]
    assert quoted and all("[1]" in row["messages"][-1]["content"] for row in quoted)
