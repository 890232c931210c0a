"""Merging weights of small real models: each method's arithmetic, the search, what is refused, what the report says."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tasks.grading import average
from tasks.merging import weights as merging
from tasks.reporting import leaderboard
from tasks.reporting import page as html_page
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError, ConfigError, ModelError
from tasks.stage.lifecycle import choose_method
from tests.support import report_tree
from tests.support.merging import METHODS, VOWELS, MakeRun, Weights, build, configured, differences, merged, weights
from tests.support.reporting import graph

Make = Callable[..., artifact.Manifest]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, chat_model: Path) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("family"), chat_model)


def test_linear_is_the_weighted_mean(family: dict[str, Path], make_run: MakeRun, sums_data: Path) -> None:
    found = weights(merged(family, make_run, sums_data, "linear"))
    one, two = weights(family["one"]), weights(family["two"])
    assert found.keys() == one.keys()
    for name in found:
        torch.testing.assert_close(found[name], 0.25 * one[name] + 0.75 * two[name])


def test_slerp_goes_along_the_arc_from_the_first_to_the_second(
    family: dict[str, Path], make_run: MakeRun, sums_data: Path
) -> None:
    found = weights(merged(family, make_run, sums_data, "slerp"))
    one, two = weights(family["one"]), weights(family["two"])
    for name, tensor in found.items():
        angle = torch.acos(torch.nn.functional.cosine_similarity(one[name].flatten(), two[name].flatten(), dim=0))
        if torch.cos(angle) < 0.9995:
            wanted = (torch.sin(0.75 * angle) * one[name] + torch.sin(0.25 * angle) * two[name]) / torch.sin(angle)
            torch.testing.assert_close(tensor, wanted, atol=1e-4, rtol=1e-4)


def test_task_arithmetic_adds_the_differences_to_the_base(
    family: dict[str, Path], make_run: MakeRun, sums_data: Path
) -> None:
    found, base = weights(merged(family, make_run, sums_data, "task_arithmetic")), weights(family["base"])
    for name, tensor in found.items():
        one, two = differences(family, name)
        torch.testing.assert_close(tensor, base[name] + 0.8 * (one + 0.5 * two), atol=1e-5, rtol=1e-5)


def test_ties_keeps_the_largest_and_the_prevailing_sign(
    family: dict[str, Path], make_run: MakeRun, sums_data: Path
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    found = weights(merged(family, make_run, sums_data, "ties"))[name] - weights(family["base"])[name]
    kept = differences(family, name)
    for each in kept:
        each[each.abs() < each.abs().flatten().median()] = 0
    elected = torch.sign(kept.sum(0))
    wanted = torch.where(torch.sign(kept) == elected, kept, 0).sum(0)
    close = torch.isclose(found, wanted, atol=1e-5)
    assert close.float().mean() > 0.999  # but for the entry at the median itself


def test_dare_drops_half_at_random_and_again_the_same(
    family: dict[str, Path], make_run: MakeRun, sums_data: Path
) -> None:
    first = merged(family, make_run, sums_data, "dare_ties")
    kept = {path.name: path.read_bytes() for path in first.iterdir()}
    shutil.rmtree(first)
    torch.rand(7)
    again = merged(family, make_run, sums_data, "dare_ties")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == kept
    name = "model.layers.0.mlp.up_proj.weight"
    untouched = (weights(again)[name] == weights(family["base"])[name]).float().mean()
    assert 0.2 < untouched < 0.3  # dropped in both
    shutil.rmtree(again)
    other = merged(family, make_run, sums_data, "dare_ties", seed=2)
    assert not torch.equal(weights(other)[name], load_bytes(kept["model.safetensors"])[name])


def load_bytes(data: bytes) -> Weights:
    from safetensors.torch import load

    return load(data)


def test_the_best_candidate_is_written_and_every_one_recorded(
    family: dict[str, Path], make_run: MakeRun, sums_data: Path
) -> None:
    out = merged(family, make_run, sums_data, "search")
    said = artifact.read_json(out / "merge.json")
    tried = [candidate["parameters"]["weight"] for candidate in said["candidates"]]
    assert tried == METHODS["search"]["grid"]["weight"]
    averages = [candidate["average"] for candidate in said["candidates"]]
    assert len(set(averages)) > 1, "the candidates cannot be told apart"
    assert averages[said["chosen"]] == max(averages)
    a, b = tried[said["chosen"]]
    one, two = weights(family["one"]), weights(family["two"])
    for name, tensor in weights(out).items():
        torch.testing.assert_close(tensor, a * one[name] + b * two[name])
    assert said["members"] == ["one", "two"] and set(said["models"]) == {"base", "one", "two"}
    best = max(said["models"][name]["average"] for name in said["members"])
    assert said["difference"]["value"] == pytest.approx(max(averages) - best)
    assert said["metrics"] == {"sums.vowel": {"dataset": "prompts", "rows": 16, "weight": 1.0}}
    assert said["graders"]["sums.vowel"]["failures"] == 0


def test_the_artifact_is_a_model_folder_and_holds_no_path(
    family: dict[str, Path], make_run: MakeRun, sums_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError(f"the network is asked: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    out = merged(family, make_run, sums_data, "linear")
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in family["base"].iterdir()} - {"manifest.json"} | {"merge.json"}
    for path in out.iterdir():
        text = path.read_bytes()
        assert not any(part.encode() in text for part in (str(out), str(family["one"]), str(family["base"].parent)))
    assert json.loads((out / "config.json").read_text()) == json.loads((family["base"] / "config.json").read_text())


def changed(family: dict[str, Path], root: Path) -> Path:
    shutil.copytree(family["two"], root / "odd")
    return root / "odd"


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def reshaped(folder: Path) -> None:
    tensors = weights(folder)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:-2].contiguous()
    save_file(tensors, folder / "model.safetensors")


def renamed_token(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["odd"] = vocabulary.pop("5")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (reshaped, r"model\.embed_tokens\.weight is of shape \[318, 64\], not \[320, 64\]"),
        (
            lambda f: save_file({k: v for k, v in weights(f).items() if "norm" not in k}, f / "model.safetensors"),
            r"it has no tensor model\.layers\.0\.input_layernorm\.weight",
        ),
        (lambda f: edit(f / "tokenizer.json", renamed_token), r"token \d+ is 'odd', not '5'"),
        (
            lambda f: edit(f / "tokenizer.json", lambda t: t["model"]["merges"].pop()),
            r"tokenizer\.json has other rules under 'model'",
        ),
        (
            lambda f: edit(f / "config.json", lambda c: c.update(architectures=["GPT2LMHeadModel"])),
            r"it is a GPT2LMHeadModel, not a LlamaForCausalLM",
        ),
        (
            lambda f: edit(f / "config.json", lambda c: c.update(num_attention_heads=4)),
            r"config\.json has num_attention_heads 4, not 2",
        ),
        (lambda f: (f / "chat_template.jinja").write_text("{{ messages }}"), r"chat_template\.jinja is another"),
        (lambda f: (f / "weights.bin").write_bytes(b""), r"weights\.bin: a pickle can run code"),
        (lambda f: edit(f / "config.json", lambda c: c.update(auto_map={"x": "y"})), r"'auto_map' asks for remote"),
    ],
)  # fmt: skip
def test_a_member_that_is_no_relative_is_refused_before_mergekit_starts(
    family: dict[str, Path], tmp_path: Path, make_run: MakeRun, sums_data: Path, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], Any], said: str,
) -> None:  # fmt: skip
    odd = changed(family, tmp_path)
    change(odd)
    monkeypatch.setattr(merging, "merge", lambda *args: pytest.fail("merged"))
    with pytest.raises(ModelError, match=said):
        merged(family | {"two": odd}, make_run, sums_data, "linear")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            {"merge_method": "linear", "grid": {"weigth": [0.5]}},
            r"methods\.linear\.grid\.weigth: linear has no such parameter; did you mean 'weight'\?",
        ),
        (
            {"merge_method": "linear", "grid": {"weight": [[1.0]]}},
            r"grid\.weight: \[1\.0\] has 1 values for 2 members; give one for each",
        ),
        ({"merge_method": "linear", "grid": {"weight": []}}, r"grid\.weight: no value to try; give at least one"),
        ({"merge_method": "ties", "grid": {"density": [0.5]}}, r"mergekit refuses ties with .*weight"),
    ],
)
def test_a_grid_that_does_not_fit_its_method_is_refused(
    family: dict[str, Path], make_run: MakeRun, sums_data: Path, method: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        merged(family, make_run, sums_data, "linear", methods={"linear": method})


def test_weights_of_metrics_are_a_share(family: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"weights of metrics must not be negative, and not all 0"):
        configured(metrics={"sums.vowel": VOWELS | {"weight": 0.0}})
    with pytest.raises(ConfigError, match=r"methods has no 'linaer'; did you mean 'linear'"):
        choose_method(configured(), "linaer", Path("params/test/merge.yaml"))


def test_a_difference_of_averages_resamples_each_metric_apart() -> None:
    ours = {"a.x": {str(i): 1.0 for i in range(10)}, "b.y": {str(i): float(i % 2) for i in range(1000)}}
    theirs = {"a.x": {str(i): 0.0 for i in range(10)}, "b.y": {str(i): float(i % 2) for i in range(1000)}}
    shares = {"a.x": 1.0, "b.y": 3.0}
    assert average.average(ours, shares) == pytest.approx(0.25 + 0.75 * 0.5)
    gap = average.average_difference(ours, theirs, shares, resamples=100, confidence=0.95, seed=0)
    assert gap.value == gap.low == gap.high == pytest.approx(0.25)  # no row of either metric varies
    theirs["b.y"] = {row: 1 - score for row, score in theirs["b.y"].items()}
    gap = average.average_difference(ours, theirs, shares, resamples=500, confidence=0.95, seed=0)
    assert gap.value == pytest.approx(0.25)
    assert gap.high - gap.low == pytest.approx(2 * 1.96 * 0.75 * 1000**-0.5, rel=0.15)
    del theirs["a.x"]["3"]
    with pytest.raises(ArtifactError, match=r"a\.x: the two models answered different rows"):
        average.average_difference(ours, theirs, shares, resamples=10, confidence=0.95, seed=0)


def test_the_report_sets_a_merge_beside_its_best_member(workspace: Path, make_artifact: Make) -> None:
    tree = report_tree.build(Path(), make_artifact, rows=60)
    found = html_page.folders(tree, graph())
    digests = {name: artifact.read_manifest(found[f"models/{name}"]).digest for name in ("base", "sft", "dpo")}
    folder = tree / "models" / "merged"
    shutil.copytree(tree / "models" / "dpo", folder)
    summary = {
        "method": "ties", "metrics": {"sums.helpful": {"weight": 0.5}, "sums.exact_match": {"weight": 0.5}},
        "candidates": [{"parameters": {"density": 0.5}}], "chosen": 0,
    }  # fmt: skip
    artifact.write_json(folder / "merge.json", summary)
    inputs = {"model": digests["base"], "first": digests["sft"], "second": digests["dpo"]}
    (folder / "manifest.json").unlink()
    digest = make_artifact(folder, stage="merge", **inputs).digest
    scores = tree / "metrics" / "merged"
    shutil.copytree(tree / "metrics" / "dpo", scores)
    (scores / "manifest.json").unlink()
    make_artifact(scores, stage="evaluate", model=digest)
    found = html_page.folders(tree, graph("merged"))
    settings: dict[str, Any] = {"resamples": 200, "confidence": 0.95, "seed": 0}
    board = leaderboard.build(found, recipe="tiny", headline=("sums", "helpful"), **settings)
    (row,) = board["merges"]
    metrics = board["models"]["dpo"]["tasks"]["sums"]["metrics"]
    assert row["average"] == pytest.approx((metrics["helpful"]["value"] + metrics["exact_match"]["value"]) / 2)
    assert row["best"] == "dpo" and set(row["members"]) == {"sft", "dpo"}
    assert row["difference"]["value"] == 0 and row["difference"]["verdict"] == "no difference"
    page = html_page.render(
        found, board | {"page": {"samples": 1, "listed": 1}, "claims": [], "forms": [], "frontier": {"rows": []}}
    )
    section = page.partition('id="merging"')[2].partition("<h2")[0]
    assert "density 0.5" in section and "merged" in section and "dpo" in section
