"""Self-refinement on a real small model: what is kept and learnt, rounds that go on, the comparison it writes."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import refine
from tasks.reporting import leaderboard, page
from tasks.rewards.composite import Rewards
from tasks.sampling.sample import Answer
from tasks.self_training.revision import Attempt
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError
from tests.support import report_tree
from tests.support.refine import configured
from tests.support.reporting import graph

MakeRun = Callable[..., Any]


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory, chat_model: Path, sums_data: Path) -> tuple[Path, Path]:
    """The stage's output, and its checkpoints, of which the rounds' rows are looked at."""
    from tasks.stage.lifecycle import Run
    from tasks.stage.progress import Progress

    root = tmp_path_factory.mktemp("refine")
    out = root / "refine"
    out.mkdir()
    run = Run(
        out, Path("params/test/refine.yaml"), "refine", root / "checkpoints", {}, Progress(None), main_process=True
    )
    refine.main(configured(), run, model=chat_model, data=sums_data)
    return out, run.checkpoints


def vowel(text: str) -> bool:
    return any(c in "aeiou1357" for c in text)


def test_every_weight_moves_and_the_rounds_are_told(refined: tuple[Path, Path], chat_model: Path) -> None:
    out, _ = refined
    before, after = (load_file(folder / "model.safetensors") for folder in (chat_model, out))
    assert not [name for name in before if torch.equal(before[name], after[name])]
    rounds = artifact.read_json(out / "rounds.json")["rounds"]
    assert [row["round"] for row in rounds] == [1, 2]
    assert all(row["improved"] > 0 and row["kept"] > 0 and row["fault_found"] <= row["drafts"] for row in rounds)
    steps = [row["step"] for row in artifact.read_jsonl(out / "curves.jsonl")]
    assert steps == sorted(steps)
    assert steps[-1] == 6


def test_what_is_learnt_is_right_and_a_wrong_draft_is_never_an_answer(refined: tuple[Path, Path]) -> None:
    _, checkpoints = refined
    kinds = set()
    for number in range(2):
        for row in artifact.read_jsonl(checkpoints / f"round-{number}" / "rows.jsonl"):
            prompt, completion = row["prompt"], row["completion"]
            assert [turn["role"] for turn in prompt + completion][::2] == ["user"] * (len(prompt + completion) // 2)
            assert len(completion) == 1
            kinds.add(len(prompt))
            if len(prompt) == 1:
                assert vowel(completion[0]["content"]), "only what reached the bar is learnt as an answer"
            elif len(prompt) == 5:
                assert not vowel(prompt[1]["content"]), "a revision is learnt where the draft was below the bar …"
                assert vowel(completion[0]["content"]), "… and the revision reached it"
                assert [turn["content"] for turn in prompt[2::2]] == ["Check it.", "Revise it."]
    assert kinds == {1, 3, 5}


def attempt(question: str, draft: str, revision: str | None) -> Attempt:
    prompt = [{"role": "user", "content": question}]
    return Attempt(prompt, Answer(draft, 3), Answer("hm", 1), revision and Answer(revision, 3))  # type: ignore[arg-type]


def collected(monkeypatch: pytest.MonkeyPatch, run: Any, attempts: list[Attempt], **changes: Any) -> Any:
    """What a round keeps of given attempts: only what samples is put aside."""
    drafts: dict[str, list[Answer]] = {}
    for a in attempts:
        drafts.setdefault(a.prompt[0]["content"], []).append(a.draft)
    asked = [{"prompt": [{"role": "user", "content": question}], "answer": "1"} for question in drafts]
    monkeypatch.setattr(refine, "sample", lambda *_: list(drafts.values()))
    monkeypatch.setattr(refine, "revised", lambda *_: attempts)
    config = configured(**changes)
    rewards = Rewards(config.graders, run.params_file)
    return refine.collect(config, rewards, None, None, asked, 0, run)


def test_the_rule_of_what_is_kept(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = [
        attempt("a", "2", "1"), attempt("a", "4", "3"), attempt("a", "6", "5"),  # three that improved
        attempt("b", "2", "4"), attempt("b", "1", "2"), attempt("b", "3", None),  # still wrong, spoilt, stood
        attempt("c", "1", None), attempt("c", "5", "7"), attempt("c", "2", None),  # stood, right anew, stood wrong
        attempt("d", "7", None),
    ]  # fmt: skip
    run = make_run("refine")
    rows, counts = collected(monkeypatch, run, attempts, learn_turns=False, keep_right=0.5)
    learnt = [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows]
    assert learnt == [("a", "1"), ("a", "3"), ("b", "3")], "two a prompt, and half as many right drafts"
    assert (counts["drafts"], counts["right"], counts["fault_found"]) == (10, 5, 6)
    assert (counts["improved"], counts["spoilt"], counts["kept"]) == (3, 1, 3)
    rows, _ = collected(monkeypatch, run, attempts, learn_turns=True, keep_right=5.0)
    assert [row["completion"][0]["content"] for row in rows if len(row["prompt"]) == 1] == ["1", "3", "3", "1", "7"]
    assert [len(row["prompt"]) for row in rows] == [1, 3, 5] * 2 + [1, 3] * 3


def test_the_same_draft_is_checked_once(make_run: MakeRun) -> None:
    drafts = [Answer("1", 3), Answer("2", 3), Answer("1", 5)]
    assert refine._distinct(drafts) == [Answer("1", 3), Answer("2", 3)]


def test_the_comparison_is_of_both_models_at_equal_tokens(refined: tuple[Path, Path]) -> None:
    found = artifact.read_json(refined[0] / "refine.json")
    assert set(found) == {"before", "after"}
    for side in found.values():
        assert side["questions"] == 8
        assert abs(side["refinement"]["tokens"] - side["best_of_n"]["tokens"]) <= 1
        counts = [side["refinement"][k] for k in ("wrong_to_right", "right_to_wrong", "right_kept", "wrong_kept")]
        assert sum(counts) == 8
        gain = (counts[0] - counts[1]) / 8
        assert side["refined"]["value"] - side["draft"]["value"] == pytest.approx(gain)
        assert side["draft"]["value"] <= side["ceiling"]["value"]
        assert side["best_of_n"]["n"] > 1
        assert side["winner"] in ("refinement", "best-of-n", "not told apart")


def test_a_killed_round_goes_on(
    refined: tuple[Path, Path], make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    """After a kill in the second round's training its rows are there, and its training has to be done again."""
    out, checkpoints = refined
    again = make_run("again")
    shutil.copytree(checkpoints, again.checkpoints)
    last = again.checkpoints / "round-1"
    (last / "trained.json").unlink()
    shutil.rmtree(last / "model")
    shutil.rmtree(last / "training")
    kept = [
        again.checkpoints / name for name in ("before.json", "round-0/model/model.safetensors", "round-1/rows.jsonl")
    ]
    times = [path.stat().st_mtime_ns for path in kept]
    refine.main(configured(), again, model=chat_model, data=sums_data)
    assert [path.stat().st_mtime_ns for path in kept] == times, "nothing that was whole is made again"
    for name in ("model.safetensors", "curves.jsonl", "rounds.json", "refine.json"):
        assert artifact.sha256(again.out / name) == artifact.sha256(out / name), name


def test_no_revision_that_improves_is_an_error(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    never = {"grader": "regex", "weight": 1.0, "options": {"pattern": "no such answer", "mode": "search"}}
    with pytest.raises(DataError, match=r"round 1: of \d+ drafts below accept = 1 no revision reached it; train the"):
        refine.main(configured(graders={"never": never}), make_run("refine"), model=chat_model, data=sums_data)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"replay": {"sft": 500}}, r"refine.yaml: replay.sft is 500, but the set has 64 rows"),
        ({"trainer": {"learning_rat": 1e-3}}, r"unknown key 'trainer.learning_rat'; did you mean 'learning_rate'\?"),
    ],
)
def test_mistakes_are_found_before_anything_is_sampled(
    make_run: MakeRun, chat_model: Path, sums_data: Path, settings: dict[str, Any], said: str
) -> None:
    run = make_run("refine")
    with pytest.raises(ConfigError, match=said):
        refine.main(configured(**settings), run, model=chat_model, data=sums_data)
    assert not run.checkpoints.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"turns": {"check": "a", "revise": "b", "fault": "("}}, r"'turns.fault' is '\(': .*no regular expression"),
        ({"turns": {"check": "a", "revise": "b", "falt": "x"}}, r"unknown key 'turns.falt'; did you mean 'fault'\?"),
        ({"keep_right": -1}, r"'keep_right' is -1"),
        ({"comparison": {"prompts": 0}}, r"'comparison.prompts' is 0"),
    ],
)
def test_mistakes_in_the_yaml_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(**settings)


def test_the_page_says_who_wins(
    refined: tuple[Path, Path], workspace: Path, make_artifact: Callable[..., artifact.Manifest]
) -> None:
    tree = report_tree.build(Path(), make_artifact, rows=20)
    folder, model = tree / "models" / "refine", artifact.read_manifest(tree / "models" / "sft").digest
    shutil.copytree(refined[0], folder)
    make_artifact(folder, stage="refine", model=model)
    found = page.folders(tree, graph("refine"))
    board = leaderboard.build(
        found, recipe="toy", headline=("sums", "helpful"), resamples=100, confidence=0.95, seed=0
    )  # no claim on it: a model that only shows a comparison is shown all the same
    html = page.render(
        found, board | {"page": {"samples": 2, "listed": 2}, "claims": [], "forms": [], "frontier": {"rows": []}}
    )
    section = html[html.index('id="refinement"') :]
    for when in ("before", "after"):
        side = artifact.read_json(folder / "refine.json")[when]
        row = re.search(rf"<tr><td>{when} it was trained</td>.*?</tr>", section, re.S)
        assert row is not None
        assert side["winner"] in row[0]
        assert page.count(side["refinement"]["tokens"]) in row[0]
        assert f"{side['best_of_n']['n']:.2f}" in row[0]
    assert "learnt from its own answers" not in html, "its rounds are told in its own section"
