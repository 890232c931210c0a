"""Property: five engines give one model's greedy answers, whatever its folder says of sampling and of turns' ends."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from ruamel.yaml import YAML

from bench.serve import make_registry, serving
from flows.serving import chat
from flows.serving.conversation import Conversation
from tasks import base, evaluate
from tasks.export import builder, genai
from tasks.models.chat_template import CHATML
from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.stage import artifact
from tasks.stage.config import load, read_yaml
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.conftest import REPO

pytestmark = pytest.mark.slow

QUESTIONS = [f"What is {'very ' * (n % 5)}{n} + {7 * n % 10}?" for n in range(100)]
LONGEST = 24
"""Tokens of an answer."""
IM_END, END_OF_TEXT = 2, 0
CASES: dict[str, dict[str, Any]] = {
    "sampling, its own end": {
        "settings": {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.5},
        "eos_token": "<|im_end|>",
        "listed": IM_END,
        "end": IM_END,
        "ends": [IM_END],
    },
    "contradicting, no end of text": {
        "settings": {"do_sample": False, "temperature": 0.9, "max_new_tokens": 3, "no_repeat_ngram_size": 2},
        "eos_token": "<|endoftext|>",
        "listed": END_OF_TEXT,
        "end": IM_END,
        "ends": [END_OF_TEXT, IM_END],
    },
    "beams, one of several": {
        "settings": {"num_beams": 4, "length_penalty": 2.0, "min_new_tokens": 12, "suppress_tokens": [20, 21, 22]},
        "eos_token": "<|pad|>",
        "listed": [3, IM_END],
        "end": END_OF_TEXT,
        "ends": [END_OF_TEXT, IM_END, 3],
    },
}
"""What a model folder may bring along: settings that change an answer where they are followed, the tokenizer's end of
text, the ends that `generation_config.json` lists, the token behind an answer in the chat template, and all ends."""


@pytest.fixture(scope="module", params=list(CASES))
def case(
    request: pytest.FixtureRequest,
    chat_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_artifact: Callable[..., artifact.Manifest],
) -> Iterator[dict[str, Any]]:
    """A foreign folder taken in by the base stage, and its export; the working directory is theirs."""
    found = {**CASES[request.param], "root": tmp_path_factory.mktemp("case")}
    with contextlib.chdir(found["root"]):
        _foreign(chat_model, Path("foreign"), found)
        Path("base").mkdir()
        source = base.FolderModel(folder=Path("foreign"), licence="own")
        run = Run(Path("base"), Path("base.yaml"), "base", Path("none"), {}, Progress(None), main_process=True)
        config = {**read_yaml(REPO / "params/tiny/base.yaml"), "dtype": "float32", "source": source.model_dump()}
        base.main(base.Config.model_validate(config), run, data=Path("none"))
        make_artifact(Path("base"))
        options = builder.prepare_options(Path("base"), "fp32", "fp32", {})
        builder.build(Path("base"), Path("onnx/fp32"), precision="fp32", options=options)
        make_artifact(Path("onnx"))
        found["pytorch"] = _evaluated(Path("base"))
        yield found


def _foreign(chat_model: Path, folder: Path, case: dict[str, Any]) -> None:
    """The small chat model with larger weights, so that it says something else to every question, and ends about half
    of its answers; of bytes that are no UTF-8 each runtime makes something else, so it writes printable ASCII only.
    """
    import torch

    model, tokenizer = load_causal_lm(chat_model), load_tokenizer(chat_model)
    texts = [tokenizer.decode([token]) for token in range(model.config.vocab_size)]
    silent = [token for token, text in enumerate(texts) if not (text.isascii() and text.isprintable())]
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4)
        head = model.get_output_embeddings().weight
        head[silent] = 0
        spoken = torch.randperm(250, generator=torch.Generator().manual_seed(3))[:8] + 20
        head[case["end"]] = head[spoken].sum(0)
    end = tokenizer.convert_ids_to_tokens(case["end"])
    tokenizer.chat_template = CHATML.replace("<|im_end|>", end)
    save_model(model, tokenizer, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["eos_token"] = case["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    said = {**case["settings"], "eos_token_id": case["listed"], "pad_token_id": 3}
    (folder / "generation_config.json").write_text(json.dumps(said))


def _evaluated(model: Path) -> list[str]:
    """Greedy answers by the evaluation stage; of white space around them the harness keeps all."""
    recipe = Path("params")
    if not recipe.exists():
        (recipe / "eval").mkdir(parents=True)
        task = read_yaml(REPO / "params/tiny/eval/sums.yaml")
        task["generation_kwargs"] = {"do_sample": False, "max_gen_toks": LONGEST, "until": []}
        choice: dict[str, Any] = {"file": "eval/sums.yaml", "limit": None, "group_by": []}
        settings = read_yaml(REPO / "params/tiny/evaluate.yaml") | {"tasks": [choice], "batch_size": 16}
        for path, content in ((recipe / "eval/sums.yaml", task), (recipe / "evaluate.yaml", settings)):
            with path.open("w") as f:
                YAML(typ="safe").dump(content, f)
        rows = [{"id": str(n), "question": q, "answer": "1"} for n, q in enumerate(QUESTIONS)]
        artifact.write_jsonl(Path("data/eval/sums.jsonl"), rows)
    out = Path(f"metrics-{model.name}")
    run = Run(out, recipe / "evaluate.yaml", out.name, Path("none"), {}, Progress(None), main_process=True)
    evaluate.main(load(recipe / "evaluate.yaml", evaluate.Config), run, model=model, data=Path("data"))
    return [row["response"] for row in artifact.read_jsonl(out / "samples/sums.jsonl")]


def test_the_answers_can_tell_a_difference(case: dict[str, Any]) -> None:
    answers = case["pytorch"]
    assert len(set(answers)) > 50
    assert sum(len(answer) < 8 for answer in answers) > 10, "some end early"
    assert sum(len(answer) > 20 for answer in answers) > 10, "and some are cut off"


def test_every_form_of_the_model_lists_all_ends_and_nothing_else(case: dict[str, Any]) -> None:
    said = json.loads(Path("base/generation_config.json").read_text())
    ends = said.pop("eos_token_id")
    assert sorted(ends if isinstance(ends, list) else [ends]) == case["ends"]
    assert set(said) <= {"bos_token_id", "pad_token_id", "transformers_version"}
    exported = artifact.read_json(Path("onnx/fp32/genai_config.json"))
    assert genai.end_tokens(exported) == case["ends"]
    assert genai.is_plain(exported)


def test_onnx_evaluates_as_pytorch_does(case: dict[str, Any]) -> None:
    assert _evaluated(Path("onnx/fp32")) == case["pytorch"]


def test_a_folder_that_no_stage_took_in_is_evaluated_the_same(case: dict[str, Any]) -> None:
    assert _evaluated(Path("foreign")) == case["pytorch"]


def test_polm_chat_answers_as_pytorch_does(case: dict[str, Any]) -> None:
    answers = []
    conversation = Conversation(Path("onnx/fp32"), max_new_tokens=LONGEST, temperature=0)
    for question in QUESTIONS:
        conversation.forget()
        answers.append("".join(conversation.ask(question)))
    assert answers == case["pytorch"]
    out = io.StringIO()
    console = Console(file=out, width=200)
    chat.answer(Path("onnx/fp32"), QUESTIONS[0], max_new_tokens=LONGEST, temperature=0, console=console)
    assert out.getvalue() == case["pytorch"][0] + "\n"


def test_polm_serve_answers_as_pytorch_does(case: dict[str, Any], mlflow_template: Path) -> None:
    root = case["root"] / "project"
    (root / ".polm").mkdir(parents=True)
    shutil.copyfile(mlflow_template, root / ".polm/mlflow.db")
    make_registry(root, [case["root"] / "onnx/fp32"])
    with serving(root, "--threads", "1") as (url, _process), httpx.Client(timeout=60) as client:
        answers = []
        for question in QUESTIONS:
            messages = [{"role": "user", "content": question}]
            body = {"messages": messages, "max_tokens": LONGEST, "temperature": 0}
            choice = client.post(f"{url}/chat/completions", json=body).json()["choices"][0]
            answers.append(choice["message"]["content"])
    assert answers == case["pytorch"]


def test_the_model_that_mlflow_serves_answers_as_pytorch_does(
    case: dict[str, Any], mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    shutil.copyfile(mlflow_template, "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{case['root'] / 'mlflow.db'}")
    mlflow.set_experiment("served")
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="chat",
            python_model=str(REPO / "mlflow/chat_model.py"),
            artifacts={"onnx": str(case["root"] / "onnx/fp32")},
            pip_requirements=["mlflow", "onnxruntime-genai"],
            model_config={"threads": 1},
        )
    model = mlflow.pyfunc.load_model(info.model_uri)
    answers = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        answer = model.predict({"messages": messages, "max_tokens": LONGEST, "temperature": 0.0})
        answers.append(answer["choices"][0]["message"]["content"])
    assert answers == case["pytorch"]
