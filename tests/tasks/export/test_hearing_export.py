"""Property: an export of a model that hears is that model, by its logits and answers; what is not does not pass."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks.export import parity
from tasks.export.multimodal_parity import ExportedMultimodal
from tasks.export.multimodal_reference import HearingReference
from tasks.export.multimodal_session import Session
from tasks.export.sound_reader import Heard, SoundReader
from tasks.models.multimodal import load_multimodal
from tasks.multimodal import hearing
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError, ModelError, ParityError
from tests.support import pictures
from tests.support.hearing import Plain, clips

pytestmark = pytest.mark.usefixtures("one_thread")
PARTS = {
    "model.onnx", "model.onnx.data", "audio.onnx", "embed_tokens.onnx", "genai_config.json", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja", "processor_config.json",
}  # fmt: skip
ASK = "What do you hear?"


def test_every_form_has_its_parts_and_its_measures(hearing_onnx: Path) -> None:
    report = artifact.read_json(hearing_onnx / "parity.json")
    for form in ("fp32", "int8"):
        assert {path.name for path in (hearing_onnx / form).iterdir()} == PARTS
        assert all(report["forms"][form][name] is True for name in (*parity.IDENTICAL, *parity.HEARD))
    fp32, int8 = (report["forms"][form] for form in ("fp32", "int8"))
    assert fp32["max_logprob_difference"] < 1e-3
    assert fp32["argmax_agreement"] == fp32["greedy_agreement"] == 1.0
    assert int8["kl_per_token"] > fp32["kl_per_token"]
    ears = [(hearing_onnx / form / "audio.onnx").read_bytes() for form in ("fp32", "int8")]
    assert ears[0] == ears[1], "the ears stay in float32"


@pytest.mark.parametrize("seconds", [None, 0.2, 2.0, 7.0])
def test_logits_and_greedy_tokens_are_those_of_pytorch(
    hearing_onnx: Path, lively_ears: Path, spoken_data: Path, seconds: float | None
) -> None:
    """Without a sound, with a short one, and with one of three chunks, the last of them cut."""
    import torch

    plain, reader = Plain(lively_ears), SoundReader(hearing_onnx / "fp32")
    session = Session(hearing_onnx / "fp32", threads=1)
    heard = np.concatenate([*clips(spoken_data).values()])
    sounds = [] if seconds is None else [heard[: int(16_000 * seconds)]]
    inputs = plain.inputs(ASK, sounds)
    length = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        out = plain.model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=session.ends)
        inputs["input_ids"], inputs["attention_mask"] = out, torch.ones_like(out)
        expected = plain.model(**inputs).logits[0, length - 1 :].numpy()
    answer = out[0, length:].tolist()
    turns = hearing.conversation([{"role": "user", "content": ASK}], len(sounds))
    embeddings = session.embeddings(reader.read(turns, sounds))
    assert list(session.generate(embeddings, max_new_tokens=12)) == answer
    assert np.abs(session.logits(embeddings, answer) - expected).max() < 1e-2
    assert np.abs(expected).max() > 5, "logits that are all alike would agree by themselves"


def test_another_sound_gives_another_answer(hearing_onnx: Path, spoken_data: Path) -> None:
    reader, session = SoundReader(hearing_onnx / "fp32"), Session(hearing_onnx / "fp32", threads=1)
    turns = hearing.conversation([{"role": "user", "content": ASK}], 1)
    prompts = [reader.read(turns, [samples]) for samples in [*clips(spoken_data).values()][:6]]
    assert len({tuple(session.generate(session.embeddings(prompt), max_new_tokens=8)) for prompt in prompts}) > 3


def test_a_sound_without_its_place_is_refused(hearing_onnx: Path) -> None:
    reader, session = SoundReader(hearing_onnx / "fp32"), Session(hearing_onnx / "fp32", threads=1)
    whole = reader.prompt(reader.render([{"role": "user", "content": ASK}]), [np.ones(16_000, dtype=np.float32)])
    with pytest.raises(DataError, match=r"0 places for features of sounds, and 1 chunks with 10; each sound has to"):
        session.embeddings(whole)
    placed = Heard([*whole.ids, *[reader.audio_token_id] * 3], reader.audio_token_id, whole.spectrograms[:0], ())
    with pytest.raises(DataError, match="3 places for features of sounds, and 0 chunks with 0"):
        session.embeddings(placed)


def tampered(folder: Path, what: str) -> None:
    if what == "ears":  # another model's: as many features, and other ones
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(folder / "audio.onnx")
        for weights in graph.graph.initializer:
            values = numpy_helper.to_array(weights)
            if values.dtype == np.float32:
                weights.CopyFrom(numpy_helper.from_array(-values, weights.name))
        onnx.save(graph, folder / "audio.onnx")
        return
    path = folder / "processor_config.json"
    old, new = {"bands": ('"n_fft": 400', '"n_fft": 402')}[what]
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(("what", "measure"), [("ears", "kl_per_token"), ("bands", "sounds_alike")])
def test_what_was_tampered_with_is_noticed(
    hearing_onnx: Path, lively_ears: Path, spoken_data: Path, tmp_path: Path, what: str, measure: str
) -> None:
    shutil.copytree(hearing_onnx / "fp32", tmp_path / "fp32")
    tampered(tmp_path / "fp32", what)
    reference = HearingReference(*load_multimodal(lively_ears), spoken_data)
    [row] = artifact.read_jsonl(spoken_data / "sft" / "validation.jsonl")[:1]
    [prompt] = reference.prompts([row["messages"][:1]], [row])
    answer = reference.generate(prompt, max_new_tokens=8)
    form = ExportedMultimodal(tmp_path / "fp32", threads=1)
    form.compare(prompt, answer, reference.log_probs(prompt, answer), reference)
    bounds = {"max_logprob_difference": 1e-3, "kl_per_token": 1e-6, "argmax_agreement": None, "greedy_agreement": None}
    with pytest.raises(ParityError, match=rf"fp32: {measure} is"):
        parity.check({"fp32": form.measures()}, {"fp32": bounds}, ["fp32"])


def test_gptq_hears_no_sounds_and_is_refused_before_building(
    lively_ears: Path, spoken_data: Path, tmp_path: Path
) -> None:
    forms = pictures.exporting().model_dump()["forms"]
    forms["int8"]["gptq"] = {"calibration": {"dataset": "sft", "rows": 4, "max_length": 64}, "damping": 0.01}
    with pytest.raises(ConfigError, match=r"forms\.int8\.gptq: its calibration rows are read without their pictures"):
        pictures.export(lively_ears, spoken_data, tmp_path / "out", forms=forms)
    assert not (tmp_path / "out").exists()


def test_a_form_without_its_ears_is_no_form(hearing_onnx: Path, tmp_path: Path) -> None:
    shutil.copytree(hearing_onnx / "fp32", tmp_path / "fp32")
    (tmp_path / "fp32" / "audio.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="ONNX Runtime cannot load it"):
        Session(tmp_path / "fp32")
