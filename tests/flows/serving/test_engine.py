"""The engine behind `polm serve` and `polm chat`: many answers at a time, each as if it were alone."""

import importlib.util
import json
import queue
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.serving.answer import Delta, Generation, Sampling, overlap
from flows.serving.engine import Engine, together
from tasks.export import genai
from tasks.stage.errors import DataError, ModelError
from tests.conftest import REPO

QUESTION = [{"role": "user", "content": "What is 12 + 345?"}]


@pytest.fixture(scope="module")
def engine(chat_onnx: Path) -> Any:
    engine = Engine(chat_onnx / "fp32", batch=8, threads=1)
    yield engine
    engine.close()


def begin(engine: Engine, ids: list[int], sampling: Sampling) -> tuple[Generation, "queue.SimpleQueue[Delta]"]:
    pieces: queue.SimpleQueue[Delta] = queue.SimpleQueue()
    return engine.submit(ids, sampling, pieces.put), pieces


def hear(pieces: "queue.SimpleQueue[Delta]") -> tuple[str, int, str]:
    """Text, tokens and finish reason of a whole answer."""
    text = ""
    while True:
        piece = pieces.get(timeout=60)
        text += piece.text
        if piece.reason is not None:
            return text, piece.tokens, piece.reason


def test_answers_together_are_those_alone(engine: Engine, chat_onnx: Path) -> None:
    import numpy as np

    model, tokenizer = genai.load(chat_onnx / "fp32", threads=1)
    prompts = [engine.encode([{"role": "user", "content": "What is " + "1 + " * n + "2?"}]) for n in range(1, 21)]
    assert len({len(ids) for ids in prompts}) > 10, "of different length, so that they are padded"
    lengths = [5 + 3 * (n % 7) for n in range(len(prompts))]
    begun = [begin(engine, ids, Sampling(n, 0.0))[1] for ids, n in zip(prompts, lengths, strict=True)]
    ends = {int(i) for i in tokenizer.eos_token_ids}
    for ids, n, pieces in zip(prompts, lengths, begun, strict=True):
        alone = list(genai.generate(model, ids, max_new_tokens=n))
        ended = alone[-1] in ends
        said = alone[:-1] if ended else alone
        text, tokens, reason = hear(pieces)
        assert text == str(tokenizer.decode(np.asarray(said, dtype=np.int32)))
        assert (tokens, reason) == (len(said), "stop" if ended else "length")


@pytest.fixture(scope="module")
def spaced(chat_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export with a tokenizer as Llama 2 and Mistral have it: most tokens begin a word, `▁word`."""
    folder = tmp_path_factory.mktemp("spaced") / "fp32"
    shutil.copytree(chat_onnx / "fp32", folder)
    path = folder / "tokenizer.json"
    path.chmod(0o644)
    core = json.loads(path.read_text(encoding="utf-8"))
    kept = [token["content"] for token in core["added_tokens"]]
    letters = [*"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+?\n"]
    words = [f"▁w{n}" for n in range(320 - len(kept) - len(letters))]
    core["model"] |= {"vocab": {t: n for n, t in enumerate([*kept, *letters, *words])}, "merges": []}
    core["pre_tokenizer"] = None
    core["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    core["decoder"] = {"type": "Sequence", "decoders": [replace, {"type": "Fuse"}, strip]}
    path.write_text(json.dumps(core), encoding="utf-8")
    template = folder / "chat_template.jinja"  # the model repeats the last token of its prompt
    template.chmod(0o644)
    template.write_text(template.read_text(encoding="utf-8").replace("\\n", " "), encoding="utf-8")
    return folder


def test_the_space_before_the_first_word_is_left_out_as_by_transformers(spaced: Path) -> None:
    """In the server and the chat, in the evaluation of a form, and in a registered model."""
    from mlflow.types.llm import ChatMessage, ChatParams
    from transformers import AutoTokenizer

    from tasks.evaluation.onnx_model import OnnxLM
    from tasks.stage.progress import Progress

    theirs = AutoTokenizer.from_pretrained(spaced)
    model, _ = genai.load(spaced, threads=1)
    engine, judged = Engine(spaced, batch=1, threads=1), OnnxLM(spaced, 1, 1, {}, "error", Progress(None))
    spec = importlib.util.spec_from_file_location("chat_model", REPO / "mlflow" / "chat_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    registered = module.OnnxChat()
    registered.load_context(SimpleNamespace(artifacts={"onnx": str(spaced)}, model_config={"threads": 1}))
    ends, first = {int(i) for i in engine._tokenizer.eos_token_ids}, set()
    for n in range(6):
        messages = [{"role": "user", "content": "a" * (n + 1)}]
        ids = engine.encode(messages)
        said = [token for token in genai.generate(model, ids, max_new_tokens=6) if token not in ends]
        expected = theirs.decode(said)
        first |= {token[:1] for token in theirs.convert_ids_to_tokens(said[:1])}
        assert hear(begin(engine, ids, Sampling(6, 0.0))[1])[0] == expected
        assert judged._answer([ids], 6, []) == [expected]
        answer = registered.predict(
            None, [ChatMessage("user", messages[0]["content"])], ChatParams(max_tokens=6, temperature=0.0)
        )
        assert answer.choices[0].message.content == expected
    assert "▁" in first, "else nothing was left out"
    engine.close()


def test_a_short_answer_does_not_wait_for_a_long_one(engine: Engine) -> None:
    ids = engine.encode(QUESTION)
    began, both, order = threading.Event(), threading.Event(), queue.SimpleQueue[str]()

    def long(piece: Delta) -> None:
        began.set()
        both.wait(30)  # however late this machine comes to the second question
        if piece.reason:
            order.put("long")

    engine.submit(ids, Sampling(200, 0.0), long)
    assert began.wait(30)
    engine.submit(ids, Sampling(2, 0.0), lambda piece: order.put("short") if piece.reason else None)
    both.set()
    assert [order.get(timeout=60), order.get(timeout=60)] == ["short", "long"]


def test_a_stop_text_ends_before_it_also_across_tokens(engine: Engine) -> None:
    ids = engine.encode(QUESTION)
    whole, _, _ = hear(begin(engine, ids, Sampling(40, 0.0))[1])
    stop = whole[5:9]
    text, tokens, reason = hear(begin(engine, ids, Sampling(40, 0.0, stop=(stop,)))[1])
    assert (text, reason) == (whole[: whole.index(stop)], "stop") and tokens < 40
    assert (overlap("a sto", ["stop", "x"]), overlap("a stop", ["y"])) == (3, 0)


def test_a_seed_draws_the_same_again_whoever_else_asks(engine: Engine) -> None:
    ids = engine.encode(QUESTION)
    seeded = Sampling(30, 1.5, seed=7)
    one = hear(begin(engine, ids, seeded)[1])
    others = [begin(engine, ids, Sampling(30, 1.5))[1] for _ in range(3)]
    assert hear(begin(engine, ids, seeded)[1]) == one
    assert len({hear(pieces) for pieces in others} | {one}) > 2, "unseeded ones differ"
    greedy = hear(begin(engine, ids, Sampling(30, 0.0))[1])
    assert hear(begin(engine, ids, Sampling(30, 1.5, top_k=1))[1]) == greedy != one


@pytest.mark.parametrize(
    "sampling", [Sampling(30, 1e-300), Sampling(30, 1e-40, top_k=50), Sampling(30, 2.0, top_p=1e-300)], ids=str
)
def test_almost_no_temperature_is_none(engine: Engine, sampling: Sampling) -> None:
    ids = engine.encode(QUESTION)
    assert hear(begin(engine, ids, sampling)[1]) == hear(begin(engine, ids, Sampling(30, 0.0))[1])


def test_a_cancelled_answer_ends_and_leaves_the_others_alone(engine: Engine) -> None:
    ids = engine.encode(QUESTION)
    kept = begin(engine, ids, Sampling(60, 0.0))[1]
    answer, pieces = begin(engine, ids, Sampling(200, 0.0))
    answer.cancel()
    _, tokens, reason = hear(pieces)
    assert reason == "cancelled" and tokens < 200
    assert hear(kept)[1:] == (60, "length")


def test_closing_finishes_what_has_begun_and_refuses_more(chat_onnx: Path) -> None:
    engine = Engine(chat_onnx / "fp32", batch=2, threads=1)
    ids = engine.encode(QUESTION)
    begun = [begin(engine, ids, Sampling(50, 0.0))[1] for _ in range(5)]
    engine.close()
    assert [hear(pieces)[1:] for pieces in begun] == [(50, "length")] * 5
    with pytest.raises(ModelError, match="no longer served"):
        begin(engine, ids, Sampling(5, 0.0))


def test_what_does_not_fit_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="context of 256"):
        begin(engine, engine.encode(QUESTION), Sampling(256, 0.0))
    with pytest.raises(ModelError, match=r"no genai_config\.json"):
        Engine(tmp_path, batch=1)


def waiting(*samplings: Sampling, ids: int = 10) -> list[Generation]:
    return [Generation([1] * ids, sampling, lambda _: None, None) for sampling in samplings]


def test_who_is_drawn_together() -> None:
    greedy, warm, seeded = Sampling(20, 0.0), Sampling(20, 0.7), Sampling(20, 0.0, seed=1)
    mixed = waiting(greedy, warm, greedy, seeded, greedy)
    assert together(mixed, 8, 256) == [mixed[0], mixed[2], mixed[4]]
    assert together(mixed, 2, 256) == [mixed[0], mixed[2]]
    assert together(mixed, 0, 256) == []
    assert together(mixed[3:], 8, 256) == [mixed[3]], "a seed is for one answer alone"
    long = waiting(greedy, ids=230) + waiting(Sampling(100, 0.0)) + waiting(greedy)
    assert together(long, 8, 256) == [long[0], long[2]], "230 of a prompt and 100 of another's answer are too many"
