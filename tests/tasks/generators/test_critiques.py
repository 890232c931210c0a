"""Written drafts, critiques and revisions: what they say is true, and nothing of a draft is learnt."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tasks.data import Config
from tasks.generators import critiques as critique_rows
from tasks.grading.addition import working
from tasks.grading.answers import final_number, is_correct
from tasks.ingestion.sources import GeneratorSource, read
from tasks.models.folder import load_tokenizer
from tasks.self_training.revision import Turns
from tasks.stage import artifact
from tasks.stage.config import load, read_yaml
from tasks.training import rows as training_rows
from tasks.training import supervised
from tests.conftest import REPO, TRAINER

RECIPES = sorted(path.parent.name for path in (REPO / "params").glob("*/refine.yaml"))
STEP = re.compile(r"[0-9+]+=[0-9]+")


def rows(**options: Any) -> list[dict[str, Any]]:
    standard: dict[str, Any] = {"count": 400, "seed": 1, "digits": [1, 2, 3, 4], "wrong_share": 0.5}
    return list(critique_rows.sums(**standard | options))


def operands(row: dict[str, Any]) -> tuple[int, int]:
    a, b = re.findall(r"[0-9]+", row["question"])
    return int(a), int(b)


def test_check_and_revision_are_the_right_working() -> None:
    for row in rows():
        a, b = operands(row)
        assert row["revision"] == row["critique"] == f"{a} + {b}: {working(a, b)}."
        assert final_number(row["revision"]) == int(row["answer"]) == a + b


def test_a_wrong_draft_has_one_wrong_step_in_any_place() -> None:
    places = set()
    for row in rows(wrong_share=1.0):
        draft, right = (STEP.findall(row[key]) for key in ("draft", "revision"))
        places.add(next(i for i, pair in enumerate(zip(draft, right, strict=True)) if pair[0] != pair[1]))
        assert final_number(row["draft"]) not in (None, int(row["answer"]))
    assert places == {0, 1, 2, 3}


def test_behind_the_wrong_step_a_draft_goes_on_consistently() -> None:
    rng = random.Random(0)
    for _ in range(300):
        a, b = rng.randint(1, 9999), rng.randint(0, 9999)
        draft = critique_rows.slip(rng, a, b)
        steps = STEP.findall(draft)
        results = [int(step.partition("=")[2]) for step in steps]
        columns = [result % 10 for result in results[:-1]] + results[-1:]
        assert final_number(draft) == sum(column * 10**i for i, column in enumerate(columns)), draft
        carries = [0, *(result // 10 for result in results)]
        right = []
        for i, carry in enumerate(carries[:-1]):
            x, y = a // 10**i % 10, b // 10**i % 10
            right.append(f"{x}+{y}{'+1' if carry else ''}={x + y + carry}")
        assert sum(step != wanted for step, wanted in zip(steps, right, strict=True)) == 1, draft


def test_a_right_draft_is_the_revision() -> None:
    assert all(row["draft"] == row["revision"] for row in rows(wrong_share=0.0))


def test_the_group_is_the_sum_whatever_the_wording() -> None:
    found = rows(digits=[1], count=600)
    assert all(row["group"] == "+".join(map(str, sorted(operands(row)))) for row in found)
    groups = {row["group"]: set[str]() for row in found}
    for row in found:
        groups[row["group"]].add(row["question"])
    assert any(len(questions) > 1 for questions in groups.values())


def test_reasoning_drafts_are_wrong_where_the_critique_says_so() -> None:
    kinds = read_yaml(REPO / "params/smollm2/data.yaml")["sources"]["reasoning"]["options"]["kinds"]
    found = list(critique_rows.reasoning(count=300, seed=2, kinds=kinds, wrong_share=0.5))
    assert len({row["kind"] for row in found}) == 6
    for row in found:
        right = row["critique"] == critique_rows.RIGHT
        assert is_correct(row["draft"], row["answer"]) == right, row
        assert is_correct(row["revision"], row["answer"])
        assert right or row["critique"].endswith(f" but {row['answer']}.")
    assert 100 < sum(row["critique"] == critique_rows.RIGHT for row in found) < 200
    equations = [row["draft"] for row in found if row["kind"] == "chain_sum" and row["critique"] != critique_rows.RIGHT]
    for draft in equations:
        _, stated, concluded = re.fullmatch(r"(.*) = (\S+)\. The answer is (\S+)", draft).groups()  # type: ignore[union-attr]
        assert stated == concluded, "the mistake is in the step and not only in what is concluded"


@pytest.fixture(scope="module")
def critiques(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data artifact's set, as the tiny recipe maps it."""
    folder = tmp_path_factory.mktemp("critiques")
    config = load(REPO / "params/tiny/data.yaml", Config)
    from tasks.ingestion.mapping import render, validate

    found = []
    for part in config.sets["sft:critiques"].rows:
        source = config.sources[part.source]
        assert isinstance(source, GeneratorSource)
        lines = read(part.source, source, Path()).lines[:40]
        found += [validate("sft:critiques", render(part.map, line.row)) for line in lines]
    artifact.write_jsonl(folder / "sft-critiques" / "train.jsonl", found)
    return folder


def test_loss_is_on_critique_and_revision_and_never_on_the_draft(critiques: Path, chat_model: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    rows = training_rows.read(critiques, "sft:critiques", "train")
    settings = TRAINER | {"max_length": 256, "assistant_only_loss": True, "report_to": "none"}
    trainer = SFTTrainer(
        model=str(chat_model),
        args=SFTConfig(output_dir=str(critiques / "out"), max_steps=1, **settings),
        train_dataset=training_rows.examples(critiques, "sft:critiques", "train"),
        processing_class=load_tokenizer(chat_model),
    )
    endings = set()
    for row, example in zip(rows, trainer.train_dataset, strict=True):
        batch = trainer.data_collator([example])
        mask = (batch["labels"][0] != -100).tolist()
        runs = supervised._runs(batch["input_ids"][0].tolist(), mask, trainer.processing_class)
        learnt = [run["text"].removesuffix("<|im_end|>") for run in runs if run["trained"]]
        turns = row["completion"] if "completion" in row else row["messages"]
        assert learnt == [turn["content"] for turn in turns if turn["role"] == "assistant"], json.dumps(row)
        endings.add((len(row.get("prompt", ())), len(learnt)))
    assert endings == {(0, 1), (3, 1), (3, 2)}, "plain rationales, drafts that stand, drafts that are revised"


@pytest.mark.parametrize("recipe", RECIPES)
def test_refine_says_what_critique_has_learnt(recipe: str) -> None:
    assert len(RECIPES) >= 2
    folder = REPO / "params" / recipe
    turns = read_yaml(folder / "refine.yaml")["turns"]
    config = load(folder / "data.yaml", Config)
    maps = [part.map for part in config.sets["sft:critiques"].rows if "completion" in part.map]
    said = {turn["content"] for m in maps for turn in [*m["prompt"][1:], *m["completion"]] if turn["role"] == "user"}
    assert said == {turns["check"], turns["revise"]}
    words = Turns.model_validate(turns)
    sources = [config.sources[part.source] for part in config.sets["sft:critiques"].rows if "completion" in part.map]
    for source in sources:
        assert isinstance(source, GeneratorSource)
        options = source.options | {"count": 24}
        for line in read("few", source.model_copy(update={"options": options}), Path()).lines:
            wrong = line.row["draft"] != line.row["revision"]
            assert words.finds_fault(line.row["critique"], line.row["draft"]) == wrong


def test_rows_of_two_forms_become_one(tmp_path: Path) -> None:
    turns = [{"role": role, "content": role[0]} for role in ("system", "user", "assistant", "user", "assistant")]
    parted = {"prompt": turns[:2], "completion": turns[2:]}
    artifact.write_jsonl(tmp_path / "sft" / "train.jsonl", [{"messages": turns}, parted])
    assert list(training_rows.examples(tmp_path, "sft", "train")) == [parted, parted]
    artifact.write_jsonl(tmp_path / "sft" / "train.jsonl", [{"messages": turns}])
    assert list(training_rows.examples(tmp_path, "sft", "train")) == [{"messages": turns}], (
        "of one form they stay as they are"
    )
