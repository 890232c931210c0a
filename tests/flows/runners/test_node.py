"""What a node says of itself, and in what it differs from this machine."""

from typing import Any

import pytest

from flows.runners import node

HERE: dict[str, Any] = {
    "host": "login",
    "processor": "Xeon",
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "trl": "1.16.0", "ray": "2.60.0"},
    "variables": {"HF_HOME": "a1"},
}


def test_a_node_that_is_alike_says_nothing() -> None:
    assert node.differences(HERE, HERE | {"host": "gpu1", "packages": {"torch": "2.13.0", "trl": "1.16.0"}}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"python": "3.12.1"}, "another Python: 3.12.1, here 3.11.7; results may differ"),
        ({"processor": "EPYC"}, "another processor: EPYC, here Xeon; results may differ"),
        (
            {"packages": {"torch": "2.12.0", "trl": "1.16.0"}},
            "other packages: torch 2.12.0 (here 2.13.0); install infra/requirements.lock on both sides",
        ),
        (
            {"variables": {}},
            "set here and not there: HF_HOME; `environment:` of the runner passes variables on",
        ),
        (
            {"variables": {"HF_HOME": "b2"}},
            "of another value there: HF_HOME; `environment:` of the runner passes variables on",
        ),
        (
            {"variables": {"HF_HOME": "a1", "POLM_X": "c3"}},
            "set there and not here: POLM_X; unset them there, or set them here",
        ),
    ],
)
def test_what_may_change_bits_is_named(change: dict[str, Any], said: str) -> None:
    assert node.differences(HERE, HERE | change) == [said]


def test_values_of_variables_do_not_travel_and_secrets_not_even_as_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_TOKEN", "TORCH_API_KEY", "OMP_NUM_THREADS", "POLM_ODD", "UNRELATED"):
        monkeypatch.setenv(name, "hunter2-hunter2")
    facts = node.facts(["Torch", "no-such-package"])
    assert {"HF_HOME", "POLM_ODD"} <= facts["variables"].keys()
    assert not {"HF_TOKEN", "TORCH_API_KEY", "OMP_NUM_THREADS", "UNRELATED"} & facts["variables"].keys()
    assert "hunter2" not in str(facts)
    assert list(facts["packages"]) == ["torch"]
