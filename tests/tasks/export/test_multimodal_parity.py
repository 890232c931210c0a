"""The export of a model that sees: what is written, that it is proven with its pictures, and what does not pass."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.export import genai, parity
from tasks.export.multimodal_parity import ExportedMultimodal
from tasks.export.multimodal_reference import SeeingReference
from tasks.models.multimodal import load_multimodal
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError, ParityError
from tests.support import pictures

pytestmark = pytest.mark.usefixtures("one_thread")
PARTS = {
    "model.onnx", "model.onnx.data", "vision.onnx", "embed_tokens.onnx", "genai_config.json", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja", "processor_config.json",
}  # fmt: skip


def test_every_form_has_its_parts_and_its_measures(seeing_onnx: Path) -> None:
    report = artifact.read_json(seeing_onnx / "parity.json")
    assert report["prompts"] == 4
    for form in ("fp32", "int8"):
        assert {path.name for path in (seeing_onnx / form).iterdir()} == PARTS
        measures = report["forms"][form]
        assert all(measures[name] is True for name in (*parity.IDENTICAL, *parity.PICTURED))
        assert measures["bytes"] == genai.folder_bytes(seeing_onnx / form)
    fp32, int8 = (report["forms"][form] for form in ("fp32", "int8"))
    assert fp32["max_logprob_difference"] < 1e-3
    assert fp32["argmax_agreement"] == fp32["greedy_agreement"] == 1.0
    assert int8["kl_per_token"] > 0 and fp32["kl_per_token"] < int8["kl_per_token"]
    eyes = [(seeing_onnx / form / "vision.onnx").read_bytes() for form in ("fp32", "int8")]
    assert eyes[0] == eyes[1], "the eyes stay in float32"
    language = [(seeing_onnx / form / "model.onnx.data").stat().st_size for form in ("fp32", "int8")]
    assert language[1] < language[0]


def test_a_second_export_from_elsewhere_is_the_same_bytes(
    seeing_onnx: Path, lively_model: Path, pictures_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "renamed").symlink_to(lively_model)
    monkeypatch.chdir(tmp_path)
    run = pictures.export(Path("renamed"), pictures_data, Path("again"))
    first = {str(p.relative_to(seeing_onnx)): artifact.sha256(p) for p in seeing_onnx.rglob("*") if p.is_file()}
    again = Path("again")
    assert {str(p.relative_to(again)): artifact.sha256(p) for p in again.rglob("*") if p.is_file()} == first
    for path in again.rglob("*"):
        assert path.is_dir() or b"polm-text-" not in path.read_bytes(), f"{path} names the folder it was built in"
    assert set(run.measured["tokens_per_second"]) == {"pytorch", "fp32", "int8"}
    assert all(speed > 0 for speed in run.measured["tokens_per_second"].values())


def tampered(folder: Path, what: str) -> None:
    if what == "eyes":  # another model's: as many features, and other ones
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(folder / "vision.onnx")
        for weights in graph.graph.initializer:
            weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
        onnx.save(graph, folder / "vision.onnx")
        return
    name = {"pixels": "processor_config.json", "template": "chat_template.jinja", "ends": "genai_config.json"}[what]
    old, new = {"pixels": ("0.00392156862745098", "0.004"), "template": ("<|im_end|>\\n", "<|im_end|>")}.get(
        what, ('"eos_token_id": 2', '"eos_token_id": 0')
    )
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("what", "measure"),
    [
        ("eyes", "kl_per_token"),
        ("pixels", "pictures_identical"),
        ("template", "chat_template_identical"),
        ("ends", "end_tokens_identical"),
    ],
)
def test_what_was_tampered_with_is_noticed(
    seeing_onnx: Path, lively_model: Path, pictures_data: Path, tmp_path: Path, what: str, measure: str
) -> None:
    shutil.copytree(seeing_onnx / "fp32", tmp_path / "fp32")
    tampered(tmp_path / "fp32", what)
    reference = SeeingReference(*load_multimodal(lively_model), pictures_data)
    [row] = artifact.read_jsonl(pictures_data / "sft" / "validation.jsonl")[:1]
    [prompt] = reference.prompts([row["messages"][:1]], [row])
    answer = reference.generate(prompt, max_new_tokens=8)
    form = ExportedMultimodal(tmp_path / "fp32", threads=1)
    form.compare(prompt, answer, reference.log_probs(prompt, answer), reference)
    bounds = {"max_logprob_difference": 1e-3, "kl_per_token": 1e-6, "argmax_agreement": None, "greedy_agreement": None}
    with pytest.raises(ParityError, match=rf"fp32: {measure} is"):
        parity.check({"fp32": form.measures()}, {"fp32": bounds}, ["fp32"])


def test_a_form_over_its_bound_fails(lively_model: Path, pictures_data: Path, tmp_path: Path) -> None:
    forms = pictures.exporting().model_dump()["forms"]
    forms["int8"]["thresholds"]["kl_per_token"] = 1e-9
    with pytest.raises(ParityError, match=r"int8: kl_per_token is \d.*at most 1e-09"):
        pictures.export(lively_model, pictures_data, tmp_path / "out", forms=forms)
    assert not (tmp_path / "out" / "parity.json").exists()


def test_gptq_reads_no_pictures_and_is_refused_before_building(
    lively_model: Path, pictures_data: Path, tmp_path: Path
) -> None:
    forms = pictures.exporting().model_dump()["forms"]
    rows = {"dataset": "sft", "rows": 4, "max_length": 64}
    forms["int8"]["gptq"] = {"calibration": rows, "damping": 0.01}
    with pytest.raises(ConfigError, match=r"forms\.int8\.gptq: its calibration rows are read without their pictures"):
        pictures.export(lively_model, pictures_data, tmp_path / "out", forms=forms)
    assert not (tmp_path / "out").exists()


def test_a_row_that_spells_a_picture_is_refused(lively_model: Path, pictures_data: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures_data, tmp_path / "data")
    rows: list[dict[str, Any]] = artifact.read_jsonl(pictures_data / "sft" / "validation.jsonl")
    rows[0]["messages"][0]["content"] = "Is <image> one?"
    (tmp_path / "data/sft/validation.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(DataError, match=f"row {rows[0]['id']}: a text has '<image>'"):
        pictures.export(lively_model, tmp_path / "data", tmp_path / "out")
