"""The ONNX export: what is built, that it is the same bytes twice, and that a wrong export does not pass."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.export import builder, genai
from tasks.export import parity as onnx_parity
from tasks.export.divergence import Divergence
from tasks.export.held_out import conversations
from tasks.export.reference import Prompt, Reference, render_prompts
from tasks.export_onnx import Config, main
from tasks.stage import artifact
from tasks.stage.config import load
from tasks.stage.errors import ConfigError, DataError, ModelError, ParityError
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.conftest import REPO

FORMS = ("fp32", "int8", "int4")


def config_for(**changes: Any) -> Config:
    """The tiny recipe on fewer prompts."""
    config = load(REPO / "params" / "tiny" / "export_onnx.yaml", Config)
    parity = {"rows": "prompts/validation.jsonl", "prompts": 4, "max_new_tokens": 8}
    raw = config.model_dump() | {"parity": parity, "speed": {"new_tokens": 4, "repeats": 1}}
    raw["forms"]["int4"]["gptq"] = None  # tests/tasks/export/test_gptq.py has that
    return Config.model_validate(raw | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data artifact's held-out prompts, one of them too long for the model."""
    folder = tmp_path_factory.mktemp("data")
    questions = [f"What is {a} + {b}? “é”" for a, b in zip(range(5, 13), range(20, 28), strict=True)]
    rows: list[dict[str, Any]] = [
        {"id": str(i), "prompt": [{"role": "user", "content": q}], "answer": "0", "source": "sums"}
        for i, q in enumerate(questions)
    ]
    rows.append({"id": "long", "prompt": [{"role": "user", "content": "1 + " * 200}], "answer": "0", "source": "sums"})
    artifact.write_jsonl(folder / "prompts" / "validation.jsonl", rows)
    return folder


def export(config: Config, model: Path, data: Path, out: Path) -> Run:
    """Run the stage's `main` as `stage` would."""
    run = Run(
        out=out,
        params_file=Path("params/tiny/export_onnx.yaml"),
        name="sft",
        checkpoints=out / "none",
        manifests={},
        progress=Progress(None),
        main_process=True,
    )
    main(config, run, model=model, data=data)
    return run


@pytest.fixture(scope="module")
def exported(chat_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """The export of the small chat model."""
    out = tmp_path_factory.mktemp("onnx")
    return out, export(config_for(), chat_model, data, out)


def test_every_form_is_a_loadable_folder_smaller_with_fewer_bits(exported: tuple[Path, Run]) -> None:
    out, _run = exported
    sizes = []
    for form in FORMS:
        names = {p.name for p in (out / form).iterdir()}
        assert {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json", "chat_template.jinja"} <= names
        model, tokenizer = genai.load(out / form, threads=1)
        ids = genai.encode(tokenizer, genai.render(tokenizer, [{"role": "user", "content": "What is 1 + 2?"}]))
        assert len(list(genai.generate(model, ids, max_new_tokens=5))) <= 5
        assert genai.logits(model, ids).shape == (len(ids), 320)
        sizes.append(genai.folder_bytes(out / form))
    assert sizes[0] > sizes[1] > sizes[2]


def test_parity_is_written_per_form_and_speeds_stay_outside(exported: tuple[Path, Run]) -> None:
    out, run = exported
    parity = artifact.read_json(out / "parity.json")
    assert parity["prompts"] == 4
    assert parity["held_out"] == {"files": {"prompts/validation.jsonl": 4}, "rows": 4, "by_default": False}
    assert parity["thresholds"]["fp32"]["argmax_agreement"] == 0.999
    fp32, int8, int4 = (parity["forms"][form] for form in FORMS)
    assert fp32["max_logprob_difference"] < 1e-5
    assert fp32["argmax_agreement"] == fp32["greedy_agreement"] == 1.0
    assert fp32["kl_per_token"] <= int8["kl_per_token"] < int4["kl_per_token"]
    for form in FORMS:
        measures = parity["forms"][form]
        assert all(measures[name] is True for name in onnx_parity.IDENTICAL)
        assert measures["bytes"] == genai.folder_bytes(out / form)
    assert set(run.measured["tokens_per_second"]) == {"pytorch", *FORMS}
    assert all(speed > 0 for speed in run.measured["tokens_per_second"].values())
    assert "tokens_per_second" not in json.dumps(parity)


def test_a_second_export_from_elsewhere_is_the_same_bytes(
    exported: tuple[Path, Run], chat_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _run = exported
    (tmp_path / "renamed").symlink_to(chat_model)
    monkeypatch.chdir(tmp_path)
    export(config_for(), Path("renamed"), data, Path("again"))
    first = {str(p.relative_to(out)): artifact.sha256(p) for p in out.rglob("*") if p.is_file()}
    again = Path("again")
    assert {str(p.relative_to(again)): artifact.sha256(p) for p in again.rglob("*") if p.is_file()} == first
    for path in again.rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), f"{path} names the folder it was built in"


def test_the_graph_does_not_hold_the_commit_of_the_working_copy(exported: tuple[Path, Run]) -> None:
    """With it, the bytes would be others after every commit; the builder takes the repository around for its own."""
    import onnx
    import onnxruntime_genai

    commit = getattr(onnxruntime_genai, "__commit__", None)
    expected = onnxruntime_genai.__version__ + (f"+{commit[:7]}" if commit else "")
    for form in FORMS:
        graph = onnx.load(exported[0] / form / "model.onnx", load_external_data=False)
        assert graph.producer_version == expected


def test_a_form_over_its_threshold_fails_after_the_whole_table_was_logged(
    chat_model: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for()
    forms = config.model_dump()["forms"]
    forms["int4"]["thresholds"]["kl_per_token"] = 1e-9
    with caplog.at_level(logging.INFO), pytest.raises(ParityError, match=r"int4: kl_per_token is \d.*at most 1e-09"):
        export(config_for(forms=forms), chat_model, data, tmp_path)
    assert all(f"\n{form} " in "\n" + "\n".join(caplog.messages) for form in FORMS)
    assert not (tmp_path / "parity.json").exists()


def measures_of(folder: Path, chat_model: Path, messages: list[dict[str, str]]) -> dict[str, Any]:
    """Parity of one folder on one conversation."""
    from tasks.models.folder import load_causal_lm, load_tokenizer

    tokenizer = load_tokenizer(chat_model)
    reference = Reference(load_causal_lm(chat_model), tokenizer)
    [prompt] = render_prompts(tokenizer, [messages], {})
    answer = reference.generate(prompt.ids, max_new_tokens=8)
    session = onnx_parity.Exported(folder, threads=1)
    session.compare(prompt, answer, reference.log_probs(prompt.ids, answer), reference)
    return session.measures()


def test_a_conversation_with_system_and_assistant_turns_renders_the_same(
    exported: tuple[Path, Run], chat_model: Path
) -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": " a\n“é” 12"},
        {"role": "assistant", "content": "b "},
        {"role": "user", "content": "c\\n"},
    ]
    measures = measures_of(exported[0] / "fp32", chat_model, messages)
    assert measures["chat_template_identical"] and measures["tokenizer_identical"]


@pytest.mark.parametrize("tampered", ["chat_template", "tokenizer", "weights", "ends", "search"])
def test_what_was_tampered_with_is_noticed(
    exported: tuple[Path, Run], chat_model: Path, tmp_path: Path, tampered: str
) -> None:
    import shutil

    folder = tmp_path / "fp32"
    shutil.copytree(exported[0] / "fp32", folder)
    if tampered == "chat_template":
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text().replace("+ '<|im_end|>\\n'", "+ ' <|im_end|>\\n'"))
    elif tampered == "tokenizer":
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:2]
        path.write_text(json.dumps(tokenizer))
    elif tampered in ("ends", "search"):
        path = folder / "genai_config.json"
        settings = json.loads(path.read_text())
        settings["model"]["eos_token_id"] = [0] if tampered == "ends" else settings["model"]["eos_token_id"]
        settings["search"]["repetition_penalty"] = 1.5 if tampered == "search" else 1.0
        path.write_text(json.dumps(settings))
    else:
        path = folder / "model.onnx.data"
        content = bytearray(path.read_bytes())
        content[:4096] = bytes(4096)
        path.write_bytes(content)
    measures = measures_of(folder, chat_model, [{"role": "user", "content": "What is 12 + 345?"}])
    bounds = {"max_logprob_difference": 1e-3, "kl_per_token": 1e-6, "argmax_agreement": None, "greedy_agreement": None}
    name = {"chat_template": "chat_template_identical", "tokenizer": "tokenizer_identical", "weights": "kl_per_token"}
    name |= {"ends": "end_tokens_identical", "search": "search_plain"}
    with pytest.raises(ParityError, match=rf"fp32: {name[tampered]} is") as error:
        onnx_parity.check({"fp32": measures}, {"fp32": bounds}, ["fp32"])
    assert ("a template engine and a tokenizer of its own" in str(error.value)) == (
        tampered in ("chat_template", "tokenizer")
    )


def test_not_a_number_never_passes() -> None:
    measures = dict.fromkeys(onnx_parity.IDENTICAL, True) | {"kl_per_token": float("nan")}
    measures |= {"max_logprob_difference": 0.0, "argmax_agreement": float("nan"), "greedy_agreement": 1.0}
    bounds = {"max_logprob_difference": None, "kl_per_token": 0.1, "argmax_agreement": 0.5, "greedy_agreement": None}
    with pytest.raises(ParityError, match=r"(?s)kl_per_token is nan.*argmax_agreement is nan"):
        onnx_parity.check({"int8": measures}, {"int8": bounds}, [])


def test_measures_by_hand() -> None:
    """Two positions over three tokens: the numbers are those of the definition, worked out on paper."""
    import numpy as np

    p = np.log([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    q = np.log([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]])
    letters = SimpleNamespace(create_stream=lambda: SimpleNamespace(decode="abc".__getitem__))
    session = onnx_parity.Exported.__new__(onnx_parity.Exported)
    session.__dict__.update(
        model=None, tokenizer=letters, bytes=7, _drops_space=False, _same_template=True,
        _same_ids=True, _same_text=True, _same_ends=True, _divergence=Divergence(),
        _config={"model": {"eos_token_id": [2]}, "search": dict(genai.SEARCH)},
    )  # fmt: skip
    shifted = np.vstack([np.zeros((1, 3)), q + 5.0, np.zeros((1, 3))])  # logits are log-probabilities up to a constant
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(genai, "render", lambda tokenizer, messages: "text")
        patch.setattr(genai, "encode", lambda tokenizer, text: [1, 1])
        patch.setattr(genai, "logits", lambda model, ids: shifted)
        patch.setattr(genai, "generate", lambda model, ids, max_new_tokens: iter([0, 1]))
        reference: Any = SimpleNamespace(ends=[2], text=lambda answer: "".join("abc"[i] for i in answer))
        session.compare(Prompt([], "text", [1, 1]), [0, 2], p, reference)
    measures = session.measures()
    expected = (0.5 * np.log(2) + 0.25 * np.log(0.5)) / 2
    assert measures["kl_per_token"] == pytest.approx(expected, rel=1e-2)
    assert measures["max_logprob_difference"] == pytest.approx(np.log(2), rel=1e-2)
    assert measures["argmax_agreement"] == 0.5
    assert measures["greedy_agreement"] == 0.5
    assert measures["decoding_identical"] and measures["end_tokens_identical"] and measures["search_plain"]


def test_a_measure_that_an_older_export_lacks_is_missed() -> None:
    measures = dict.fromkeys(onnx_parity.IDENTICAL, True)
    assert onnx_parity.unmeasured({"int8": measures}) == []
    del measures["end_tokens_identical"]
    assert onnx_parity.unmeasured({"int8": measures}) == [
        "int8: end_tokens_identical: not measured when it was exported"
    ]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"blok_size": 32}, "params/tiny/export_onnx.yaml: forms.int8.weights: .*blok_size"),
        ({"method": "magic"}, "forms.int8.weights: .*k_quant"),
        ({"block_size": 33}, "forms.int8.weights.block_size is 33; it must be one of 16, 32"),
    ],
)
def test_an_option_the_builder_does_not_know_is_refused_before_building(
    chat_model: Path, data: Path, tmp_path: Path, weights: dict[str, Any], message: str
) -> None:
    forms = config_for().model_dump()["forms"]
    forms["int8"]["weights"] = weights
    with pytest.raises(ConfigError, match=message):
        export(config_for(forms=forms), chat_model, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_prompts_are_refused_before_building(chat_model: Path, data: Path, tmp_path: Path) -> None:
    config = config_for(parity={"rows": "prompts/validation.jsonl", "prompts": 9, "max_new_tokens": 8})
    with pytest.raises(DataError, match="8 of 9 prompts leave room"):
        export(config, chat_model, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prompts_that_nobody_named_are_those_there_are(
    exported: tuple[Path, Run], chat_model: Path, data: Path, tmp_path: Path
) -> None:
    """Fewer than are asked for are enough, and the report counts them."""
    rows = artifact.read_jsonl(data / "prompts/validation.jsonl")
    asked = [{"id": row["id"], "question": row["prompt"][0]["content"], "answer": "0"} for row in rows]
    artifact.write_jsonl(tmp_path / "data/eval/faq.jsonl", asked)
    config = config_for(parity={"rows": None, "prompts": 99, "max_new_tokens": 8})
    config = config.model_copy(update={"forms": {"fp32": config.forms["fp32"]}})
    export(config, chat_model, tmp_path / "data", tmp_path / "out")
    parity = artifact.read_json(tmp_path / "out/parity.json")
    assert parity["held_out"] == {"files": {"eval/faq.jsonl": 8}, "rows": 8, "by_default": True}, "one is too long"
    assert parity["prompts"] == 8
    artifact.write_jsonl(tmp_path / "long/eval/faq.jsonl", asked[-1:])
    with pytest.raises(DataError, match=r"long: 0 of 1 prompts leave room for 8 tokens"):
        export(config, chat_model, tmp_path / "long", tmp_path / "none")


def test_held_out_takes_every_shape_of_row(tmp_path: Path) -> None:
    question = [{"role": "user", "content": "q"}]
    answered = [*question, {"role": "assistant", "content": "a"}]
    rows: list[dict[str, Any]] = [{"prompt": question}, {"question": "q"}, {"messages": answered}]
    artifact.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert conversations(tmp_path / "rows.jsonl") == [question] * 3
    artifact.write_jsonl(tmp_path / "rows.jsonl", [*rows, {"text": "no question"}])
    with pytest.raises(DataError, match=r"rows.jsonl:4: neither"):
        conversations(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=r"parity\.rows"):
        conversations(tmp_path / "absent.jsonl")


def test_an_architecture_the_builder_cannot_map_is_an_error_of_the_model(tmp_path: Path, chat_model: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(chat_model, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"architectures": ["UnheardOfForCausalLM"]}))
    options = builder.prepare_options(folder, "fp32", "fp32", {})
    with pytest.raises(ModelError, match="cannot export it"):
        builder.build(folder, tmp_path / "out", precision="fp32", options=options)


def test_a_model_that_the_builder_stumbles_over_is_an_error_of_the_model(tmp_path: Path, chat_model: Path) -> None:
    """It reads one `rope_parameters` where Gemma 3 has one for each kind of layer, and fails with a KeyError."""
    import shutil

    from transformers import Gemma3TextConfig

    folder = tmp_path / "model"
    shutil.copytree(chat_model, folder)
    Gemma3TextConfig(
        architectures=["Gemma3ForCausalLM"], vocab_size=320, hidden_size=64, intermediate_size=128, head_dim=32,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    ).save_pretrained(folder)  # fmt: skip
    options = builder.prepare_options(folder, "fp32", "fp32", {})
    with pytest.raises(ModelError, match=r"cannot export it \(KeyError: 'rope_type'\); serve the PyTorch model"):
        builder.build(folder, tmp_path / "out", precision="fp32", options=options)


def test_heads_that_onnx_runtime_cannot_run_are_refused_before_building(tmp_path: Path, chat_model: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(chat_model, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"head_dim": 24}))
    with pytest.raises(ModelError, match=r"heads are 24 wide.*multiple of 16"):
        builder.prepare_options(folder, "fp32", "fp32", {})


def test_loading_what_is_no_export_says_so(tmp_path: Path, exported: tuple[Path, Run]) -> None:
    with pytest.raises(ModelError, match=r"no genai_config\.json"):
        genai.load(tmp_path)
    import shutil

    shutil.copytree(exported[0] / "int8", tmp_path / "int8")
    (tmp_path / "int8" / "model.onnx.data").unlink()
    with pytest.raises(ModelError, match="cannot load it"):
        genai.load(tmp_path / "int8")


def test_every_recipe_parses() -> None:
    recipes = sorted(REPO.glob("params/*/export_onnx.yaml"))
    assert {p.parent.name for p in recipes} >= {"tiny", "smollm2", "qwen3"}
    for path in recipes:
        config = load(path, Config)
        assert set(config.forms) == set(FORMS)
        limits = config.forms["fp32"].thresholds
        assert limits.max_logprob_difference is not None and limits.max_logprob_difference <= 1e-3
        limits = config.forms["int8"].thresholds
        assert limits.kl_per_token is not None and limits.argmax_agreement is not None
        assert limits.kl_per_token <= 0.02 and limits.argmax_agreement >= 0.93


def widened(chat_model: Path, folder: Path, rows: int) -> Path:
    """The chat model with an embedding of more rows than its tokenizer has tokens, as padding gives."""
    from tasks.models.folder import load_causal_lm, load_tokenizer, save_model

    model = load_causal_lm(chat_model)
    model.resize_token_embeddings(rows)
    save_model(model, load_tokenizer(chat_model), folder)
    return folder


@pytest.mark.parametrize("rows", [352, 384])
def test_a_vocabulary_as_wide_as_another_matrix_is_named_before_anything_is_built(
    chat_model: Path, tmp_path: Path, rows: int
) -> None:
    from tasks.models.folder import load_causal_lm, load_tokenizer, save_model

    folder = widened(chat_model, tmp_path / "wide", rows)
    assert builder.prepare_options(folder, "fp32", "fp32", {})
    from transformers import LlamaForCausalLM

    config = load_causal_lm(folder).config
    config.intermediate_size = rows
    save_model(LlamaForCausalLM(config), load_tokenizer(chat_model), folder)
    with pytest.raises(
        ModelError, match=rf"wide: model\.layers\.0\.mlp\.gate_proj has {rows} rows, as many as the vocabulary"
    ):
        builder.prepare_options(folder, "fp32", "fp32", {})


def test_a_padded_embedding_is_exported_as_it_is(chat_model: Path, data: Path, tmp_path: Path) -> None:
    folder = widened(chat_model, tmp_path / "wide", 352)
    forms = {"fp32": config_for().model_dump()["forms"]["fp32"]}
    export(config_for(forms=forms), folder, data, tmp_path)
    assert artifact.read_json(tmp_path / "parity.json")["forms"]["fp32"]["argmax_agreement"] == 1


def test_an_exact_form_that_differs_is_never_said_to_be_quantised_too_much() -> None:
    good = {"chat_template_identical": True, "tokenizer_identical": True, "kl_per_token": 0.0}
    good |= {"max_logprob_difference": 0.0, "argmax_agreement": 1.0, "greedy_agreement": 1.0}
    bad, bounds = good | {"kl_per_token": 2.0}, dict.fromkeys(good) | {"kl_per_token": 0.1}
    with pytest.raises(ParityError) as error:
        onnx_parity.check({"fp32": bad, "int8": bad}, {"fp32": bounds, "int8": bounds}, ["fp32"])
    assert "fp32: not quantised, so that the exporter has made another model" in str(error.value)
    assert "quantise less" not in str(error.value)
    with pytest.raises(ParityError, match=r"change `forms.<form>.weights` to quantise less"):
        onnx_parity.check({"fp32": good, "int8": bad}, {"fp32": bounds, "int8": bounds}, ["fp32"])
