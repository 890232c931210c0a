"""What a model hears of a row: the sounds of the archive at its rate, and conversations that have a place for them.

Whatever the architecture, a processor of transformers turns text and sounds into tensors. GLM-ASR's takes its keywords
for text and sound apart: a common `padding` would undo the padding of sounds to whole chunks.
"""

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any

from tasks.multimodal.images import Archive
from tasks.multimodal.sounds import AUDIO, sound
from tasks.stage.errors import DataError


def hears(processor: Any) -> bool:
    """Whether a processor takes sounds."""
    return bool(getattr(processor, "audio_token", None))


def resampled(samples: Any, rate: int, target: int) -> Any:
    """Bring samples `[samples]` (float32) to another rate, in Hz."""
    if rate == target:
        return samples
    from scipy.signal import resample_poly

    common = gcd(rate, target)
    return resample_poly(samples, target // common, rate // common).astype("float32")


def heard(archive: Archive, name: str, processor: Any) -> Any:
    """Decode a sound at the rate that a model hears, `[samples]` (float32). Raises ArtifactError."""
    samples, rate = sound(archive, name)
    return resampled(samples, rate, processor.feature_extractor.sampling_rate)


def conversation(turns: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Write turns with parts, and put the places of so many sounds before the words of the first user turn."""
    first = next((i for i, turn in enumerate(turns) if turn["role"] == "user"), 0)
    written = []
    for i, turn in enumerate(turns):
        places = [{"type": AUDIO}] * (count if i == first else 0)
        written.append({**turn, "content": [*places, {"type": "text", "text": turn["content"]}]})
    return written


def encoded(processor: Any, texts: Sequence[str], sounds: Sequence[Any], side: str) -> dict[str, Any]:
    """Return a batch's tensors.

    Args:
        processor: of the model.
        texts: as its chat template wrote them.
        sounds: of the places in the texts, in order, each `[samples]` at the model's rate; none where no text has one.
        side: on which texts are padded, `left` or `right`.
    """
    words = {"padding": True, "padding_side": side, "add_special_tokens": False}
    if not sounds:
        return dict(processor.tokenizer(list(texts), return_tensors="pt", **words))
    rate = {"sampling_rate": processor.feature_extractor.sampling_rate}
    batch = dict(processor(text=list(texts), audio=list(sounds), text_kwargs=words, audio_kwargs=rate))
    batch.pop("num_audio_tokens", None)  # a count for other processors, which no model takes
    return batch


def tokens(processor: Any, sounds: Sequence[Any]) -> int:
    """Count the tokens that sounds take in what a model reads."""
    if not sounds:
        return 0
    if hasattr(processor, "_get_audio_token_length"):  # by their lengths, without a spectrogram
        import torch

        extractor = processor.feature_extractor
        frames = [sum(_frames(len(sound), extractor)) for sound in sounds]
        return int(processor._get_audio_token_length(torch.tensor(frames)).sum())
    batch = encoded(processor, [processor.audio_token] * len(sounds), sounds, "right")
    return int((batch["input_ids"] == processor.audio_token_id).sum())


def counted(processor: Any, sounds: Sequence[Any], place: str) -> int:
    """Count the tokens that sounds take, as `tokens` does, where each has to be heard whole.

    Args:
        processor: of the model.
        sounds: each `[samples]` at the model's rate.
        place: of the row, for messages.

    Raises:
        DataError: a sound is so short that it becomes no token, or so long that the processor would cut it.
    """
    total = 0
    for samples in sounds:
        seconds = len(samples) / processor.feature_extractor.sampling_rate
        longest = _longest(processor)
        if longest is not None and seconds > longest:
            raise DataError(
                f"{place}: its sound lasts {seconds:.1f} s, and the model hears {longest} s at most; cut it"
            )
        count = tokens(processor, [samples])
        if not count:
            raise DataError(
                f"{place}: its sound lasts {1000 * seconds:.0f} ms, too short to become a token of what the model "
                f"reads; leave the row out of the data"
            )
        total += count
    return total


def _longest(processor: Any) -> int | None:
    """Return the seconds after which a processor cuts a sound; None where it cuts none."""
    most = getattr(processor, "max_audio_len", None)
    chunk = getattr(processor.feature_extractor, "chunk_length", None)
    return int(most // chunk * chunk) if most and chunk else None


def _frames(samples: int, extractor: Any) -> list[int]:
    """Return the frames of each chunk of a sound."""
    lengths = [min(extractor.n_samples, samples - start) for start in range(0, max(1, samples), extractor.n_samples)]
    return [-(-length // extractor.hop_length) for length in lengths]
