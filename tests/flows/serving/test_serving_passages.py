"""Property: `polm serve` with an index, to the OpenAI client: what is shown, cited, refused, traced and exchanged."""

import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from bench.serve import NAME, client, make_registry, promote, serving
from tasks.export import genai
from tasks.retrieval.prompts import PromptFormat
from tests.support.rag import DOCUMENTS, FORM, LICENCE, make_rag
from tests.support.serving import ask, counter, models_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_proxy")]
QUESTION = "Where does Bexot live?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
DIGIT = r"(\d)"
"""A citation that an untrained model gives too."""
MOVED = DOCUMENTS | {"people/bexot.txt": "Bexot lives in Tarn now."}


@pytest.fixture(scope="module")
def project(chat_onnx: Path, mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader as version 1, the champion; as 2 with the index rebuilt; and as 3 a model without an index."""
    root = tmp_path_factory.mktemp("serve") / "project"
    (root / ".polm").mkdir(parents=True)
    shutil.copyfile(mlflow_template, root / ".polm/mlflow.db")
    make_registry(root, [chat_onnx / "fp32", chat_onnx / "fp32", chat_onnx / "int8"])
    for version, documents in {"1": DOCUMENTS, "2": MOVED}.items():
        make_rag(root / f"version{version}/artifacts/rag", documents, citation=DIGIT)
        client(root).set_model_version_tag(NAME, version, "index", version * 64)
    return root


@pytest.fixture
def fresh(project: Path) -> Iterator[Path]:
    promote(project, "1")
    yield project
    promote(project, "1")


@pytest.fixture(scope="module")
def url(project: Path) -> Iterator[str]:
    promote(project, "1")
    with serving(project, "--threads", "1", "--passages", "1", "--poll", "3600") as (url, _):
        yield url


def _form() -> PromptFormat:
    return PromptFormat.model_validate(FORM.model_dump() | {"citation": DIGIT})


def test_the_openai_client_gets_the_sources_whole_and_streamed(url: str, chat_onnx: Path) -> None:
    api = OpenAI(base_url=url, api_key="none")
    assert [model.id for model in api.models.list()] == [NAME, f"{NAME}-rag"]
    assert api.models.retrieve(f"{NAME}-rag").id == f"{NAME}-rag"
    options: Any = {"messages": MESSAGES, "max_tokens": 40, "temperature": 0}
    plain = api.chat.completions.create(model=NAME, **options)
    assert plain.choices[0].message.annotations is None and not hasattr(plain.choices[0].message, "sources")
    answer = api.chat.completions.create(model=f"{NAME}-rag", **options)
    message: Any = answer.choices[0].message
    (source,) = message.sources
    assert (source["text"], source["licence"]) == (DOCUMENTS["people/bexot.txt"], LICENCE)
    _, tokenizer = genai.load(chat_onnx / "fp32")
    asked = [{"role": "user", "content": FORM.render(QUESTION, [source["text"]])}]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(genai.encode(tokenizer, genai.render(tokenizer, asked)))
    marks = [found.span() for found in re.finditer(DIGIT, message.content) if found[1] == "1"]
    assert [(a.url_citation.start_index, a.url_citation.end_index) for a in message.annotations] == marks
    chunks = list(api.chat.completions.create(model=NAME, **options, stream=True, extra_body={"rag": True}))
    deltas: list[Any] = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == message.content
    assert deltas[0].sources == message.sources, "known before the first word"
    (marked,) = [delta.annotations for delta in deltas if getattr(delta, "annotations", None) is not None]
    assert [a["url_citation"]["start_index"] for a in marked] == [start for start, _ in marks]
    assert chunks[-1].choices[0].finish_reason
    again = [*MESSAGES, message, {"role": "user", "content": "And Ada?"}]
    assert api.chat.completions.create(model=f"{NAME}-rag", messages=again, max_tokens=2).choices


def test_passages_are_found_for_the_last_question_and_within_the_limits(url: str) -> None:
    turns = [*MESSAGES, {"role": "assistant", "content": "Olvar."}, {"role": "user", "content": "Ada Pell's pet?"}]
    answer = ask(url, messages=turns, rag={"passages": 1}, max_tokens=2).json()
    assert [s["document"] for s in answer["choices"][0]["message"]["sources"]] == ["people/ada pell.txt"]
    assert "sources" not in ask(url, messages=turns, rag=False, max_tokens=2).json()["choices"][0]["message"]
    assert counter(url, 'polm_retrieval_seconds_count{part="embed"}') >= 1
    assert counter(url, "polm_passages_total") >= 1
    assert httpx.get(url.replace("/v1", "/health")).status_code == 200


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"rag": {"passages": 2}}, "rag.passages", "at most 1 are shown here"),
        ({"rag": {"passages": 0}}, "rag.passages", "greater than or equal to 1"),
        ({"rag": {"passage": 1}}, "rag.passage", "did you mean 'rag.passages'"),
        ({"rag": "yes"}, "rag", "boolean"),
        ({"rag": False, "model": f"{NAME}-rag"}, "rag", "asks for passages"),
        ({"rag": True, "messages": [{"role": "system", "content": "x"}]}, "messages", "no message is the user's"),
    ],
)
def test_what_cannot_be_answered_is_refused(url: str, changes: dict[str, Any], param: str, message: str) -> None:
    answer = ask(url, **({"messages": MESSAGES} | changes))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert message in error["message"]
    assert counter(url, "polm_requests_taken") == 0, "it takes no room"


def test_the_trace_has_the_passages(url: str, project: Path) -> None:
    answer = ask(url, messages=MESSAGES, rag=True).json()
    experiment = client(project).get_experiment_by_name(NAME).experiment_id
    found: list[Any] = []

    def traced() -> bool:
        found[:] = client(project).search_traces([experiment], f"tags.request_id = '{answer['id']}'")
        return bool(found)

    wait_for(traced)
    spans = {span.name: span for span in found[0].data.spans}
    assert spans["chat"].inputs["messages"] == MESSAGES, "what the client sent, and not the prompt"
    assert spans["retrieve"].parent_id == spans["chat"].span_id
    (document,) = spans["retrieve"].outputs
    assert document["page_content"] == DOCUMENTS["people/bexot.txt"]
    assert document["metadata"]["sha256"] == answer["choices"][0]["message"]["sources"][0]["sha256"]
    assert found[0].info.tags["index"] == "1" * 64


def test_a_version_without_an_index_refuses_and_is_not_served_with_rag(fresh: Path) -> None:
    promote(fresh, "3")
    with serving(fresh, "--threads", "1") as (url, _):
        api = OpenAI(base_url=url, api_key="none")
        assert [model.id for model in api.models.list()] == [NAME]
        with pytest.raises(BadRequestError, match=f"{NAME}/3 has no index to find passages in"):
            api.chat.completions.create(model=f"{NAME}-rag", messages=MESSAGES)
        assert ask(url).status_code == 200
    with (
        pytest.raises(AssertionError, match="has no index to find passages in: promote a reader"),
        serving(fresh, "--rag"),
    ):
        pass


def test_an_index_that_is_rebuilt_is_swapped_without_losing_a_request(fresh: Path) -> None:
    with serving(fresh, "--threads", "1", "--poll", "0.1", "--rag") as (url, process), ThreadPoolExecutor(2) as pool:
        seen: list[tuple[str, str]] = []
        ending = threading.Event()

        def ask_until_exchanged(number: int) -> list[int]:
            statuses = []
            while not ending.is_set():
                answer = ask(url, messages=MESSAGES, max_tokens=3 + number)
                statuses.append(answer.status_code)
                body = answer.json()
                seen.append((body["model"], body["choices"][0]["message"]["sources"][0]["text"]))
            return statuses

        asking = [pool.submit(ask_until_exchanged, number) for number in range(2)]
        try:
            wait_for(lambda: len(seen) > 10)
            promote(fresh, "2")
            wait_for(lambda: counter(url, "polm_swaps_total") == 1, 500)
            after = len(seen)
            wait_for(lambda: len(seen) > after + 10)
        finally:
            ending.set()
        assert {status for future in asking for status in future.result(timeout=90)} == {200}
        assert set(seen) == {
            (f"{NAME}/1", DOCUMENTS["people/bexot.txt"]),
            (f"{NAME}/2", MOVED["people/bexot.txt"]),
        }, "an answer and its passages are of one version"
        wait_for(lambda: len(models_of(process)) == 2)  # a model and an index


def test_an_index_that_dies_is_opened_again(fresh: Path) -> None:
    with serving(fresh, "--threads", "1", "--poll", "0.1") as (url, process):
        before = models_of(process)
        index = max(before, key=lambda child: child.create_time())
        index.kill()
        index.wait(60)
        assert ask(url).status_code == 200, "words need no index"
        wait_for(lambda: ask(url, messages=MESSAGES, rag=True).status_code == 200, 300)
        wait_for(lambda: len(models_of(process)) == 2)
