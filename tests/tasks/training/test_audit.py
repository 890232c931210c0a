"""The audit against TRL itself: rows of known lengths, and what each trainer keeps of them."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import tasks
from tasks import adapt, distill, dpo, grpo, kto, online_dpo, ppo, prune, refine, rejection, reward, sft
from tasks import judge as judge_stage
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.rl.prompts import training_prompts
from tasks.stage import artifact, audit_record
from tasks.stage.errors import DataError
from tasks.stage.trainer_config import TrlConfig
from tasks.training import audit as row_audit
from tasks.training import fates as row_fates
from tasks.training import rows as training_rows
from tasks.training import trainer as training
from tasks.training.fates import Fate, Rows
from tests.support import adapters, rl, supervised
from tests.support import distill as distill_settings
from tests.support import online_dpo as online_dpo_settings
from tests.support import ppo as ppo_settings
from tests.support import prune as prune_settings
from tests.support import refine as refine_settings

MakeRun = Callable[..., Any]
LIMIT = 64
Row = dict[str, Any]

LENGTHS = {  # tokens of the question up to where the answer begins; tokens of the answer, with its end; how it ends
    "short": (20, 12, "used"),
    "fills the limit": (20, 44, "used"),
    "one too many": (20, 45, "cut"),
    "a long answer": (20, 90, "cut"),
    "a question that leaves one token": (63, 12, "cut"),
    "a question that fills the limit": (64, 12, "left_out"),
    "a long question": (100, 12, "left_out"),
    "a long question and answer": (150, 90, "left_out"),
}


def turn(role: str, digits: int, first: str = "1") -> list[dict[str, str]]:
    """A turn of so many tokens: the fixture's tokenizer takes each digit for one."""
    return [{"role": role, "content": (first + "7" * digits)[:digits]}]


@pytest.fixture(scope="module")
def overhead(chat_model: Path) -> tuple[int, int]:
    """Tokens that the template adds up to where the answer begins, and behind it."""
    tokenizer = load_tokenizer(chat_model)
    alone = tokenizer.apply_chat_template(turn("user", 5), tokenize=True, return_dict=True, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(
        turn("user", 5) + turn("assistant", 3), tokenize=True, return_dict=True, add_generation_prompt=False
    )
    before = len(alone["input_ids"]) - 5
    return before, len(whole["input_ids"]) - 5 - 3 - before


@pytest.fixture(scope="module")
def lengthy(tmp_path_factory: pytest.TempPathFactory, make_artifact: Any, overhead: tuple[int, int]) -> Path:
    """A data artifact whose rows are named for their lengths."""
    folder = tmp_path_factory.mktemp("lengthy")
    sets: dict[str, list[Row]] = {name: [] for name in ("sft", "parted", "preferences", "feedback", "prompts")}
    for number, (name, (question, answer, _)) in enumerate(LENGTHS.items()):
        asked = turn("user", question - overhead[0])
        said = turn("assistant", answer - overhead[1])
        other = turn("assistant", 4, first="2")
        sets["sft"].append({"id": name, "messages": asked + said})
        sets["parted"].append({"id": name, "prompt": asked, "completion": said})
        sets["preferences"].append({"id": name, "prompt": asked, "chosen": said, "rejected": other})
        sets["feedback"].append({"id": name, "prompt": asked, "completion": said, "label": number % 2 == 0})
        sets["prompts"].append({"id": name, "prompt": turn("user", 2 * question), "answer": "7"})
    for name, rows in sets.items():
        for split in ("train", "validation"):
            artifact.write_jsonl(folder / name / f"{split}.jsonl", rows)
    make_artifact(folder, stage="data")
    return folder


def kept_by_trl(module: Any, chat_model: Path, rows: list[Row], make_run: MakeRun, **settings: Any) -> set[str]:
    """Ids of the rows that are left in a real trainer's data set, by a column that it carries along."""
    import trl

    config = supervised.configured(module, max_length=LIMIT, max_steps=1, **settings)
    name = module.trainer_class().__name__.removesuffix("Config") + "Trainer"
    tokenizer, model = load_tokenizer(chat_model), load_causal_lm(chat_model)
    if module is reward:
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(
            chat_model, num_labels=1, pad_token_id=tokenizer.pad_token_id
        )
    trainer = getattr(trl, name)(
        model=model,
        args=training.arguments(module.trainer_class(), config, make_run(module.__name__.split(".")[-1])),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return set(trainer.train_dataset["id"])


def fates_in(module: Any, rows: Rows, tokenizer: Any, trainer: dict[str, Any]) -> list[Fate]:
    """Find what the stage's rule makes of the rows."""
    fates: list[Fate] = module.row_rule(rows, tokenizer, row_fates.settings(trainer, module.trainer_class()))
    return fates


@pytest.mark.parametrize(
    ("module", "dataset", "settings"),
    [
        (sft, "sft", {"assistant_only_loss": True}),
        (sft, "parted", {"assistant_only_loss": True}),
        (sft, "parted", {"assistant_only_loss": False}),
        (sft, "sft", {"assistant_only_loss": True, "truncation_mode": "keep_end"}),
        (dpo, "preferences", {}),
        (dpo, "preferences", {"truncation_mode": "keep_end"}),
        (kto, "feedback", {}),
        (reward, "preferences", {}),
    ],
)
def test_the_audit_names_the_rows_that_trl_drops(
    module: Any, dataset: str, settings: dict[str, Any], make_run: MakeRun, chat_model: Path, lengthy: Path
) -> None:
    rows, tokenizer = list(training_rows.read(lengthy, dataset, "train")), load_tokenizer(chat_model)
    trainer = {"max_length": LIMIT, **settings}
    fates = fates_in(module, rows, tokenizer, trainer)
    found = {row["id"]: fate.state for row, fate in zip(rows, fates, strict=True)}
    assert {name for name, state in found.items() if state != "left_out"} == kept_by_trl(
        module, chat_model, rows, make_run, **settings
    )
    if module is reward:
        assert {name for name, state in found.items() if state == "used"} == {"short", "fills the limit"}
        assert "cut" not in found.values()
    elif "truncation_mode" not in settings:
        assert found == {name: state for name, (_, _, state) in LENGTHS.items()}
    longest = {name: fate.tokens for name, fate in zip(LENGTHS, fates, strict=True)}
    assert longest["a long question and answer"] == 240


def test_every_stage_with_a_trainer_names_its_rule() -> None:
    modules = [importlib.import_module(f"tasks.{path.stem}") for path in Path(tasks.__path__[0]).glob("[a-z]*.py")]
    trained = [module for module in modules if "Config" in vars(module) and issubclass(module.Config, TrlConfig)]
    assert {dpo, kto, reward, sft} < set(trained)
    whole = {"tasks.speech"}  # its trainer leaves out no row and cuts none
    assert {module.__name__ for module in trained if "row_rule" not in vars(module)} == whole


def test_a_pair_is_lost_with_its_longer_side(chat_model: Path) -> None:
    row = {"prompt": turn("user", 8), "chosen": turn("assistant", 4), "rejected": turn("assistant", 90, first="2")}
    tokenizer, trainer = load_tokenizer(chat_model), {"max_length": LIMIT}
    for module, state in ((dpo, "cut"), (kto, "cut"), (reward, "left_out")):
        assert fates_in(module, [row], tokenizer, trainer)[0].state == state


def test_packing_cuts_or_splits(chat_model: Path, lengthy: Path) -> None:
    rows, tokenizer = training_rows.read(lengthy, "sft", "train"), load_tokenizer(chat_model)
    trainer = {"max_length": LIMIT, "packing": True, "assistant_only_loss": True}
    cut = [fate.state for fate in fates_in(sft, rows, tokenizer, trainer)]
    assert cut == [state for _, _, state in LENGTHS.values()]
    split = fates_in(sft, rows, tokenizer, trainer | {"packing_strategy": "bfd_split"})
    assert {fate.state for fate in split} == {"used"}


def test_no_limit_loses_nothing(chat_model: Path, lengthy: Path) -> None:
    for module, dataset in ((sft, "sft"), (dpo, "preferences"), (kto, "feedback"), (reward, "preferences")):
        rows = training_rows.read(lengthy, dataset, "train")
        fates = fates_in(module, rows, load_tokenizer(chat_model), {"max_length": None})
        assert {fate.state for fate in fates} == {"used"}


def lenient(config: Any, dataset: str | None = None, **trainer: Any) -> Any:
    """The configuration with a limit that loses rows, and leave to do so."""
    return config.model_copy(
        update={
            "max_left_out": 0.9, "max_cut": 0.9, "dataset": dataset or config.dataset,
            "trainer": config.trainer | trainer,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "dataset"), [(sft, "sft"), (dpo, "preferences"), (kto, "feedback"), (reward, "preferences")]
)
def test_what_is_lost_is_written_and_said(
    module: Any,
    dataset: str,
    make_run: MakeRun,
    chat_model: Path,
    lengthy: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    extra: dict[str, Any] = {"assistant_only_loss": True} if module is sft else {}
    base = rl.configured(kto, dataset, {}) if module is kto else supervised.configured(module, **extra)
    config = lenient(base, dataset, max_length=LIMIT, max_steps=1, per_device_train_batch_size=2)
    if module is reward:
        config = config.model_copy(update={"calibration_bins": 2})
    run = make_run("trained")
    module.main(config, run, model=chat_model, data=lengthy)
    audit = artifact.read_json(run.out / "audit.json")
    assert set(audit) == {"train", "validation"}
    for split, record in audit.items():
        assert record["rows"] == len(LENGTHS) == record["used"] + record["cut"] + record["left_out"]
        assert record["longest"] == {"id": "a long question and answer", "tokens": 240}
        lost = {name for name, (_, _, state) in LENGTHS.items() if state != "used"}
        assert set(record["cut_ids"]) | set(record["left_out_ids"]) == lost
        assert f"warning: {split}: {record['left_out']} left out" in caplog.text
    assert artifact.read_json(run.out / "tokenizer.json")["truncation"] is None, "whoever loads it would cut in silence"
    if module is reward:
        assert sum(part["pairs"] for part in artifact.read_json(run.out / "calibration.json")) == 2


def strict(module: Any) -> Any:
    """The stage's configuration in its own tests, with a limit that no row of theirs keeps."""
    short: dict[str, Any] = {"max_length": 12}
    if module in (sft, dpo, reward):
        return supervised.configured(module, **(short | ({"assistant_only_loss": True} if module is sft else {})))
    if module is kto:
        return rl.configured(kto, "feedback", short)
    if module is adapt:
        return adapters.configured(trainer=adapters.values()["trainer"] | short)
    if module is distill:
        return distill_settings.configured(short)
    return prune_settings.configured(trainer=prune_settings.configured().trainer | short)


@pytest.mark.parametrize("module", [sft, dpo, kto, reward, adapt, distill, prune], ids=lambda module: module.__name__)
def test_a_limit_that_does_not_fit_the_rows_stops_the_stage(
    module: Any, make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    names = {adapt: "lora", distill: "alone", prune: "magnitude"}
    run = make_run(names.get(module, "trained"))
    inputs = {"teacher": chat_model} if module is distill else {}
    with pytest.raises(DataError, match=r"64 left out of 64 rows .* limit 12, trainer.max_length.* nothing is left to"):
        module.main(strict(module), run, model=chat_model, data=sums_data, **inputs)
    assert list(run.out.iterdir()) == []


def answering(module: Any) -> Any:
    """The configuration of a stage that has prompts answered, with answers that fill the model's context of 256."""
    if module is grpo:
        return rl.grpo_config(trainer={"max_completion_length": 250})
    if module is ppo:
        return ppo_settings.configured(trainer={"max_completion_length": 250})
    if module is online_dpo:
        return online_dpo_settings.configured(trainer={"max_completion_length": 250})
    config = refine_settings.configured() if module is refine else rl.rejection_config()
    most = 80 if module is refine else 250
    return config.model_copy(update={"sampling": config.sampling.model_copy(update={"max_new_tokens": most})})


@pytest.mark.parametrize("module", [grpo, ppo, online_dpo, rejection, refine], ids=lambda module: module.__name__)
def test_prompts_that_leave_no_room_stop_what_has_them_answered(
    module: Any, make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    inputs = {ppo: {"reward": chat_model}, online_dpo: {"judge": chat_model}}.get(module, {})
    with pytest.raises(DataError, match=r"left out of 64 rows of prompts .* context of 256 less .*: lower \S+,"):
        module.main(answering(module), make_run("answered"), model=chat_model, data=sums_data, **inputs)


def test_prompts_without_room_are_not_asked(make_run: MakeRun, chat_model: Path, lengthy: Path) -> None:
    run, tokenizer = make_run("grpo"), load_tokenizer(chat_model)
    config = lenient(rl.grpo_config(), max_completion_length=100)
    arguments = training.arguments(grpo.trainer_class(), config, run)
    prompts = training_prompts(config, run, arguments, tokenizer, chat_model, lengthy)
    record = artifact.read_json(run.out / "audit.json")["train"]
    assert record["limit"] == 156
    assert record["left_out_ids"] == ["a long question", "a long question and answer"]
    assert record["rows"] == len(prompts) + record["left_out"] == record["used"] + record["left_out"]
    longest = max(len(row["prompt"][0]["content"]) for row in prompts)
    assert longest == 2 * 64


def test_rounds_audit_what_they_ask_and_what_they_learn(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("rft")
    config = lenient(rl.rejection_config(replay={"sft": 8}), max_length=30).model_copy(update={"max_cut": 1.0})
    rejection.main(config, run, model=chat_model, data=sums_data)
    audit = artifact.read_json(run.out / "audit.json")
    assert set(audit) == {"prompts", "round_1", "round_2"}
    rounds = artifact.read_json(run.out / "rounds.json")["rounds"]
    for number in (1, 2):
        record = audit[f"round_{number}"]
        assert record["rows"] == rounds[number - 1]["kept"] + 8 == record["used"] + record["cut"] + record["left_out"]
        assert record["cut"] + record["left_out"] > 0


def test_the_judge_is_audited_in_pairs_of_rows(
    make_run: MakeRun, workspace: Path, chat_model: Path, sums_data: Path
) -> None:
    from tests.support.judges import CONSTITUTION

    run = make_run("judge")
    (workspace / "params/test/judge").mkdir(parents=True)
    artifact.write_json(workspace / "params/test/judge/constitution.yaml", CONSTITUTION.model_dump(mode="json"))
    values = supervised.configured(dpo).model_dump() | {"constitution": "judge/constitution.yaml"}
    values["trainer"] |= {"max_length": 12, "assistant_only_loss": True}
    with pytest.raises(DataError, match=r"128 left out of 128 rows of judgements \(longest .*, row \d+-[01];"):
        judge_stage.main(judge_stage.Config.model_validate(values), run, model=chat_model, data=sums_data)


@pytest.mark.slow
def test_long_prompts_before_short_answers(make_run: MakeRun, workspace: Path, chat_model: Path) -> None:
    """Half of the questions fill `max_length`: as it was reported, green, with 33 rows of 67 trained on."""
    import random

    rng, rows = random.Random(1), []
    for i in range(80):
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        thought = "" if i % 2 else f"Think of {' '.join(str(rng.randint(100, 999)) for _ in range(60))}. "
        asked = [{"role": "user", "content": f"{thought}What is {a} + {b}?"}]
        right, wrong = ([{"role": "assistant", "content": f"{a} + {b} = {a + b + more}"}] for more in (0, 1))
        rows.append({"id": str(i), "prompt": asked, "chosen": right, "rejected": wrong, "messages": asked + right})
    data = workspace / "data"
    for name, keys in (("sft", ("id", "messages")), ("preferences", ("id", "prompt", "chosen", "rejected"))):
        for split, part in (("train", rows[:67]), ("validation", rows[67:])):
            artifact.write_jsonl(data / name / f"{split}.jsonl", [{key: row[key] for key in keys} for row in part])
    for module in (sft, dpo):
        extra: dict[str, Any] = {"assistant_only_loss": True} if module is sft else {}
        config = supervised.configured(module, max_length=128, max_steps=1, **extra)
        message = r"train.jsonl: 34 left out of 67 rows .*limit 128.* params/test/\w+.yaml allows a share of 0"
        with pytest.raises(DataError, match=message):
            module.main(config, make_run(f"strict_{module.__name__[6:]}"), model=chat_model, data=data)
        run = make_run(f"lenient_{module.__name__[6:]}")
        module.main(lenient(config), run, model=chat_model, data=data)
        record = audit_record.read(run.out)["train"]
        assert (record["rows"], record["used"], record["cut"], record["left_out"]) == (67, 33, 0, 34)
        assert record["left_out_ids"] == [str(i) for i in range(0, 67, 2)]


def test_the_summary_of_a_run_names_what_was_lost(workspace: Path) -> None:
    from types import SimpleNamespace

    from rich.console import Console

    from flows.terminal import summary
    from flows.terminal.board import Board
    from flows.tracking import records

    stages: dict[str, Any] = {}
    fates = [row_fates.Fate(412, "left_out"), row_fates.Fate(60, "used"), row_fates.Fate(130, "cut")]
    rows = [{"id": name} for name in ("a", "b", "c")]
    for name in ("sft", "dpo", "kto"):
        stages[name] = SimpleNamespace(out=workspace / name)
        (workspace / name).mkdir()
        record = row_audit.count(rows, fates, "sft", row_audit.Limit(128, "trainer.max_length", "raise it"))
        artifact.write_json(workspace / name / audit_record.FILE, {"train": record})
    board = Board(list(stages), Console())
    for name, state in (("sft", "done"), ("dpo", "cached"), ("kto", "failed")):
        board.state(name, state)
    graph: Any = SimpleNamespace(stages=stages)
    lost = "train: 1 left out and 1 cut of 3 rows of sft (longest 412 tokens, row a; limit 128, trainer.max_length)"
    assert summary.lost_rows(board, graph) == [f"sft: {lost}", f"dpo: {lost}"]
    metrics = records.final_metrics(workspace / "sft")
    assert metrics["audit/train/left_out"] == metrics["audit/train/used"] == metrics["audit/train/cut"] == 1


def test_kto_refuses_thumbs_that_point_one_way_once_long_rows_are_gone(
    make_run: MakeRun, workspace: Path, chat_model: Path, overhead: tuple[int, int]
) -> None:
    data = workspace / "data"
    rows = [
        {
            "id": str(i),
            "prompt": turn("user", 70 if i % 2 else 8),
            "completion": turn("assistant", 4),
            "label": not i % 2,
        }
        for i in range(16)
    ]
    for split in ("train", "validation"):
        artifact.write_jsonl(data / "feedback" / f"{split}.jsonl", rows)
    config = lenient(rl.configured(kto, "feedback", {"max_length": LIMIT}))
    with pytest.raises(DataError, match=r"all 8 labels are True"):
        kto.main(config, make_run("kto"), model=chat_model, data=data)


def test_rows_beyond_the_models_context_are_not_trained_on(
    make_run: MakeRun, workspace: Path, chat_model: Path
) -> None:
    rows = [{"id": str(i), "messages": turn("user", 8) + turn("assistant", 4 if i else 300)} for i in range(4)]
    for split in ("train", "validation"):
        artifact.write_jsonl(workspace / "data/sft" / f"{split}.jsonl", rows)
    config = supervised.configured(sft, assistant_only_loss=True, max_length=400)
    with pytest.raises(DataError, match=r"rows of up to 3\d\d tokens .* is 256: set trainer.max_length .* to no more"):
        sft.main(config, make_run("sft"), model=chat_model, data=workspace / "data")


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
"""As Gemma's template begins."""
UNHEARD = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
"""A template that passes over a system message in silence, as that of Phi-3 medium does."""


def told(chat_model: Path, folder: Path, opening: str, make_artifact: Any) -> tuple[Path, Path]:
    """A model whose template begins with `opening`, and data of which one row in each set has a system message."""
    shutil.copytree(chat_model, folder / "model")
    template = folder / "model/chat_template.jinja"
    template.write_text(opening + template.read_text())
    for name, sides in SIDES.items():
        rows = []
        for i in range(4):
            prompt = [{"role": "system", "content": "Be short."}] * (i == 2) + turn("user", 3 + i)
            rows.append(
                {"id": f"row{i}", "prompt": prompt, **sides, **({"label": i % 2 == 0} if name == "feedback" else {})}
            )
        if name == "sft":
            rows = [{"id": row["id"], "messages": row["prompt"] + row["completion"]} for row in rows]
        for split in ("train", "validation"):
            artifact.write_jsonl(folder / "data" / name / f"{split}.jsonl", rows)
    make_artifact(folder / "data")
    return folder / "model", folder / "data"


SIDES: dict[str, Row] = {
    "sft": {"completion": turn("assistant", 3)},
    "feedback": {"completion": turn("assistant", 3)},
    "preferences": {"chosen": turn("assistant", 3), "rejected": turn("assistant", 4)},
    "prompts": {"answer": "7"},
}


@pytest.mark.parametrize("module", [sft, dpo, kto, reward, adapt, rejection], ids=lambda module: module.__name__)
def test_a_row_that_the_chat_template_refuses_is_named(
    module: Any, make_run: MakeRun, workspace: Path, chat_model: Path, make_artifact: Any
) -> None:
    model, data = told(chat_model, workspace, NO_SYSTEM, make_artifact)
    config = answering(module) if module is rejection else strict(module)
    with pytest.raises(
        DataError, match=r"data/\w+/train.jsonl: .*refuses the row of system, user.*'Be short.* \(System"
    ):
        module.main(config, make_run("lora" if module is adapt else "trained"), model=model, data=data)


def test_messages_that_the_chat_template_leaves_out_are_said(
    make_run: MakeRun, workspace: Path, chat_model: Path, make_artifact: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = told(chat_model, workspace, UNHEARD, make_artifact)
    caplog.set_level("WARNING", logger="polm")
    sft.main(
        supervised.configured(sft, assistant_only_loss=True, max_length=256), make_run("sft"), model=model, data=data
    )
    found = [record.getMessage() for record in caplog.records if "leaves out" in record.getMessage()]
    assert [text.partition(" (")[0] for text in found] == [
        f"warning: {split}: the model's chat template leaves out words of messages of 1 of 4 rows of sft"
        for split in ("train", "validation")
    ]
    assert "the system's in row row2" in found[0]
    tokenizer = load_tokenizer(chat_model)
    for name in SIDES:
        assert row_fates.unwritten(training_rows.read(data, name, "train"), tokenizer) == [], "this one writes all"


def test_special_tokens_spelt_in_rows_are_said(
    make_run: MakeRun, workspace: Path, chat_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[Row] = [{"id": f"row{i}", "messages": turn("user", 3 + i) + turn("assistant", 3)} for i in range(4)]
    rows[1]["messages"][1]["content"] = "One.<|im_end|>\n<|im_start|>user\nTwo"
    rows[2]["messages"][0]["content"] = "What is <im_end> in <|im|>?"
    for split in ("train", "validation"):
        artifact.write_jsonl(workspace / "data/sft" / f"{split}.jsonl", rows)
    caplog.set_level("WARNING", logger="polm")
    config = supervised.configured(sft, assistant_only_loss=True, max_length=256)
    sft.main(config, make_run("sft"), model=chat_model, data=workspace / "data")
    found = [record.getMessage() for record in caplog.records if "special tokens" in record.getMessage()]
    assert [text.partition(", which")[0] for text in found] == [
        f"warning: {split}: 1 of 4 rows of sft spell special tokens of the tokenizer (first: '<|im_end|>' in row row1)"
        for split in ("train", "validation")
    ]
