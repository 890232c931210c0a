"""The registry: a promotion moves every alias or none, and what it rested on can be read again."""

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from flows.graph import Graph
from flows.registry import promotion, registration
from flows.registry.version import champion
from flows.tracking import client
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError, GateError, ModelError, PolmError
from tests.support.promotable import Make

REPO = Path(__file__).parents[3]
NAME = "polm-tiny"


@pytest.fixture
def project(tracking: Path, promotable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project in a folder of the test's own, with an empty registry."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tracking / ".polm/dvc"))
    monkeypatch.setenv("COLUMNS", "250")
    shutil.copytree(promotable, tracking, dirs_exist_ok=True, symlinks=True)
    return tracking


def aliases() -> dict[str, str]:
    found = client.client().search_registered_models(f"name = '{NAME}'")
    return {alias: str(version) for model in found for alias, version in model.aliases.items()}


def versions() -> int:
    return len(client.client().search_model_versions(f"name = '{NAME}'"))


def test_promote_twice_and_roll_back(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promotion.promote("sft")
    assert aliases() == {"candidate": "1", "champion": "1"}
    said = capsys.readouterr().out
    assert "quality" in said and "parent base" in said and "v1 is the champion" in said
    promotion.promote("sft")
    assert "already" in capsys.readouterr().out and versions() == 1

    promotion.promote("dpo")
    assert aliases() == {"candidate": "2", "champion": "2", "previous": "1"}
    assert "champion v1 (sft)" in capsys.readouterr().out

    promotion.rollback()
    assert (aliases()["champion"], aliases()["previous"]) == ("1", "2")
    promotion.rollback()
    assert (aliases()["champion"], aliases()["previous"]) == ("2", "1")
    api = client.client()
    runs = api.search_runs([client.experiment_id(api, "tiny")], "tags.kind = 'rollback'")
    assert sorted((r.data.tags["from"], r.data.tags["to"]) for r in runs) == [("1", "2"), ("2", "1")]


def test_a_rollback_says_its_seconds_and_loads_no_more_than_it_needs(project: Path) -> None:
    promotion.promote("sft")
    promotion.promote("dpo")
    code = """
import sys
from flows.registry import promotion, registration
promotion.rollback()
print([name for name in ("torch", "transformers", "prefect", "dvc", "onnxruntime") if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"{NAME} v1 is the champion again; v2 is the previous \(\d+\.\d s\)\n\[\]\n$", said), said
    assert aliases()["champion"] == "1"


def test_a_champion_that_was_set_by_hand_is_refused_in_words(project: Path) -> None:
    api = client.client()
    api.create_registered_model(NAME)
    api.create_model_version(NAME, source="file:///x")
    api.set_registered_model_alias(NAME, "champion", "1")
    with pytest.raises(GateError, match=r"v1 is the champion and was not registered by.*remove its alias"):
        promotion.promote("sft")
    api.delete_registered_model_alias(NAME, "champion")
    promotion.promote("sft")
    assert aliases()["champion"] == "2"


def test_the_evidence_stays_with_the_version_and_the_model_loads(project: Path) -> None:
    import mlflow

    promotion.promote("sft")
    api = client.client()
    version = api.get_model_version_by_alias(NAME, "champion")
    digest = artifact.read_manifest(Path("artifacts/models/sft")).digest
    assert (version.tags["digest"], version.tags["form"], version.tags["dirty"]) == (digest, "int8", "false")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert version.tags["commit"] == head.stdout.strip()
    shutil.rmtree("artifacts")
    folder = Path(api.download_artifacts(version.run_id, "evidence"))
    decision = artifact.read_json(folder / "gates.json")
    assert decision["against"]["label"] == "parent base" and all(gate["passed"] for gate in decision["gates"])
    assert artifact.verify(folder / "evaluation").inputs["model"] == digest
    assert artifact.read_json(folder / "parity.json")["prompts"] == 8
    kept = {path.stem for path in (folder / "manifests").iterdir()}
    assert {"artifacts-data", "artifacts-models-base", "artifacts-models-sft"} <= kept
    assert mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(registration.EXAMPLE) == ["sft in int8"]


def test_what_is_registered_answers_a_chat_request(project: Path, chat_model: Path, make_artifact: Make) -> None:
    import mlflow
    from dvc.repo import Repo

    from tasks.export import builder

    shutil.copyfile(REPO / "mlflow/chat_model.py", "mlflow/chat_model.py")
    export = Path("artifacts/onnx/sft")
    digests = artifact.read_manifest(export).inputs
    shutil.rmtree(export / "int8")
    (export / artifact.MANIFEST).unlink()
    options = builder.prepare_options(chat_model, "int8", "int8", {})
    builder.build(chat_model, export / "int8", precision="int8", options=options)
    exported = make_artifact(export, stage="export_onnx", **digests)
    asked = Path("artifacts/metrics/sft_int8")
    (asked / artifact.MANIFEST).unlink()
    make_artifact(asked, stage="evaluate", model=exported.digest, data=digests["data"])
    for name in ("export-sft", "evaluate_onnx-sft"):
        Repo().commit(name, force=True)

    promotion.promote("sft")
    served = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    answer = served.predict({"messages": [{"role": "user", "content": "What is 2 + 3?"}], "max_tokens": 4})
    assert answer["choices"][0]["message"]["role"] == "assistant"
    with champion() as (folder, label):
        assert (folder / "genai_config.json").exists() and label == f"{NAME} v1 (sft, int8)"
        requirements = (folder.parents[1] / "requirements.txt").read_text().split()
    assert requirements and all("==" in line for line in requirements)


def test_a_champion_that_was_not_promoted_here_is_named(project: Path) -> None:
    promotion.promote("sft")
    api = client.client()
    api.delete_model_version_tag(NAME, "1", "export")
    with (
        pytest.raises(ModelError, match=rf"{NAME}/1 has no tag 'export', which `polm promote` sets"),
        champion(),
    ):
        pass


def test_a_failed_gate_moves_nothing_and_is_named(project: Path) -> None:
    promotion.promote("sft")
    before = aliases()
    with pytest.raises(
        GateError, match=r"worse is not promoted: 1 of 8 gates failed\n  quality: .*sums\.helpful.*short"
    ):
        promotion.promote("worse")
    Path("code.py").write_text("changed")
    with pytest.raises(GateError, match=r"workspace: .*found changed since: data"):
        promotion.promote("dpo")
    assert aliases() == before and versions() == 1


def test_a_corrupted_export_is_noticed(project: Path) -> None:
    path = Path("artifacts/onnx/sft/int8/model.onnx")
    path.chmod(0o644)
    path.write_text("SFT in int8")
    with pytest.raises(ArtifactError, match=r"model\.onnx: corrupted"):
        promotion.promote("sft")
    assert versions() == 0


def test_no_such_model(project: Path) -> None:
    with pytest.raises(GateError, match=r"no exported model 'dpoo'.*did you mean 'dpo'"):
        promotion.promote("dpoo")


def test_nothing_to_roll_back_to(project: Path) -> None:
    with pytest.raises(GateError, match="no champion yet"):
        promotion.rollback()
    promotion.promote("sft")
    with pytest.raises(GateError, match="no champion before v1"):
        promotion.rollback()
    assert aliases()["champion"] == "1"


def test_an_alias_moved_by_somebody_else_is_noticed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    promotion.promote("sft")
    true = MlflowClient.set_registered_model_alias

    def overtaken(api: Any, name: str, alias: str, version: str) -> None:
        true(api, name, alias, "1" if alias == "champion" else version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", overtaken)
    with pytest.raises(GateError, match="'champion' was set to v2 and reads v1"):
        promotion.promote("dpo")


def test_a_champion_moved_during_the_gates_is_not_overwritten(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promotion.promote("sft")
    promotion.promote("dpo")
    promotion.rollback()
    true = registration.register

    def slow(api: Any, *args: Any) -> str:
        version = true(api, *args)
        api.set_registered_model_alias(NAME, "champion", "2")
        return version

    monkeypatch.setattr(registration, "register", slow)
    with pytest.raises(GateError, match="somebody else moved the champion"):
        promotion.promote("dpo")
    assert aliases()["champion"] == "2"


def test_an_interrupted_move_is_finished_by_the_next_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    promotion.promote("sft")
    true = MlflowClient.set_registered_model_alias

    def interrupted(api: Any, name: str, alias: str, version: str) -> None:
        if alias == "champion":
            raise KeyboardInterrupt
        true(api, name, alias, version)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MlflowClient, "set_registered_model_alias", interrupted)
        promotion.promote("dpo")
    assert aliases() == {"candidate": "2", "champion": "1"}
    promotion.promote("dpo")
    assert aliases() == {"candidate": "2", "champion": "2", "previous": "1"} and versions() == 2


def test_promotions_wait_for_each_other(project: Path) -> None:
    entered = threading.Event()

    def second() -> None:
        with promotion._exclusive():
            entered.set()

    with promotion._exclusive():
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(20)
    thread.join()


def test_a_model_without_policy_is_not_promoted(project: Path) -> None:
    Path("params/mine").mkdir()
    Path("params/recipe.yaml").write_text("recipe: mine\n")
    with pytest.raises(PolmError, match="no section 'mine'"):
        promotion.promote("sft")


def test_the_fixture_is_what_dvc_lock_says(project: Path) -> None:
    graph = Graph()
    assert len(graph.stages) == 17 and all(graph.unchanged(name) for name in graph.stages)
