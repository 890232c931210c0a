"""Encoders: what may be loaded, how one is written, and how texts become vectors.

An encoder is a folder of sentence-transformers: safetensors and JSON, built-in modules alone, never remote code. A
vector depends on its text alone, to the last bit: texts are embedded in groups of one length and one size (`embed`), so
that neither padding nor the number of texts beside it changes the order in which numbers are added.
"""

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.models.folder import refuse_code
from tasks.retrieval.chunks import Chunk, Text
from tasks.stage import artifact
from tasks.stage.errors import ModelError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

MODULES = "modules.json"
OWN = "sentence_transformers."
"""Beginning of the names of modules whose code is the library's own."""
TITLES = "embed_titles"
"""Key of the report of an encoder's stage, and of `index.json`: whether headings were embedded with the chunks."""
RECORDS = {
    artifact.MANIFEST, "audit.json", "curves.jsonl", "metrics.json", "origin.json", "report.json", "retrieval.json",
}  # fmt: skip
"""Files of a model artifact that are about the encoder, and no part of it."""


def load(folder: Path) -> Any:
    """Load an encoder on the CPU from a folder of sentence-transformers, beside which records of a stage may lie.

    Raises:
        ModelError: no such folder, no encoder, a pickle, code, or modules that are not the library's own.
    """
    check(folder)
    return read(folder)


def read(folder: Path) -> Any:
    """Load an encoder as `load` does from a folder of our own, e.g. a checkpoint, without looking for code in it."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(folder),
        device="cpu",
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True},
    )
    model.model_card_data.local_files_only = True
    return without_pooler(model).eval()


def without_pooler(model: Any) -> Any:
    """Take out the layer that BERT's kin have for another task: nothing reads it, and where it is missing it is drawn.

    Vectors are pooled from the states of the tokens, by a module of sentence-transformers.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    network: Any = getattr(model[0], "auto_model", None)
    if getattr(network, "pooler", None) is not None and any(isinstance(part, Pooling) for part in model):
        network.pooler = None
    return model


def check(folder: Path) -> None:
    """Refuse a folder that is no encoder or could run code. Raises ModelError."""
    if not (folder / MODULES).is_file():
        raise ModelError(f"{folder}: no {MODULES}; expected a folder that sentence-transformers has saved")
    refuse_code(folder)
    for path in sorted(folder.rglob("config.json")):
        if "auto_map" in _read(path, dict):
            raise ModelError(f"{path}: 'auto_map' asks for remote code, which is never run; take another encoder")
    for module in _read(folder / MODULES, list):
        if not str(module.get("type", "")).startswith(OWN):
            raise ModelError(
                f"{folder / MODULES}: module type {module.get('type')!r} is none of sentence-transformers' own; its "
                f"code is never run, so take another encoder"
            )


def _read(path: Path, expected: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ModelError(f"{path}: not JSON ({e}); take the file from where the encoder came from again") from None
    if not isinstance(value, expected):
        raise ModelError(f"{path}: expected a JSON {expected.__name__}; take the file again")
    return value


def save(model: Any, folder: Path) -> None:
    """Write an encoder's folder. The bytes depend on its weights and settings alone: no card, no name of a folder."""
    for part in model.modules():
        if hasattr(part, "config") and hasattr(part.config, "_name_or_path"):
            part.config._name_or_path = ""
    model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)
    for path in sorted(folder.rglob("tokenizer_config.json")):
        config = _read(path, dict)
        for key in ("name_or_path", "_commit_hash", "is_local", "local_files_only"):
            config.pop(key, None)
        artifact.write_json(path, config)
    check(folder)


def files(folder: Path) -> list[Path]:
    """List an encoder's own files in a model artifact, relative to it, sorted."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if str(path) not in RECORDS]


def digest(folder: Path) -> str:
    """Compute the identity of an encoder: SHA-256 of its files' names and bytes, whatever was measured of it."""
    whole = hashlib.sha256()
    for path in files(folder):
        whole.update(f"{path}\0{artifact.sha256(folder / path)}\0".encode())
    return whole.hexdigest()


def copy(folder: Path, to: Path) -> None:
    """Copy an encoder's own files into another folder."""
    for path in files(folder):
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, to / path)


def passage(chunk: Chunk | Text, titles: bool) -> str:
    """Return the text of a chunk that is embedded: with the headings above it before it, or without."""
    return " ".join((*chunk.title, chunk.text)) if titles else chunk.text


def embed(
    model: Any, texts: Sequence[str], size: int, *, queries: bool, told: Callable[[int, int], None] | None = None
) -> "NDArray[float32]":
    """Embed texts to vectors of length 1, float32 of shape [texts, dimensions].

    Texts of one length in tokens are embedded together, `size` at a time; a group that is not full is filled up with
    copies, so that one of few texts has the shape of one of many. `size` 1 is for questions that are asked one by one.

    Args:
        model: as `load` returns it.
        texts: to embed.
        size: texts at a time.
        queries: whether they are questions; an encoder may put another prompt before questions than before documents.
        told: is called after each group with the texts embedded so far, and all of them.
    """
    import numpy as np

    vectors = np.empty((len(texts), model.get_embedding_dimension()), dtype=np.float32)
    by_length: dict[int, list[int]] = defaultdict(list)
    for start in range(0, len(texts), 1024):
        tokens = model.tokenizer(list(texts[start : start + 1024]), add_special_tokens=False)["input_ids"]
        for row, ids in enumerate(tokens, start):
            by_length[min(len(ids), model.max_seq_length)].append(row)
    encode = model.encode_query if queries else model.encode_document
    done = 0
    for _, rows in sorted(by_length.items()):
        for start in range(0, len(rows), size):
            group = rows[start : start + size]
            full = group + [group[-1]] * (size - len(group))
            made = encode([texts[row] for row in full], batch_size=size, show_progress_bar=False, convert_to_numpy=True)
            vectors[group] = made[: len(group)]
            done += len(group)
            if told is not None:
                told(done, len(texts))
    return unit(vectors)


def unit(vectors: "NDArray[float32]", dimensions: int | None = None) -> "NDArray[float32]":
    """Bring vectors, of shape [texts, width], to length 1, after cutting them to their leading dimensions if asked."""
    import numpy as np

    cut = np.ascontiguousarray(vectors[:, :dimensions])
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return cut / np.maximum(lengths, np.finfo(np.float32).tiny)
