"""The retriever's stage: what it learns and measures, a kill in the middle, and settings that do not go together."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file

from tasks import retriever
from tasks.retrieval import encoder as encoders
from tasks.retrieval import origins
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError
from tests.support.indexed import FUSION, SCRATCH, people, save_encoder, write, write_questions
from tests.support.kill import start, wait_for_step

TRAINER: dict[str, Any] = {
    "max_steps": 24,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "learning_rate": 5e-3,
    "batch_sampler": "no_duplicates",
    "logging_steps": 1,
    "save_steps": 8,
    "use_cpu": True,
}
SETTINGS: dict[str, Any] = {
    "seed": 1,
    "threads": 1,
    "launch": None,
    "dataset": "prompts",
    "test": "facts",
    "encoder": {"scratch": SCRATCH},
    "embed_titles": False,
    "negatives": {"count": 1, "skip": 0, "among": 4},
    "rewording": {"copies": 1, "dropped_words": 0.2, "added_words": 1, "longest": 3},
    "scale": 20.0,
    "dimensions": None,
    "teacher": None,
    "batch_size": 8,
    "fusion": FUSION,
    "bootstrap_samples": 200,
    "trainer": TRAINER,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("retrieving")
    return {
        "chunks": write(people(), place / "chunks", make_artifact),
        "data": write_questions(place / "data", make_artifact),
    }


def trained(make_run: Any, inputs: dict[str, Path], **changed: Any) -> Path:
    run = make_run("retriever")
    retriever.main(retriever.Config(**{**SETTINGS, **changed}), run, **inputs)
    out: Path = run.out
    return out


@pytest.mark.slow
def test_training_finds_more_and_says_so(make_run: Any, inputs: dict[str, Path], one_thread: None) -> None:
    out = trained(make_run, inputs, trainer=TRAINER | {"max_steps": 120, "save_steps": 60})
    found = artifact.read_json(out / "retrieval.json")
    for split, count in (("validation", 40), ("test", 30)):
        part = found[split]
        assert part["questions"] == count
        assert set(part["scores"]) == {"lexical", "before", "after", "fused"}
        gained = part["differences"]["after - before"]["ndcg@10"]
        assert gained["verdict"] == "better"
        after, before = (part["scores"][name]["ndcg@10"] for name in ("after", "before"))
        assert gained["value"] == pytest.approx(after["value"] - before["value"], abs=1e-5)
        assert after["low"] <= after["value"] <= after["high"]
        assert set(part["differences"]["fused - lexical"]) == set(part["scores"]["after"])
    scores = found["validation"]["scores"]
    assert scores["fused"]["ndcg@10"]["value"] >= max(scores[name]["ndcg@10"]["value"] for name in ("lexical", "after"))
    metrics = artifact.read_json(out / "metrics.json")
    assert metrics["recall@1"] == found["test"]["scores"]["after"]["recall@1"]["value"]
    assert metrics["steps"] == 120
    assert [line["step"] for line in artifact.read_jsonl(out / "curves.jsonl") if "loss" in line] == [*range(1, 121)]
    report = artifact.read_json(out / "report.json")
    assert report["test"] == {"read": 31, "used": 30, "without an answer": 1, "in no chunk": 0}
    assert report["train"]["pairs"] == report["train"]["used"] == report["train"]["read"]
    assert encoders.load(out).get_embedding_dimension() == 32


def test_every_weight_moves_and_the_folder_is_an_encoder(
    make_run: Any, inputs: dict[str, Path], tmp_path: Path
) -> None:
    texts = [chunk.text for chunk in people()]
    (tmp_path / "place").mkdir()
    source = origins.ScratchEncoder.model_validate({"scratch": SCRATCH})
    encoders.save(origins.fetch(source, texts, SETTINGS["seed"], tmp_path / "place"), tmp_path / "before")
    out = trained(make_run, inputs, trainer=TRAINER | {"max_steps": 8})
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "before", out))
    assert before.keys() == after.keys()
    assert [name for name in before if (before[name] == after[name]).all()] == []
    assert encoders.files(out) == encoders.files(tmp_path / "before")


@pytest.mark.slow
def test_sizes_that_are_trained_do_alone(make_run: Any, inputs: dict[str, Path], one_thread: None) -> None:
    from tasks.retrieval.dense import Dense

    out = trained(make_run, inputs, dimensions=[32, 8], trainer=TRAINER | {"max_steps": 120, "save_steps": 120})
    model = encoders.load(out)
    texts = [chunk.text for chunk in people()]
    vectors = encoders.unit(encoders.embed(model, texts, 8, queries=False), 8)
    rows = artifact.read_jsonl(inputs["data"] / "prompts" / "train.jsonl")
    asked = encoders.unit(encoders.embed(model, [row["question"] for row in rows], 1, queries=True), 8)
    _, found = Dense.of(vectors).search(asked, 1)
    right = [texts[at] == row["quote"] for at, row in zip(found[:, 0], rows, strict=True)]
    assert sum(right) / len(right) > 0.3, "by chance 0.01"


@pytest.mark.slow
def test_a_teacher_is_learnt_from(make_run: Any, inputs: dict[str, Path], tmp_path: Path, one_thread: None) -> None:
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    place = save_encoder(tmp_path / "reader", lambda folder, stage: None)
    shape = {key: value for key, value in SCRATCH["bert"].items() if "dropout" not in key}
    config = BertConfig(vocab_size=300, max_position_embeddings=128, num_labels=1, pad_token_id=0, **shape)
    BertForSequenceClassification(config).save_pretrained(place, safe_serialization=True)
    shutil.rmtree(place / "1_Pooling")
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (place / name).unlink(missing_ok=True)
    CrossEncoder(str(place), device="cpu").save_pretrained(str(tmp_path / "teacher"), create_model_card=False)
    teacher = {"folder": str(tmp_path / "teacher"), "batch_size": 8, "licence": "MIT"}
    out = trained(make_run, inputs, teacher=teacher, trainer=TRAINER | {"max_steps": 40, "save_steps": 40})
    losses = [line["loss"] for line in artifact.read_jsonl(out / "curves.jsonl") if "loss" in line]
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.slow
def test_kill_9_and_run_again_gives_the_same_bytes(workspace: Path, inputs: dict[str, Path]) -> None:
    params = workspace / "retriever.yaml"
    with params.open("w") as file:
        YAML(typ="safe").dump(SETTINGS | {"max_left_out": 0.0, "max_cut": 0.0}, file)
    words = [word for name, path in inputs.items() for word in (f"--{name}", str(path))]
    out = Path("artifacts/models/retriever")

    undisturbed = start("retriever", params, words, workspace / "undisturbed")
    message = undisturbed.communicate()[1]
    assert undisturbed.wait() == 0, message
    expected = artifact.verify(out)
    shutil.rmtree(out)

    victim = start("retriever", params, words, workspace / "victim")
    wait_for_step(victim, workspace / "victim", 12, "training")
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not out.exists()

    again = start("retriever", params, words, workspace / "again")
    message = again.communicate()[1]
    assert again.returncode == 0, message
    assert "resuming from" in message
    assert artifact.verify(out) == expected


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"dimensions": [16, 8]}, ConfigError, "the largest must be the whole 32"),
        (
            {
                "teacher": {"folder": "x", "batch_size": 8, "licence": "MIT"},
                "negatives": {"count": 0, "skip": 0, "among": 1},
            },
            ConfigError,
            "set it to 1 or more, or teacher to null",
        ),
        ({"teacher": {"hub": "a/b", "batch_size": 8, "licence": "MIT"}}, ConfigError, "'hub' and 'revision'"),
        ({"encoder": {"scratch": {**SCRATCH, "max_tokens": 12}}}, DataError, "rows are cut"),
        ({"negatives": {"count": 200, "skip": 0, "among": 500}}, DataError, "rows are left out"),
        ({"trainer": {"learning_rat": 1}}, ConfigError, "did you mean 'learning_rate'"),
        ({"test": "fact"}, DataError, r"eval/fact\.jsonl: no such file"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_training(
    changed: Any, error: type[Exception], message: str, make_run: Any, inputs: dict[str, Path]
) -> None:
    with pytest.raises(error, match=message):
        trained(make_run, inputs, **changed)
