"""The model everything starts from: a hub id, a local folder, a GGUF inside a package, or trained from scratch.

Whatever the source, the artifact is the same kind of thing: a Hugging Face folder of safetensors whose chat template
marks the assistant's tokens. That of a model which sees (SmolVLM, Qwen3-VL) has its processor too and, as TRL learns
answers to pictures without them, no marks. A folder with a pickle or remote code is refused. One raw row of the
`scratch` source's text: {"text": "58 + 67: 8+7=15 5+6+1=12 so 125"}
"""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Tag

from tasks.base_models import multimodal
from tasks.base_models.gguf import load_gguf
from tasks.base_models.pretraining import Pretraining, pretrain
from tasks.ingestion.sources import PackageSource
from tasks.ingestion.wheels import package_member
from tasks.models.adapter import has_tokenizer, merge_adapter
from tasks.models.chat_template import mark_generation, warn_of_other_prompt
from tasks.models.checks import check_tokens
from tasks.models.folder import PICKLES, check_folder, load_causal_lm, load_tokenizer, save_model
from tasks.models.multimodal import is_multimodal, save_multimodal
from tasks.models.turn_ends import require_turn_end
from tasks.stage import artifact
from tasks.stage.config import StageConfig, Strict, one_of
from tasks.stage.errors import ConfigError, ModelError
from tasks.stage.lifecycle import Run, stage


class HubModel(Strict):
    """A model on the Hugging Face hub."""

    hub: str
    """Hub id, e.g. `Qwen/Qwen3-0.6B`; a folder of that relative path stands in for it."""
    revision: str
    """Commit, tag or branch. A commit is the only one that stays what it is."""
    adapter: str | None = None
    """Adapter of it to merge: a folder, or a hub id with its revision, `org/name@commit`; null merges none."""
    licence: str
    """SPDX identifier, or the licence's name."""


class FolderModel(Strict):
    """A Hugging Face folder on this machine."""

    folder: Path
    """Path relative to the repository's root."""
    adapter: str | None = None
    """Adapter of it to merge, as in `HubModel`."""
    licence: str
    """SPDX identifier, or the licence's name."""


class ScratchModel(Strict):
    """A model trained here, on `data/pretrain`."""

    scratch: Pretraining
    """Shape and schedule."""


class Config(StageConfig):
    """`params/<recipe>/base.yaml`."""

    dtype: str
    """Torch dtype that the weights are stored in, e.g. `float32`, `bfloat16`."""
    source: Annotated[
        Annotated[HubModel, Tag("(hub)")]
        | Annotated[FolderModel, Tag("(folder)")]
        | Annotated[PackageSource, Tag("(package)")]
        | Annotated[ScratchModel, Tag("(scratch)")],
        one_of("a model source", "hub", "folder", "package", "scratch"),
    ]
    """Where the model comes from."""
    chat_template: str | None = None
    """Jinja text that takes the place of the model's own chat template, as a base model has none; null keeps that."""


def main(config: Config, run: Run, *, data: Path) -> None:
    """Write the base model's folder, and `origin.json`: where it came from and under which licence."""
    source = config.source
    place: Path
    if isinstance(source, HubModel | FolderModel):
        place = download(source) if isinstance(source, HubModel) else source.folder
        check_folder(place)
        if is_multimodal(place):
            _keep_eyes(config, source, place, run)
            return
    if isinstance(source, ScratchModel):
        model, tokenizer, figures = pretrain(source.scratch, config.seed, data, run)
        artifact.write_json(run.out / "metrics.json", figures)
        place = run.params_file
        origin: dict[str, Any] = {"kind": "scratch"}
    elif isinstance(source, PackageSource):
        place = package_member(source.package, source.version, source.sha256, source.member)
        model, tokenizer = load_gguf(place, config.dtype)
        origin = {"kind": "package", **source.model_dump()}
    else:
        model, tokenizer = load_causal_lm(place, config.dtype), load_tokenizer(place)
        if source.adapter is not None:
            adapter = adapter_folder(source.adapter)
            model = merge_adapter(model, adapter, source.hub if isinstance(source, HubModel) else place.name)
            if has_tokenizer(adapter):
                place, tokenizer = adapter, load_tokenizer(adapter)
            check_tokens(tokenizer, place, len(model.get_input_embeddings().weight))
        origin = json.loads(source.model_dump_json(exclude_none=True))
    if config.chat_template is not None:
        tokenizer.chat_template = config.chat_template
    mark_generation(tokenizer, place)
    warn_of_other_prompt(tokenizer, place)
    require_turn_end(tokenizer, place)
    save_model(model, tokenizer, run.out)
    artifact.write_json(run.out / "origin.json", origin)
    if not (run.out / "metrics.json").exists():
        artifact.write_json(run.out / "metrics.json", {"parameters": model.num_parameters()})


def _keep_eyes(config: Config, source: HubModel | FolderModel, place: Path, run: Run) -> None:
    """Write the folder of a model that sees, its processor included. Raises ConfigError and ModelError."""
    if source.adapter is not None:
        raise ConfigError(
            f"{run.params_file}: source.adapter is merged into language models alone, and {place} sees; merge it "
            f"before, and set it to null"
        )
    model, processor = multimodal.load(place, config.dtype, config.chat_template)
    save_multimodal(model, processor, run.out)
    artifact.write_json(run.out / "origin.json", json.loads(source.model_dump_json(exclude_none=True)))
    artifact.write_json(run.out / "metrics.json", {"parameters": model.num_parameters()})


def download(source: HubModel) -> Path:
    """Fetch a hub model's safetensors, configuration and tokenizer; never a pickle, never code.

    Raises:
        ModelError: no network, no such model or revision, or it has no safetensors.
    """
    return Path(source.hub) if Path(source.hub).is_dir() else _fetch(source.hub, source.revision)


def adapter_folder(adapter: str) -> Path:
    """Find an adapter here, or fetch it from the hub. Raises ModelError as `download`."""
    hub, at, revision = adapter.rpartition("@")
    if Path(adapter).exists():
        return Path(adapter)
    if not at:
        raise ModelError(
            f"adapter {adapter}: no such folder; give one, or a hub id with its revision, e.g. org/name@main"
        )
    return _fetch(hub, revision)


def _fetch(hub: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt"]
    try:
        folder = Path(snapshot_download(hub, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as e:
        raise ModelError(
            f"{hub}@{revision}: cannot be fetched ({type(e).__name__}); check the id, the revision, the "
            f"network and your hub login, or put the model's folder at {hub}"
        ) from None
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"{hub}: no safetensors (a {' / '.join(sorted(PICKLES))} file is never loaded)")
    return folder


if __name__ == "__main__":
    stage(main, Config)
