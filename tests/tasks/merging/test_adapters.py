"""Merging adapters: their weighted sum, what of it is held, DARE, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.merging import adapters as adapter_merging
from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, ModelError
from tests.support.merging import MakeRun, build, differences, merged, weights


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, chat_model: Path) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("family"), chat_model)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, family: dict[str, Path]) -> dict[str, Path]:
    """The base, one member that is a LoRA of rank 4, and one that is a DoRA of rank 4, adapters kept beside them."""
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("adapted")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=name == "two"
        )
        model = get_peft_model(load_causal_lm(family["base"]), config)
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "lora_B" in key or "magnitude" in key:
                    value.add_(0.05 * torch.randn_like(value))
        model.save_pretrained(root / name / "adapter")
        save_model(model.merge_and_unload(), load_tokenizer(family["base"]), root / name)
    return {"base": family["base"], "one": root / "one", "two": root / "two"}


ADAPTERS: dict[str, Any] = {
    "merge_method": "adapters",
    "grid": {"weight": [[0.5, 0.25]], "rank": [64], "combination_type": ["svd"]},
}


def adapters(**grid: Any) -> dict[str, Any]:
    return {"methods": {"adapters": ADAPTERS | {"grid": ADAPTERS["grid"] | grid}}}


def test_adapters_add_up_to_the_weighted_sum_of_the_differences(
    adapted: dict[str, Path], make_run: MakeRun, sums_data: Path
) -> None:
    out = merged(adapted, make_run, sums_data, "adapters", **adapters(combination_type=["cat"]))
    (candidate,) = artifact.read_json(out / "merge.json")["candidates"]
    assert candidate["held"] == {"one": pytest.approx(1, abs=1e-4), "two": pytest.approx(1, abs=1e-4)}
    base = weights(adapted["base"])
    for name, tensor in weights(out).items():
        one, two = differences(adapted, name)
        torch.testing.assert_close(tensor, base[name] + 0.5 * one + 0.25 * two, atol=1e-4, rtol=1e-4)
    assert {p.name for p in out.iterdir()} == {p.name for p in adapted["one"].iterdir()} - {"adapter"} | {"merge.json"}
    assert not any(str(adapted["base"]).encode() in path.read_bytes() for path in out.iterdir())


def test_a_difference_of_higher_rank_is_held_in_part(
    adapted: dict[str, Path], make_run: MakeRun, sums_data: Path
) -> None:
    out = merged(adapted, make_run, sums_data, "adapters", **adapters(rank=[2, 6]))
    low, high = (candidate["held"] for candidate in artifact.read_json(out / "merge.json")["candidates"])
    assert low["one"] == high["one"] == pytest.approx(1, abs=1e-4)  # its own adapter, whatever the rank
    assert 0.2 < low["two"] < high["two"] < 1


def test_dare_of_adapters_is_seeded(adapted: dict[str, Path], tmp_path: Path) -> None:
    members = {name: adapted[name] for name in ("one", "two")}
    parameters = {"weight": [1.0, 1.0], "rank": 4, "combination_type": "dare_ties", "density": 0.5}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        adapter_merging.merge(parameters, adapted["base"], members, tmp_path / name, seed, "float32")
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_what_does_not_fit_adapters_is_refused(
    family: dict[str, Path], adapted: dict[str, Path], tmp_path: Path, make_run: MakeRun, sums_data: Path
) -> None:
    with pytest.raises(ConfigError, match=r"PEFT refuses to merge adapters with .*Invalid combination_type: mean"):
        merged(adapted, make_run, sums_data, "adapters", **adapters(combination_type=["mean"]))
    shutil.rmtree("adapters")
    lacking = {"methods": {"adapters": ADAPTERS | {"grid": {"weight": [[1.0, 1.0]], "combination_type": ["svd"]}}}}
    with pytest.raises(ConfigError, match=r"adapters cannot be merged without grid\.rank"):
        merged(adapted, make_run, sums_data, "adapters", **lacking)
    shutil.rmtree("adapters")
    shutil.copytree(family["one"], tmp_path / "odd")
    shutil.copytree(adapted["one"] / "adapter", tmp_path / "odd" / "adapter")
    with pytest.raises(ModelError, match=r"odd/adapter: holds -?\d+% of what parts .* from the model"):
        merged(adapted | {"one": tmp_path / "odd"}, make_run, sums_data, "adapters", **adapters())
