"""Fixtures that several tests share, and which tests `make check` leaves out because they take long."""

import os

os.environ.update(HF_HUB_OFFLINE="1", DO_NOT_TRACK="1", MLFLOW_DISABLE_TELEMETRY="true", DVC_NO_ANALYTICS="1")
os.environ.update(PREFECT_SERVER_ANALYTICS_ENABLED="false", TOKENIZERS_PARALLELISM="false")
# Threads that wait must leave the cores to the tests beside them; of these each has one core, a test alone has two.
os.environ.update(OMP_NUM_THREADS="1" if "PYTEST_XDIST_WORKER" in os.environ else "2", OMP_WAIT_POLICY="passive")

import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.stage import artifact

pytest_plugins = ["tests.support.processes"]
REPO = Path(__file__).parent.parent
TRAINER: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 1e-3,
    "max_length": 128,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "logging_steps": 1,
}
"""TRL settings that suit the `chat_model` fixture; a test adds its steps."""
SLOW_FIXTURES = {
    "sums_data", "mlflow_template", "chat_onnx", "promotable", "reward_model", "pictures_data", "seeing_model",
    "lively_model", "seeing_onnx", "spoken_data", "hearing_model", "lively_ears", "hearing_onnx",
}  # fmt: skip
"""A test that uses one of these trains, serves, or keeps a registry: it is `slow` without saying so."""
QUICK = 15.0
"""Seconds of processor time that a test may take, its processes included, unless it is `slow`."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by its fixtures, so that no test can forget it, and put the longest file first.

    Where files are handed out to several processes, none is left alone with that one at the end.
    """
    items.sort(key=lambda item: item.path.name != "test_end_to_end.py")
    for item in items:
        if isinstance(item, pytest.Function) and SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test that takes long and does not say so."""
    before = os.times()
    outcome = yield
    spent = sum(os.times()[:4]) - sum(before[:4])
    if spent > QUICK and item.get_closest_marker("slow") is None:
        pytest.fail(f"it took {spent:.0f} s of processor time: mark it `slow`, and `make check` leaves it out")
    return outcome


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that `.polm` and `artifacts` are the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def make_artifact() -> Callable[..., artifact.Manifest]:
    """Turn a folder that a test filled into an artifact, by writing its manifest."""

    def make(folder: Path, stage: str = "test", **inputs: str) -> artifact.Manifest:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / artifact.MANIFEST]
        files = {str(path.relative_to(folder)): artifact.sha256(path) for path in paths}
        manifest = artifact.Manifest(stage=stage, params="0" * 64, inputs=inputs, files=files)
        artifact.write_json(folder / artifact.MANIFEST, manifest.model_dump())
        return manifest

    return make


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """A random two-layer Llama with a trained tokenizer and a marked ChatML template, as a model artifact."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tasks.models.chat_template import CHATML
    from tasks.models.folder import save_model

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(
        ["What is 12 + 345? The answer is 357. Happy to help! Sure! Add user assistant"] * 4, trainer
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|pad|>")
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    folder = tmp_path_factory.mktemp("chat_model")
    save_model(LlamaForCausalLM(config), tokenizer, folder)
    make_artifact(folder, stage="base")
    return folder


@pytest.fixture
def make_run(workspace: Path) -> Callable[..., Any]:
    """A `Run` as the stage's command would make it, for calling a stage's `main` in this process."""
    from tasks.stage.lifecycle import Run
    from tasks.stage.progress import Progress

    def make(name: str, method: str = "") -> Run:
        out = workspace / name
        out.mkdir()
        return Run(
            out=out,
            params_file=Path(f"params/test/{name}.yaml"),
            name=name,
            checkpoints=workspace / ".checkpoints" / name,
            manifests={},
            progress=Progress(None),
            main_process=True,
            method=method or name,
        )

    return make


@pytest.fixture(scope="session")
def sums_data(tmp_path_factory: pytest.TempPathFactory, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """A small data artifact of sums, in the layout that the data stage writes."""
    from tasks.generators import arithmetic

    folder = tmp_path_factory.mktemp("data")

    def user(row: dict[str, Any]) -> list[dict[str, str]]:
        return [{"role": "user", "content": row["question"]}]

    def assistant(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    sft = [{"messages": user(r) + assistant(r["reply"])} for r in arithmetic.conversations(80, 1, [1, 2], 0.5)]
    pairs = [
        {"prompt": user(r), "chosen": assistant(r["chosen"]), "rejected": assistant(r["rejected"])}
        for r in arithmetic.preferences(80, 2, [1, 2], 0.3)
    ]
    rated = [
        {"prompt": user(r), "completion": assistant(r["reply"]), "label": r["liked"]}
        for r in arithmetic.feedback(80, 5, [1, 2], 0.3)
    ]
    asked = [
        {"prompt": user(r), "answer": r["answer"], "digits": r["digits"]} for r in arithmetic.questions(80, 6, [1, 2])
    ]
    texts = [{"text": r["text"]} for r in arithmetic.texts(600, 3, [1, 2], 0.5, 0.0)]
    sets = {"sft": sft, "preferences": pairs, "feedback": rated, "prompts": asked, "pretrain": texts}
    for name, rows in sets.items():
        numbered = [{"id": str(i), **row, "source": "test"} for i, row in enumerate(rows)]
        artifact.write_jsonl(folder / name / "train.jsonl", numbered[16:])
        artifact.write_jsonl(folder / name / "validation.jsonl", numbered[:16])
    questions = [{"id": str(i), **r} for i, r in enumerate(arithmetic.questions(24, 4, [1, 2]))]
    artifact.write_jsonl(folder / "eval" / "sums.jsonl", questions)
    make_artifact(folder, stage="data")
    return folder


@pytest.fixture(scope="session")
def reward_model(chat_model: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> Path:
    """A reward model as the reward stage writes it, untrained."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from tasks.models.folder import load_tokenizer, save_model

    tokenizer = load_tokenizer(chat_model)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(
        chat_model, num_labels=1, dtype="float32", pad_token_id=tokenizer.pad_token_id
    )
    folder = tmp_path_factory.mktemp("reward")
    save_model(model, tokenizer, folder)
    make_artifact(folder, stage="reward")
    return folder


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory, chat_model: Path, make_artifact: Any) -> Path:
    """A judge as the judge stage writes it, untrained."""
    from tasks.judges.protocol import CONSTITUTION as KEPT
    from tests.support.judges import CONSTITUTION

    folder = tmp_path_factory.mktemp("judge") / "judge"
    shutil.copytree(chat_model, folder, ignore=shutil.ignore_patterns(artifact.MANIFEST))
    artifact.write_json(folder / KEPT, CONSTITUTION.model_dump(mode="json"))
    make_artifact(folder, stage="judge")
    return folder


@pytest.fixture(scope="session")
def pictures_data(tmp_path_factory: pytest.TempPathFactory, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """A small data artifact of digits, as the data stage writes it."""
    from tests.support import pictures

    return pictures.build_data(tmp_path_factory.mktemp("pictures") / "pictures", make_artifact)


@pytest.fixture(scope="session")
def seeing_model(
    chat_model: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Callable[..., artifact.Manifest]
) -> Path:
    """The chat model with an untrained ResNet in front, as a model artifact."""
    from tests.support import pictures

    return pictures.build_model(chat_model, tmp_path_factory.mktemp("seeing") / "seeing", make_artifact)


@pytest.fixture(scope="session")
def lively_model(
    chat_model: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Callable[..., artifact.Manifest]
) -> Path:
    """A model that sees and says something else to every picture and question, as a model artifact."""
    from tests.support import pictures

    folder = tmp_path_factory.mktemp("lively")
    text = pictures.build_lively_text(chat_model, folder / "text", make_artifact)
    return pictures.build_lively(text, folder / "lively", make_artifact)


@pytest.fixture(scope="session")
def seeing_onnx(lively_model: Path, pictures_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model in fp32 and int8, as the export stage writes it."""
    from tests.support import pictures

    out = tmp_path_factory.mktemp("seeing_onnx") / "vlm"
    pictures.export(lively_model, pictures_data, out)
    return out


@pytest.fixture(scope="session")
def spoken_data(tmp_path_factory: pytest.TempPathFactory, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """A small data artifact of spoken digits, as the data stage writes it."""
    from tests.support import sounds

    return sounds.build_data(tmp_path_factory.mktemp("spoken") / "spoken", make_artifact)


@pytest.fixture(scope="session")
def hearing_model(
    chat_model: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Callable[..., artifact.Manifest]
) -> Path:
    """The chat model with untrained ears, as a model artifact."""
    from tests.support import sounds

    return sounds.build_model(chat_model, tmp_path_factory.mktemp("hearing") / "hearing", make_artifact)


@pytest.fixture(scope="session")
def lively_ears(
    chat_model: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Callable[..., artifact.Manifest]
) -> Path:
    """A model that hears and says something else to every sound and question, as a model artifact."""
    from tests.support import hearing

    return hearing.build_lively(chat_model, tmp_path_factory.mktemp("ears"), make_artifact)


@pytest.fixture(scope="session")
def hearing_onnx(lively_ears: Path, spoken_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model in fp32 and int8, as the export stage writes it."""
    from tests.support import pictures

    out = tmp_path_factory.mktemp("hearing_onnx") / "speech"
    pictures.export(lively_ears, spoken_data, out)
    return out


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread, and on a busy machine wait for it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to loopback go there, whatever proxy this machine's environment names."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
