"""Models of the Hugging Face hub for retrieval: safetensors, settings and tokenizers, never a pickle and never code."""

from pathlib import Path

from tasks.stage.errors import ModelError

WANTED = ["*.safetensors", "*.json", "*.txt", "tokenizer.model"]
UNWANTED = ["onnx/*", "openvino/*"]


def snapshot(hub: str, revision: str) -> Path:
    """Fetch a model of sentence-transformers, once; a folder of that relative path stands in for it.

    Raises:
        ModelError: it cannot be fetched.
    """
    if Path(hub).is_dir():
        return Path(hub)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(hub, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as e:
        raise ModelError(
            f"{hub}@{revision}: cannot be fetched ({type(e).__name__}); check the id, the revision, the network and "
            f"your hub login, or name a `folder:`"
        ) from None
