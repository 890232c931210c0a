"""A model that is given ears: its language model stays what it was, its template renders as before, others load it."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.models.chat_template import CHATML
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.models.multimodal import is_multimodal, load_multimodal, save_multimodal
from tasks.multimodal import speech_architecture
from tasks.multimodal.speech_settings import SpeechArchitecture
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.errors import ConfigError
from tests.conftest import REPO
from tests.support.sounds import EARS, PARAMS, RATE, said

CONVERSATIONS: list[list[dict[str, Any]]] = [
    said("What is 1 + 1? ", " 2\n"),
    said("What is 1 + 1?"),
    [{"role": "system", "content": " Count.\n"}, *said("<image>?", "2", "And <b>?")],
    [{"role": "user", "name": "Ada", "content": ""}],
]

pytestmark = pytest.mark.usefixtures("one_thread")


def shape(**changes: Any) -> SpeechArchitecture:
    return parse(PARAMS, EARS | changes, SpeechArchitecture)


def test_words_alone_are_rendered_as_by_the_old_template(chat_model: Path, hearing_model: Path) -> None:
    old, new = load_tokenizer(chat_model), load_tokenizer(hearing_model)
    _, processor = load_multimodal(hearing_model)
    for turns in CONVERSATIONS:
        for asking in (False, True):
            options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": asking}
            before = old.apply_chat_template(turns, chat_template=CHATML, **options)
            assert new.apply_chat_template(turns, **options) == before
            assert processor.apply_chat_template(turns, **options) == before
            ids = (reader(before, add_special_tokens=False)["input_ids"] for reader in (old, new))
            assert next(ids) == next(ids)


def test_a_part_of_another_type_is_refused(chat_model: Path) -> None:
    turns = [{"role": "user", "content": [{"type": "image"}]}]
    with pytest.raises(Exception, match="this model takes text and audio, and no part of type image"):
        load_tokenizer(chat_model).apply_chat_template(turns, chat_template=speech_architecture.FLATTENED + CHATML)


def test_the_language_model_is_the_one_it_was(chat_model: Path, hearing_model: Path) -> None:
    before, after = load_causal_lm(chat_model), load_multimodal(hearing_model)[0]
    language, kept = before.base_model.state_dict(), after.model.language_model.state_dict()
    assert set(kept) == set(language)
    assert [name for name in language if not torch.equal(language[name], kept[name])] == []
    assert torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert is_multimodal(hearing_model) and not is_multimodal(chat_model)


def test_a_vocabulary_without_room_grows_by_the_placeholder_and_a_seed_is_a_model(
    chat_model: Path, tmp_path: Path
) -> None:
    from tasks.models.folder import save_model

    model, tokenizer = load_causal_lm(chat_model), load_tokenizer(chat_model)
    tokenizer.add_tokens([f"<unused{i}>" for i in range(320 - len(tokenizer))])
    save_model(model, tokenizer, tmp_path)
    hearing = [speech_architecture.build(tmp_path, shape(), PARAMS, seed)[0] for seed in (5, 5, 6)]
    table = hearing[0].get_input_embeddings().weight
    assert table.shape[0] == 321
    assert torch.equal(table[:320], model.get_input_embeddings().weight)
    weights = [dict(one.named_parameters()) for one in hearing]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    projector = "model.multi_modal_projector.linear_1.weight"
    assert not torch.equal(weights[0][projector], weights[2][projector])


def test_a_head_of_its_own_is_kept(chat_model: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    from tasks.models.folder import save_model

    tied = load_causal_lm(chat_model)
    tied.config.tie_word_embeddings = False
    torch.manual_seed(7)
    model = LlamaForCausalLM(tied.config)
    save_model(model, load_tokenizer(chat_model), tmp_path)
    hearing, _ = speech_architecture.build(tmp_path, shape(), PARAMS, 1)
    assert torch.equal(hearing.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(hearing.lm_head.weight, hearing.get_input_embeddings().weight)


def test_two_saves_are_the_same_bytes(hearing_model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        model, processor = load_multimodal(hearing_model)
        save_multimodal(model, processor, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"model.safetensors", "processor_config.json", "chat_template.jinja"} <= set(files)
    for name in files:
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes() == (hearing_model / name).read_bytes(), name
        assert str(tmp_path).encode() not in content


def test_a_trained_encoder_is_taken_over(chat_model: Path, hearing_model: Path) -> None:
    """With its features, whatever the seed; the projector is new."""
    donor = shape(audio=None, features=None, encoder=str(hearing_model))
    model, processor = speech_architecture.build(chat_model, donor, PARAMS, seed=9)
    trained, own = load_multimodal(hearing_model)
    for name, tensor in trained.model.audio_tower.state_dict().items():
        assert torch.equal(model.model.audio_tower.state_dict()[name], tensor), name
    projectors = (one.model.multi_modal_projector.linear_1.weight for one in (model, trained))
    assert not torch.equal(next(projectors), next(projectors))
    assert processor.feature_extractor.to_dict() == own.feature_extractor.to_dict()
    assert model.config.audio_config.hidden_size == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio": EARS["audio"] | {"hiden_size": 8}}, "unknown key 'architecture.audio.hiden_size'; did you mean"),
        ({"audio": EARS["audio"] | {"intermediate_size": 7}}, "audio.intermediate_size is 7, and has to be 128"),
        ({"audio": EARS["audio"] | {"num_mel_bins": 7}}, "architecture.audio.num_mel_bins is 7, and has to be 32"),
        ({"audio": EARS["audio"] | {"hidden_size": "wide"}}, "architecture.audio: "),
        ({"audio": None}, "architecture needs `audio` and `features`, or an `encoder` that is trained"),
        ({"features": None}, "architecture needs `audio` and `features`, or an `encoder` that is trained"),
        ({"features": EARS["features"] | {"hop": 160, "chunk_seconds": 1, "sampling_rate": 16_320}},
         "1 s at 16320 Hz are 102 frames of hop 160; choose the hop so that they are a multiple of 8"),
        ({"features": EARS["features"] | {"hop": 190}}, "choose the hop so that they are a multiple of 8"),
        ({"encoder": "nowhere"}, "architecture.encoder brings `audio` and `features`; set both to null"),
        ({"encoder": "nowhere", "audio": None, "features": None}, "architecture.encoder: 'nowhere' cannot be loaded"),
        ({"act": "geluu"}, "architecture.act is 'geluu'; did you mean 'gelu'"),
    ],
)  # fmt: skip
def test_an_architecture_that_does_not_fit_is_named(chat_model: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{PARAMS}: .*{message}"):
        speech_architecture.build(chat_model, shape(**changes), PARAMS, 1)


def test_an_encoder_of_another_kind_is_refused(chat_model: Path, seeing_model: Path) -> None:
    eyes = shape(audio=None, features=None, encoder=str(seeing_model))
    with pytest.raises(ConfigError, match=rf"^{PARAMS}: architecture.encoder: .*"):
        speech_architecture.build(chat_model, eyes, PARAMS, 1)


@pytest.mark.parametrize(("section", "key"), [((), "acts"), (("features",), "mel_bin")])
def test_a_misspelt_key_of_the_section_is_named(section: tuple[str, ...], key: str) -> None:
    changes: dict[str, Any] = {section[0]: EARS[section[0]] | {key: 3}} if section else {key: 3}
    with pytest.raises(ConfigError, match=f"unknown key '{'.'.join((*section, key))}'; did you mean"):
        shape(**changes)


def test_the_lines_of_the_docs_ask_the_model(
    hearing_model: Path, spoken_data: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain transformers, on the folder; the lines are those of `docs/multimodal.md`, word by word."""
    import zipfile

    blocks = re.findall(r"```python\n(.*?)```", (REPO / "docs/multimodal.md").read_text(encoding="utf-8"), re.S)
    (lines,) = [block for block in blocks if "soundfile" in block]
    assert len([line for line in lines.splitlines() if line.strip() and "import" not in line]) <= 6
    shutil.copytree(hearing_model, workspace / "artifacts/models/speech")
    row = artifact.read_jsonl(spoken_data / "sft" / "train.jsonl")[0]
    with zipfile.ZipFile(spoken_data / "media.zip") as archive:
        Path("said.flac").write_bytes(archive.read(row["audio"][0]))
    found: dict[str, Any] = {}
    exec(compile(lines, "docs/multimodal.md", "exec"), found)
    inputs = found["inputs"]
    samples, _ = found["soundfile"].read("said.flac")
    assert int((inputs["input_ids"] == found["processor"].audio_token_id).sum()) == len(samples) // 200 // 8
    assert capsys.readouterr().out.startswith("user\n")


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_a_rate_of_its_own_is_heard_in_plain_transformers(chat_model: Path, tmp_path: Path, rate: int) -> None:
    """What `audio_kwargs` has to say, and that a wrong rate is no silent error."""
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    features = EARS["features"] | {"sampling_rate": rate, "window": rate // 40, "hop": rate // 80, "mel_bins": 16}
    save_multimodal(*speech_architecture.build(chat_model, shape(features=features), PARAMS, 1), tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    sound = np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    question = [{"role": "user", "content": [{"type": "audio", "audio": sound}, {"type": "text", "text": "What?"}]}]
    inputs = processor.apply_chat_template(
        question, add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs={"sampling_rate": rate}
    )
    assert int((inputs["input_ids"] == processor.audio_token_id).sum()) == 10
    assert model.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2
    if rate != RATE:
        with pytest.raises(ValueError, match="sampling rate"):
            processor.apply_chat_template(question, tokenize=True, return_dict=True)
