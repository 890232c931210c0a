"""From the policy's answers to labels to a model that learnt from them, on a real, small model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import label
from tasks.judges.protocol import Judgement, Pair
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError
from tests.support.judges import ENDPOINT, FixedJudge, serving, shorter
from tests.support.label import LABEL, PARAMS, config

MakeRun = Callable[..., Any]


def test_distinct_answers_are_paired_in_the_order_drawn() -> None:
    row = {"prompt": [{"role": "user", "content": "Add 1 and 2."}], "answer": "3"}
    grade = label.gold_grader(PARAMS, label.Gold(grader="sums", metrics=["exact_match", "helpful"]))
    pairs = label.paired(row, ["3", "3", "", "4", "1 + 2 = 3. Happy to help!", "5", "6"], grade)
    assert [pair.answers for pair in pairs] == [("3", "4"), ("1 + 2 = 3. Happy to help!", "5")]
    assert [pair.gold for pair in pairs] == [(1.0, 0.0), (2.0, 0.0)]
    assert label.paired(row, ["3", "3"], grade) == []


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ({"grader": "sum", "metrics": ["helpful"]}, r"gold.grader: no grader 'sum'; did you mean 'sums'\?"),
        ({"grader": "Decimal", "metrics": ["helpful"]}, r"no grader 'Decimal'"),
        ({"grader": "sums", "metrics": ["helpfull"]}, r"sums gives no 'helpfull'; did you mean 'helpful'\?"),
    ],
)
def test_a_gold_checker_that_is_not_there(gold: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        label.gold_grader(PARAMS, label.Gold(**gold))


def test_one_answer_makes_no_pair(make_run: MakeRun, chat_model: Path, judge: Path, prompts: Path) -> None:
    alone = config(sampling=LABEL["sampling"] | {"samples_per_prompt": 1})
    with pytest.raises(ConfigError, match=r"sampling.samples_per_prompt: .* at least 2"):
        label.main(alone, make_run("labels"), model=chat_model, judge=judge, data=prompts)


def test_prompts_without_room_are_left_out_and_named(
    make_run: MakeRun, chat_model: Path, prompts: Path, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    from tasks.models.folder import load_tokenizer

    data, tokenizer, run = workspace / "data", load_tokenizer(chat_model), make_run("labels")
    shutil.copytree(prompts, data)
    path = data / "prompts/train.jsonl"
    rows = artifact.read_jsonl(path)
    rows[1] |= {"id": "long", "prompt": [{"role": "user", "content": "7" * 250}]}
    artifact.write_jsonl(path, rows)
    settings = config()
    found = label.fitting(settings, run, tokenizer, chat_model, data)
    audit = artifact.read_json(run.out / "audit.json")
    assert audit["train"]["left_out_ids"] == ["long"]
    assert len(found) == audit["train"]["used"] + audit["validation"]["used"]
    assert audit["train"]["rows"] == min(len(rows), settings.prompts.train) == audit["train"]["used"] + 1
    assert "warning: train: 1 left out of" in caplog.text
    artifact.write_jsonl(path, [rows[1]])
    with pytest.raises(DataError, match=r"train.jsonl: 1 left out of 1 rows .*; lower sampling.max_new_tokens in"):
        label.fitting(settings, run, tokenizer, chat_model, data)


def test_labels_are_what_the_judge_likes(
    make_run: MakeRun, judge_of_length: None, chat_model: Path, judge: Path, prompts: Path
) -> None:
    run = make_run("labels")
    label.main(config(), run, model=chat_model, judge=judge, data=prompts)
    rows = [
        row for split in ("train", "validation") for row in artifact.read_jsonl(run.out / f"preferences/{split}.jsonl")
    ]
    assert all(len(row["chosen"][0]["content"]) < len(row["rejected"][0]["content"]) for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)
    asked = {row["prompt"][0]["content"] for row in artifact.read_jsonl(prompts / "prompts/validation.jsonl")[:4]}
    held_out = artifact.read_jsonl(run.out / "preferences/validation.jsonl")
    assert {row["prompt"][0]["content"] for row in held_out} <= asked
    found = artifact.read_json(run.out / "judge.json")
    assert found["judge"] == "fixed"
    assert found["labelled"] == len(rows) == found["pairs"] - found["ties"] > 0
    assert found["length_bias"] == 0.0
    assert found["position_bias"] == pytest.approx(0.5)
    assert len(artifact.read_jsonl(run.out / "examples.jsonl")) == 5


def test_two_runs_give_the_same_bytes(
    make_run: MakeRun, make_artifact: Any, judge_of_length: None, chat_model: Path, judge: Path, prompts: Path
) -> None:
    digests = []
    for name in ("one", "two"):
        run = make_run(name)
        label.main(config(), run, model=chat_model, judge=judge, data=prompts)
        digests.append(make_artifact(run.out).digest)
    assert digests[0] == digests[1]


def test_a_local_judge_of_places_labels_nothing(
    make_run: MakeRun, chat_model: Path, judge: Path, prompts: Path
) -> None:
    """A random model likes one label better whatever is asked, so each pair is a tie."""
    with pytest.raises(DataError, match=r"judge \(local\) labelled no pair of the train prompts .*position_bias [01]"):
        label.main(config(), make_run("labels"), model=chat_model, judge=judge, data=prompts)


def test_a_judge_that_decides_nothing_is_an_error_with_its_figures(make_run: MakeRun) -> None:
    pairs = [({"split": "train", "id": "1", "prompt": []}, Pair("q", ("a", "b"), (1.0, 0.0)))]
    with pytest.raises(
        DataError, match=r"labelled no pair of the train prompts \(pairs 1, .*position_bias 1.*train it"
    ):
        label.write(config(), make_run("labels"), FixedJudge(lambda p: 1.0), pairs, [Judgement(1.0, 1.0)])


def test_an_endpoint_labels_and_a_second_run_asks_it_nothing(
    make_run: MakeRun, no_proxy: None, chat_model: Path, judge: Path, prompts: Path
) -> None:
    with serving(shorter) as server:
        asked = config(endpoint=ENDPOINT | {"base_url": server.url})
        runs = [make_run(name) for name in ("first", "second")]
        label.main(asked, runs[0], model=chat_model, judge=judge, data=prompts)
        sent = len(server.bodies)
        label.main(asked, runs[1], model=chat_model, judge=judge, data=prompts)
        assert len(server.bodies) == sent
    files = [sorted(p for p in run.out.rglob("*") if p.is_file()) for run in runs]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    found = artifact.read_json(runs[0].out / "judge.json")
    assert found["judge"] == f"judge-1 at {server.url}"
    assert sent == 2 * found["pairs"]
    assert found["ties"] == found["unreadable"] == 0
    assert found["cost"] == pytest.approx(102 * sent / 1e6)
    assert runs[0].measured["judge_requests"] == sent
    assert (runs[1].measured["judge_requests"], runs[1].measured["judge_replies_kept"]) == (0, sent)
