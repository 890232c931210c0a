"""Connectionist temporal classification in a language model's embedding space (Graves et al., ICML 2006).

The classes of a frame are the embeddings of the units that labels are made of, and of the blank; a score is the cosine
between the projected frame and the embedding, over a temperature. What comes out of the projector is what the language
model will read, so it has to point where an embedding points: scored by plain products, frames told the units apart ten
times as long as an embedding and at cosines of 0.3, and the language model stayed deaf to them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tasks.multimodal.speech_augmentation import masked as masked
from tasks.stage.errors import DataError

TEMPERATURE = 0.07
"""Cosines are divided by it: the usual one of contrastive training (arXiv:2103.00020 begins with it)."""
AT_ONCE = 64
"""Sounds that are spelt at once."""


class Units:
    """The units that labels are made of, and their places among the classes; class 0 is the blank."""

    def __init__(self, labels: Sequence[str], kind: str, blank: int, model: Any, tokenizer: Any) -> None:
        """Find the units of labels.

        Args:
            labels: texts.
            kind: `words` or `tokens`.
            blank: number of the token that stands for no unit.
            model: whose embeddings they get.
            tokenizer: of the model.

        Raises:
            DataError: a word of which the tokenizer makes no token.
        """
        self._kind = kind
        self._tokenizer = tokenizer
        self.names = sorted({unit for label in labels for unit in self.split(label)})
        """The units, in the order of the classes from 1 on."""
        self._number = {name: i for i, name in enumerate(self.names, 1)}
        table = model.get_input_embeddings().weight.detach()
        ids = [
            [name] if isinstance(name, int) else tokenizer(name, add_special_tokens=False)["input_ids"]
            for name in self.names
        ]
        if empty := [name for name, row in zip(self.names, ids, strict=True) if not row]:
            raise DataError(
                f"the tokenizer makes no token of {empty[0]!r}, a word of a label; leave it out of the labels"
            )
        self._compared = [(blank,), *(tuple(sorted(row)) for row in ids)]
        self.vectors = torch.stack([table[blank], *(table[row].mean(dim=0) for row in ids)])
        """Embeddings of the classes, `[classes, width]`."""

    def alike(self) -> list[list[str]]:
        """List classes that no frame can tell apart, because they have one embedding; the blank is called `blank`.

        So have words of the same tokens in another order (`was`, `saw`), words of unknown tokens alone, and the blank
        and a unit that is its token.
        """
        names = ["blank", *(repr(self._shown(name)) for name in self.names)]
        members: dict[tuple[int, ...], list[str]] = {}
        for name, tokens in zip(names, self._compared, strict=True):
            members.setdefault(tokens, []).append(name)
        return [group for group in members.values() if len(group) > 1]

    def unknown(self, labels: Sequence[str]) -> list[str]:
        """List the units of labels that were in no label before, so that they cannot be spelt."""
        return [
            str(self._shown(unit))
            for unit in sorted({u for text in labels for u in self.split(text)} - {*self._number})
        ]

    def _shown(self, unit: Any) -> str:
        return unit if isinstance(unit, str) else str(self._tokenizer.convert_ids_to_tokens(unit))

    def split(self, label: str) -> list[Any]:
        """Split a label into units: words (str), or tokens by their numbers."""
        if self._kind == "words":
            return label.split()
        ids: list[int] = self._tokenizer(label, add_special_tokens=False)["input_ids"]
        return ids

    def loss(self, scores: torch.Tensor, lengths: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
        """Return the mean loss of a batch, each label's divided by its units.

        Args:
            scores: `[sounds, frames, classes]`.
            lengths: frames of each sound, `[sounds]`.
            labels: of the sounds.
        """
        targets = [[self._number[unit] for unit in self.split(label)] for label in labels]
        return torch.nn.functional.ctc_loss(
            scores.log_softmax(-1).transpose(0, 1),
            torch.tensor([number for row in targets for number in row]),
            lengths,
            torch.tensor([len(row) for row in targets]),
            blank=0,
            zero_infinity=True,
        )

    def spelt(self, classes: Sequence[int]) -> str:
        """Spell the likeliest classes of a sound's frames: repeats are one unit, blanks none."""
        units = [self.names[c - 1] for c, before in zip(classes, [0, *classes], strict=False) if c and c != before]
        if self._kind == "words":
            return " ".join(units)
        return str(self._tokenizer.decode(units))


def spectrograms(processor: Any, sounds: Sequence[Any]) -> tuple[torch.Tensor, list[int]]:
    """Return spectrograms `[sounds, bands, frames]` of sounds that fit one chunk, and how many frames are not padding.

    A longer sound is cut at the end of the chunk.
    """
    extractor = processor.feature_extractor
    batch = extractor(
        list(sounds), sampling_rate=extractor.sampling_rate, return_attention_mask=True, return_tensors="pt"
    )
    return batch["input_features"], batch["attention_mask"].sum(dim=1).tolist()


def scores(
    model: Any, features: torch.Tensor, frames: Sequence[int], units: Units
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score the units of each frame: `[sounds, frames, classes]`, and how many frames each sound has."""
    mask = (torch.arange(features.shape[2])[None] < torch.tensor(frames)[:, None]).long().to(features.device)
    output = model.model.audio_tower(features)
    merged = output.last_hidden_state.reshape(len(features), -1, model.config.audio_config.intermediate_size)
    projected = model.model.multi_modal_projector(merged)
    lengths = ((mask.sum(dim=1) - 1) // 2 + 1) // 4
    classes = torch.nn.functional.normalize(units.vectors.to(projected), dim=-1)
    return torch.nn.functional.normalize(projected, dim=-1) @ classes.T / TEMPERATURE, lengths.cpu()


def rescale(model: Any, processor: Any, units: Units, sounds: Sequence[Any]) -> float:
    """Make projected frames as long as embeddings, on average, in place; cosines leave their length open.

    Args:
        model: after alignment.
        processor: of the model.
        units: whose embeddings give the length.
        sounds: whose frames are measured, each `[samples]`.

    Returns:
        The factor.
    """
    lengths = []
    with torch.no_grad():
        for start in range(0, len(sounds), AT_ONCE):
            features, _ = spectrograms(processor, sounds[start : start + AT_ONCE])
            output = model.model.audio_tower(features.to(model.device))
            merged = output.last_hidden_state.reshape(len(features), -1, model.config.audio_config.intermediate_size)
            lengths.append(model.model.multi_modal_projector(merged).norm(dim=-1).flatten())
        factor = units.vectors.norm(dim=-1).mean().item() / torch.cat(lengths).mean().item()
        for weight in model.model.multi_modal_projector.linear_2.parameters():
            weight.mul_(factor)
    return factor


def error_rate(
    model: Any, processor: Any, units: Units, sounds: Sequence[Any], rows: Sequence[Mapping[str, Any]]
) -> float:
    """Return the word error rate of spelling sounds greedily, by the rows' `label`; all words of all rows pooled."""
    import jiwer

    spelt = []
    with torch.no_grad():
        for start in range(0, len(sounds), AT_ONCE):
            features, frames = spectrograms(processor, sounds[start : start + AT_ONCE])
            likeliest, lengths = scores(model, features.to(model.device), frames, units)
            rows_of_classes = likeliest.argmax(dim=-1).tolist()
            spelt += [units.spelt(row[:length]) for row, length in zip(rows_of_classes, lengths.tolist(), strict=True)]
    return round(float(jiwer.wer([row["label"] for row in rows], spelt)), 4)
