"""What a question about pictures shows, and how it is written, alike for PyTorch and for an export."""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from tasks.evaluation.pictures import MARK
from tasks.multimodal import images
from tasks.multimodal.controls import ORDER, REVERSED, Control, muted, other_rows, reordered, replaced, resampled
from tasks.multimodal.sounds import AUDIO
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError, DataError

DEFAULT_TOKENS = 256
"""Longest answer of a task without `max_gen_toks`, in tokens, as the harness has it."""


def media(row: Mapping[str, Any]) -> list[str]:
    """List the names of the pictures or the sounds of a row."""
    return list(row.get(images.IMAGES) or row.get(AUDIO) or ())


def turns(chat_history: Sequence[dict[str, str]], reader: Any) -> list[dict[str, Any]]:
    """Write a conversation in parts: one for each picture that a message marks by `MARK`, and its words.

    Args:
        chat_history: the harness's messages.
        reader: what turns them into a prompt; its `image_token` stands for a picture there.

    Raises:
        DataError: a text spells that token itself.
    """
    for turn in chat_history:
        if reader.image_token in turn["content"]:
            opening = " ".join(turn["content"].replace(MARK, "").split())[:60]
            raise DataError(f"the row that begins {opening!r}: {images.spelt(reader)}")
    return [{"role": turn["role"], "content": _parts(turn["content"])} for turn in chat_history]


def spoken_turns(chat_history: Sequence[dict[str, str]], audio_token: str) -> list[dict[str, Any]]:
    """Write a conversation in parts: one for each sound that a message marks by `MARK`, and its words.

    Args:
        chat_history: the harness's messages.
        audio_token: what stands for a sound in a prompt.

    Raises:
        DataError: a text spells that token itself.
    """
    for turn in chat_history:
        if audio_token in turn["content"]:
            opening = " ".join(turn["content"].replace(MARK, "").split())[:60]
            raise DataError(
                f"the row that begins {opening!r}: a text has '{audio_token}', which stands for a sound in what the "
                f"model reads"
            )
    return [{"role": turn["role"], "content": _parts(turn["content"], AUDIO)} for turn in chat_history]


def _parts(content: str, kind: str = "image") -> list[dict[str, str]]:
    """Write a message's text as parts: one for each picture or sound that it marks, and its words."""
    count = content.count(MARK)
    return [{"type": kind}] * count + [{"type": "text", "text": content.replace(MARK, "")}]


def names(
    requests: Sequence[Any], control: Control | None, seed: int, uncontrolled: set[tuple[str, str]]
) -> list[list[str]]:
    """Return the names of the pictures, or of the sound, that each request has under a control.

    Args:
        requests: lm-eval's, each of one row.
        control: what is shown in place of each row's own; None shows its own.
        seed: of the control.
        uncontrolled: takes task and id of the rows for which nothing else can be shown; these keep their own pictures.
    """
    own = [media(request.doc) for request in requests]
    rows = [f"{request.task_name}:{request.doc['id']}" for request in requests]
    changed: list[list[str] | None] = list(own)
    if control == "other":
        several = [min(len(shown), 2) for shown in own]  # none, one, or a clip, whose frames may be more or fewer
        kinds = [f"{r.task_name}:{r.doc.get('kind')}:{many}" for r, many in zip(requests, several, strict=True)]
        answers = [str(request.doc["answer"]) for request in requests]
        partners = other_rows(rows, kinds, answers, seed)
        changed = [None if j is None else resampled(own[j], len(mine)) for j, mine in zip(partners, own, strict=True)]
    elif control in (*ORDER, REVERSED):
        changed = [reordered(shown, control, seed, row) for shown, row in zip(own, rows, strict=True)]
    for request, other in zip(requests, changed, strict=True):
        if other is None:
            uncontrolled.add((request.task_name, request.doc["id"]))
    return [mine if other is None else other for mine, other in zip(own, changed, strict=True)]


def decoded(request: Any, shown: Sequence[str], archive: images.Archive, control: Control | None, seed: int) -> Any:
    """Decode what a request shows: a list of `PIL.Image.Image`.

    Args:
        request: lm-eval's.
        shown: names of its pictures, from `names`.
        archive: where they are.
        control: as in `names`.
        seed: of the control.
    """
    pictures = [archive.image(name) for name in shown]
    if control not in ("noise", "black"):
        return pictures
    row = f"{request.task_name}:{request.doc['id']}"
    return [replaced(picture, control, seed, f"{row}:{k}") for k, picture in enumerate(pictures)]


def quietened(request: Any, sounds: Sequence[Any], control: Control | None, seed: int) -> list[Any]:
    """Replace the sounds of a request under the controls `noise` and `silence`; under others they stay.

    Args:
        request: lm-eval's.
        sounds: each `[samples]` (float32).
        control: as in `names`.
        seed: of the control.
    """
    if control not in ("noise", "silence"):
        return list(sounds)
    row = f"{request.task_name}:{request.doc['id']}"
    return [muted(samples, control, seed, f"{row}:{k}") for k, samples in enumerate(sounds)]


def settings(values: dict[str, Any]) -> dict[str, Any]:
    """Read `generation_kwargs`: `max_gen_toks` and `until`. Raises ConfigError for what would ask for more."""
    options = normalize_gen_kwargs(dict(values), default_max_gen_toks=DEFAULT_TOKENS)
    if options.pop("do_sample", False) or options.pop("temperature", 0.0):
        raise ConfigError("generation_kwargs ask for sampling; a model that sees is evaluated greedily")
    known = {
        "until": handle_stop_sequences(options.pop("until", None), eos=None),
        "max_gen_toks": options.pop("max_gen_toks"),
    }
    if options:
        raise ConfigError(f"unknown key 'generation_kwargs.{min(options)}'{suggest(min(options), known)}")
    return known
