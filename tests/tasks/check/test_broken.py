"""Property: recipes broken by hand, one edit each: the check names file and key of every one, and what to do.

A case is the file that is edited, the key, with `/` between its parts, what is written there, and words that the
message has. What passes a schema, and fails or trains nonsense hours later, is here; misspelt keys: `test_recipe`.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.check import recipe as recipe_check
from tasks.stage.config import read_yaml
from tests.conftest import REPO
from tests.support import benchmarks
from tests.support.small_recipe import ROWS, SMALL, change, make, write

INFINITE = float("inf")
MAP = "sets/sft/rows/0/map"

GATES = "../../mlflow/gates"
FROZEN = {"gsm8k": {"limit": 20, "num_fewshot": 2}}
ASKED: list[dict[str, Any]] = [{"file": "eval/sums.yaml", "limit": None, "group_by": []}]

EDITS: list[tuple[str, str, Any, tuple[str, ...]]] = [
    # names that point across files
    ("sft", "dataset", "sfft", ("sft.yaml: dataset is 'sfft'", "did you mean 'sft'")),
    ("dpo", "dataset", "sft", ("dpo.yaml: dataset is 'sft'", "rows of 'preferences' are needed")),
    ("grpo", "dataset", "prompts:long", ("grpo.yaml: dataset is 'prompts:long'", "did you mean 'prompts'")),
    ("grpo", "gold", "rihgt", ("grpo.yaml: gold is 'rihgt'", "did you mean 'right'")),
    ("grpo", "curriculum", "digits", ("curriculum is 'digits'", "add it to the maps")),
    ("grpo", "graders/right/grader", "smus", ("graders.right.grader: no grader 'smus'", "did you mean 'sums'")),
    ("grpo", "graders/right/options", {"metrik": "exact_match"}, ("graders.right.options.metrik", "'metric'")),
    ("grpo", "graders/right/weight", 0.0, ("all weights of graders are 0", "raise one")),
    ("data", "sets/sft/rows/0/source", "row", ("data.yaml: sets.sft.rows.0.source is 'row'", "did you mean 'rows'")),
    ("evaluate", "tasks/0/file", "eval/sum.yaml", ("eval/sum.yaml: no such file", "did you mean 'sums.yaml'")),
    ("evaluate", "tasks/0/group_by", ["digits"], ("tasks.0.group_by names 'digits'", "add it to the map")),
    ("eval/sums", "process_results", "sum", ("unknown process_results 'sum'", "did you mean 'sums'")),
    ("eval/sums", "doc_to_text", "{{questionn}}", ("sums.yaml: doc_to_text names 'questionn'", "mean 'question'")),
    ("eval/sums", "doc_to_text", "{{question}", ("sums.yaml: doc_to_text: line 1", "Jinja")),
    ("data", "sets/eval:sums/rows/0/map", {"question": "{question}"}, ("process_results: sums reads 'answer'",)),
    ("data", "sources/rows/sha256", "ab", ("sources.rows.sha256 is ab, and rows.jsonl has",)),
    ("eval/sums", "dataset_kwargs/data_files/test", "eval/x.jsonl", ("eval/x.jsonl", "no set of")),
    ("recipe", "sft/sft/from", "bsae", ("sft.sft.from is 'bsae'", "did you mean 'base'")),
    ("recipe", "sft/sft/claim", "sums.exact", ("claim of 'sft' is 'sums.exact'", "did you mean 'sums.exact_match'")),
    ("recipe", "evaluate", ["base", "stf"], ("evaluate: 'stf' is no model", "did you mean 'sft'")),
    ("recipe", "forms", ["int5"], ("forms names 'int5'", "did you mean")),
    ("report", "headline/metric", "helpfull", ("report.yaml: headline is 'sums.helpfull'", "'sums.helpful'")),
    ("report", "frontier/task", "sum", ("report.yaml: frontier is 'sum.", "did you mean 'sums.")),
    ("export_onnx", "parity/rows", "eval/sms.jsonl", ("parity.rows is 'eval/sms.jsonl'", "'eval/sums.jsonl'")),
    (GATES, "small/quality/metric", "sums.hlpful", ("small.quality.metric is 'sums.hlpful'", "'sums.")),
    (GATES, "small/quality/metric", "gsm8k.exact_match", ("small.quality.metric is 'gsm8k.exact_match'", "no task")),
    ("evaluate", "tasks", [*ASKED, {"benchmark": "gsm8k"}], ("tasks.1: benchmark is 'gsm8k'", "of params/small/data")),
    ("data", "benchmarks", {"gsm8": {}}, ("data.yaml: benchmarks.gsm8: ", "did you mean")),
    ("data", "benchmarks", {"humaneval": {}}, ("data.yaml: benchmarks.humaneval: ", "unsafe_code: true")),
    # values
    ("sft", "threads", 0, ("sft.yaml: threads is 0", "at least 1")),
    ("sft", "seed", -1, ("sft.yaml: seed is -1", "0 to 4294967295")),
    ("data", "seed", 2**32, ("data.yaml: seed is 4294967296", "0 to 4294967295")),
    ("sft", "trainer/learning_rate", "fast", ("trainer.learning_rate is 'fast'; expected a number",)),
    ("sft", "trainer/learning_rate", INFINITE, ("trainer.learning_rate is inf", "not finite")),
    ("dpo", "trainer/learning_rate", -1e-4, ("trainer.learning_rate is -0.0001", "above 0")),
    ("sft", "max_cut", 1.5, ("max_cut", "less than or equal to 1")),
    ("evaluate", "confidence", 95, ("evaluate.yaml: confidence is 95", "below 1")),
    ("data", "split", {"validation": 0.6, "test": 0.5}, ("split holds back 1.1", "lower its shares")),
    ("base", "dtype", "fp32", ("base.yaml: dtype is 'fp32'", "float32")),
    ("evaluate", "device", "gpu", ("device is 'gpu'", "cuda")),
    ("evaluate", "batch_size", 0, ("batch_size",)),
    ("evaluate", "tasks/0/limit", 0, ("evaluate.yaml: tasks.0.limit is 0", "above 0")),
    ("sft", "trainer/learning_rate", 5.0, ("trainer.learning_rate is 5.0", "at most 1")),
    ("dpo", "trainer/beta", -0.1, ("trainer.beta is -0.1", "from 0 up")),
    ("grpo", "trainer/epsilon", -0.2, ("trainer.epsilon is -0.2", "above 0")),
    ("grpo", "trainer/temperature", 0.0, ("trainer.temperature is 0", "divided")),
    # the libraries' own classes
    ("grpo", "trainer/scale_rewards", "nonee", ("trainer.scale_rewards is 'nonee'", "did you mean 'none'")),
    ("grpo", "trainer/num_generations", 7, ("grpo.yaml: trainer: ", "divisible")),
    ("dpo", "trainer/loss_type", ["sigmod", "sft"], ("trainer.loss_type is 'sigmod'", "did you mean 'sigmoid'")),
    ("dpo", "trainer/loss_weights", [1.0], ("loss_weights", "2")),
    ("grpo", "trainer/loss_type", "dapoo", ("trainer.loss_type is 'dapoo'", "did you mean 'dapo'")),
    ("sft", "trainer/lr_scheduler_type", "cosin", ("sft.yaml: trainer: ", "cosin")),
    ("sft", "trainer/save_steps", 15, ("trainer.save_steps is 15, no multiple of trainer.logging_steps",)),
    ("sft", "trainer/max_steps", "many", ("trainer.max_steps is 'many'; expected a number",)),
    ("sft", "peft", {"r": 8, "target_modules": ["q_prj"]}, ("peft.target_modules names 'q_prj'", "'q_proj'")),
    ("sft", "peft", {"r": 0, "target_modules": ["q_proj"]}, ("peft.r is 0", "above 0")),
    ("dpo", "trainer/beta", 0, ("dpo.yaml: trainer.beta is 0", "nothing is learnt")),
    ("dpo", "trainer/label_smoothing", 0.9, ("trainer.label_smoothing is 0.9", "the worse replies are learnt")),
    ("sft", "trainer/fp16", True, ("sft.yaml: trainer.fp16 and trainer.use_cpu are true", "needs a GPU")),
    ("eval/sums", "output_type", "multiple", ("sums.yaml: process_results cannot grade what `output_type` gives",)),
    ("eval/sums", "generation_kwargs/max_gen_toks", 0, ("generation_kwargs.max_gen_toks is 0", "at least 1")),
    # the model
    ("eval/sums", "generation_kwargs/max_gen_toks", 9999, ("max_gen_toks is 9999 tokens, and the model takes",)),
    ("base", "source/adapter", "models/none", ("base.yaml: source.adapter: models/none: no such folder",)),
    ("sft", "trainer/max_length", 4096, ("trainer.max_length is 4096 tokens", "or less")),
    ("grpo", "trainer/max_completion_length", 4096, ("trainer.max_completion_length is 4096 tokens", "or less")),
    ("base", "source/folder", "modle", ("base.yaml: source.folder: modle: no such folder",)),
    ("base", "chat_template", "{{ messages[0].content }}", ("base.yaml: source: ", "does not mark", "generation")),
    ("evaluate", "chat_template_args", {"enable_thnking": False}, ("chat_template_args.enable_thnking", "no such")),
    ("sft", "trainer/per_device_train_batch_size", 2**22, ("per_device_train_batch_size is", "GiB", "would fit")),
    # the rows
    ("data", MAP, {"messages": [{"role": "user", "content": "{ask}"}]}, ("sft.rows.0.map: no column 'ask'", "has:")),
    ("data", MAP, {"text": "{question}"}, ("sft.rows.0.map: a row of 'sft' needs messages", "add it to the map")),
    ("data", MAP, {"messages": "{question}"}, ("rows cannot be used", "correct the map")),
    ("data", "sources/rows/file", "row.jsonl", ("sources.rows: row.jsonl: no such file", "did you mean rows.jsonl")),
    ("data", "sources/rows/file", "model", ("sources.rows: model",)),
]


@pytest.fixture
def small(workspace: Path, chat_model: Path) -> Path:
    """The recipe `small`, which passes."""
    make(chat_model)
    return workspace


def said() -> str:
    return "\n".join(recipe_check.check(SMALL))


def test_the_list_is_long_and_the_recipe_passes_before_it_is_broken(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(EDITS) + len(FILES) >= 40
    assert said() == ""
    assert caplog.messages == []


@pytest.mark.parametrize(("file", "key", "value", "words"), EDITS, ids=[f"{f}-{k}-{v}"[:60] for f, k, v, _ in EDITS])
def test_a_broken_recipe_is_named(small: Path, file: str, key: str, value: Any, words: tuple[str, ...]) -> None:
    change(SMALL / f"{file}.yaml", key, value)
    message = said()
    assert all(word in message for word in words), message


MORE_THAN_FROZEN: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"benchmark": "gsmk"}, ("tasks.1: benchmark is 'gsmk'", "did you mean 'gsm8k'")),
    ({"benchmark": "gsm8k", "limit": 21}, ("tasks.1: limit is 21", "benchmarks.gsm8k.limit 20")),
    ({"benchmark": "gsm8k", "num_fewshot": 3}, ("num_fewshot is 3", "benchmarks.gsm8k.num_fewshot 2")),
]


@pytest.mark.parametrize(("asked", "words"), MORE_THAN_FROZEN)
def test_a_benchmark_is_held_against_what_is_frozen(small: Path, asked: dict[str, Any], words: tuple[str, ...]) -> None:
    change(SMALL / "data.yaml", "benchmarks", FROZEN)
    change(SMALL / "evaluate.yaml", "tasks", [*ASKED, {"benchmark": "gsm8k", "limit": 5, "num_fewshot": 2}])
    assert said() == ""
    change(SMALL / "evaluate.yaml", "tasks", [*ASKED, asked])
    message = said()
    assert all(word in message for word in words), message


def test_prompts_that_do_not_fit_the_context_are_found_before_the_training(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model takes 256 tokens, and a problem has about a hundred letters, most of them a token each."""
    change(SMALL / "data.yaml", "benchmarks", FROZEN)
    change(SMALL / "evaluate.yaml", "tasks", [*ASKED, {"benchmark": "gsm8k"}])
    assert said() == ""
    assert "whether the prompts of gsm8k fit the model's context was not looked at" in caplog.text
    caplog.clear()
    benchmarks.gsm8k(small)
    message = said()
    assert re.search(r"evaluate\.yaml: tasks\.1: of the first 6 prompts of gsm8k 6 do not fit .*256 tokens", message), (
        message
    )
    assert "was not looked at" not in caplog.text
    config = read_yaml(Path("model/config.json"))
    Path("model/config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    assert said() == ""


def test_claims_and_gates_may_name_metrics_of_benchmarks(small: Path) -> None:
    change(SMALL / "data.yaml", "benchmarks", {**FROZEN, "mmlu_social_sciences": {}, "ifeval": {}})
    names = [{"benchmark": name} for name in ("gsm8k", "mmlu_social_sciences", "ifeval")]
    change(SMALL / "evaluate.yaml", "tasks", [*ASKED, *names])
    change(SMALL / "recipe.yaml", "sft/sft/claim", "gsm8k.exact_match[strict-match]")
    change(SMALL / "recipe.yaml", "dpo/dpo/claim", "ifeval.prompt_level_strict_acc")
    change(SMALL / "report.yaml", "headline", {"task": "gsm8k", "metric": "exact_match[flexible-extract]"})
    change(SMALL / f"{GATES}.yaml", "small/quality/metric", "mmlu_social_sciences.acc")
    assert said() == ""
    change(SMALL / "recipe.yaml", "sft/sft/claim", "gsm8k.exact_match")
    change(SMALL / f"{GATES}.yaml", "small/quality/metric", "mmlu_social_sciences.exact_match")
    message = said()
    assert "claim of 'sft' is 'gsm8k.exact_match', which no evaluation task has" in message
    assert "did you mean 'gsm8k.exact_match[" in message
    assert "small.quality.metric is 'mmlu_social_sciences.exact_match', which no task" in message


def test_the_metric_of_the_default_policy_counts_where_a_recipe_names_none(small: Path) -> None:
    change(SMALL / f"{GATES}.yaml", "default/quality/metric", "sum.helpful")
    assert said() == ""
    change(SMALL / f"{GATES}.yaml", "small/quality/metric", None)
    assert "default.quality.metric is 'sum.helpful', which no task of evaluate.yaml has; did you mean" in said()


def test_the_page_counts_these_recipes() -> None:
    page = (REPO / "docs/check.md").read_text(encoding="utf-8")
    rows = [(int(broken), int(found)) for broken, found in re.findall(r"^\|[^|]*\| (\d+) \| (\d+) \|$", page, re.M)]
    *kinds, total = rows
    assert total == (len(EDITS) + len(MORE_THAN_FROZEN) + len(FILES),) * 2
    assert tuple(sum(column) for column in zip(*kinds, strict=True)) == total


def folder() -> None:
    Path(SMALL / "sft.yaml").unlink()
    Path(SMALL / "sft.yaml").mkdir()


def missing() -> None:
    Path(SMALL / "dpo.yaml").unlink()


def no_utf8() -> None:
    Path(SMALL / "dpo.yaml").write_bytes(b"seed: 1 # \xff\n")


def rows_not_utf8() -> None:
    ROWS.write_bytes(b'{"question": "\xff"}\n' * 9)


def rows_are_a_folder() -> None:
    ROWS.unlink()
    ROWS.mkdir()


def cut_weights() -> None:
    path = Path("model/model.safetensors")
    path.write_bytes(path.read_bytes()[:5000])


def no_end_of_text() -> None:
    path = Path("model/tokenizer_config.json")
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in values.items() if key != "eos_token"}))


def of_the_model(**values: Any) -> None:
    path = Path("model/config.json")
    path.write_text(json.dumps(read_yaml(path) | values))


def classifier() -> None:
    of_the_model(architectures=["LlamaForSequenceClassification"])


def packed() -> None:
    of_the_model(quantization_config={"quant_method": "gptq", "bits": 4})


def pickled() -> None:
    Path("model/training_args.bin").write_bytes(b"")


def too_large() -> None:
    shape = {"hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 200, "num_attention_heads": 128}
    path = SMALL / "base.yaml"
    scratch = read_yaml(Path("tiny_base.yaml"))["source"]
    scratch["scratch"]["model"] |= shape
    write(path, {**read_yaml(path), "source": scratch})


FILES: list[tuple[Callable[[], None], tuple[str, ...]]] = [
    (folder, ("sft.yaml: is a folder; expected a YAML file",)),
    (no_utf8, ("dpo.yaml: not UTF-8 at byte 10; save the file as UTF-8",)),
    (rows_not_utf8, ("data.yaml: sources.rows: not one row could be read",)),
    (rows_are_a_folder, ("data.yaml: sources.rows: rows.jsonl",)),
    (cut_weights, ("base.yaml: source.folder: model/model.safetensors",)),
    (classifier, ("base.yaml: source.folder: model/config.json: the folder holds LlamaForSeq", "LlamaForCausalLM")),
    (packed, ("base.yaml: source.folder: model: its weights are quantised", "take the model that it was made from")),
    (pickled, ("base.yaml: source.folder: model/training_args.bin: a pickle can run code", "remove it")),
    (no_end_of_text, ("base.yaml: source: model: the tokenizer has no eos_token",)),
    (too_large, ("GiB", "no batch would fit", "smaller model", "are free", "set 'pretrain'")),
    (missing, ("dpo.yaml: no such file",)),
]


@pytest.mark.parametrize(("broken", "words"), FILES, ids=[broken.__name__ for broken, _ in FILES])
def test_a_broken_file_is_named(small: Path, broken: Callable[[], None], words: tuple[str, ...]) -> None:
    shutil.copyfile(REPO / "params/tiny/base.yaml", "tiny_base.yaml")
    broken()
    message = said()
    assert all(word in message for word in words), message


NOTICES: list[tuple[str, str, Any, str]] = [
    ("recipe", "evaluate", ["base", "sft", "dpo"], "grpo.grpo is trained and never evaluated; add it to 'evaluate'"),
    ("recipe", "export", [], "no model is exported"),
    ("recipe", "forms", ["fp32"], "small.form is 'int8', which is not evaluated"),
    (GATES, "small/regression", {"sum.*": 0.1}, "small.regression has 'sum.*', which matches no metric"),
    ("sft", "trainer/use_liger_kernel", True, "trainer.use_liger_kernel is True, which needs the package liger-kernel"),
    ("sft", "trainer/optim", "adamw_bnb_8bit", "needs the package bitsandbytes, and it is not installed here"),
    ("sft", "trainer/warmup_steps", 100_000, "trainer.warmup_steps is 100000, and trainer.max_steps"),
]


@pytest.mark.parametrize(("file", "key", "value", "words"), NOTICES, ids=[words[:40] for *_, words in NOTICES])
def test_what_is_no_fault_is_warned_of(
    small: Path, caplog: pytest.LogCaptureFixture, file: str, key: str, value: Any, words: str
) -> None:
    caplog.set_level(logging.WARNING, "polm")
    if key == "export":
        (SMALL / "export_onnx.yaml").unlink()
    change(SMALL / f"{file}.yaml", key, value)
    assert said() == ""
    assert words in caplog.text


def test_padding_that_ends_a_text_is_warned_of(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = Path("model/tokenizer_config.json")
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"pad_token": values["eos_token"]}))
    assert said() == ""
    assert "pad_token is '<|im_end|>', the same as eos_token" in caplog.text


def test_rows_as_long_as_the_context_are_warned_of(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(SMALL / "sft.yaml", "trainer/per_device_train_batch_size", 2**22)
    assert "per_device_train_batch_size is" in said()
    change(SMALL / "sft.yaml", "trainer/max_length", None)
    assert said() == ""
    assert "trainer.max_length is null, so that rows may be as long as the model's context" in caplog.text


def test_a_block_of_quantised_weights_is_no_length(small: Path) -> None:
    path = Path("model/config.json")
    path.write_text(json.dumps(read_yaml(path) | {"max_position_embeddings": 16}))
    message = said()
    assert "takes 16" in message
    assert "block_size" not in message


def test_faults_of_every_kind_are_said_at_once(small: Path) -> None:
    change(SMALL / "sft.yaml", "sed", 1)
    change(SMALL / "recipe.yaml", "sft/sft/claim", "sums.exact")
    change(SMALL / "dpo.yaml", "trainer/loss_type", ["sigmod", "sft"])
    change(SMALL / "grpo.yaml", "trainer/max_completion_length", 4096)
    change(SMALL / "data.yaml", "sources/rows/file", "row.jsonl")
    change(SMALL / "evaluate.yaml", "confidence", 95)
    message = said()
    for words in ("unknown key 'sed'", "sums.exact'", "'sigmod'", "4096 tokens", "row.jsonl: no such", "is 95"):
        assert words in message, message


def test_faults_of_files_are_said_beside_those_of_the_graph(small: Path) -> None:
    change(SMALL / "recipe.yaml", "dpo/dpo/from", "stf")
    change(SMALL / "sft.yaml", "threads", 0)
    message = said()
    assert "dpo.dpo.from is 'stf'" in message
    assert "sft.yaml: threads is 0" in message
