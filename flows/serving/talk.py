"""Which conversation a model folder is for: of words, with pictures, or with recordings; exported, or on PyTorch.

The folder of words is an ONNX Runtime GenAI one, so nothing of PyTorch is imported and the first answer begins within a
second. The export of a model that sees is talked to by `flows/serving/seeing_chat.py`, its model folder, on PyTorch, by
`flows/serving/seeing.py`; of a model that hears, by `flows/serving/hearing_chat.py` and `flows/serving/hearing.py`.
"""

from collections.abc import Sequence
from pathlib import Path

from flows.serving.conversation import Conversation, Talk
from tasks.export.multimodal_session import is_hearing, is_seeing
from tasks.models.checks import read_object
from tasks.stage.errors import ModelError


def begin(
    folder: Path, images: Sequence[Path], max_new_tokens: int, temperature: float, sounds: Sequence[Path] = ()
) -> Talk:
    """Load the model of a folder.

    Args:
        folder: a form of an export, or the folder of a model that sees or hears.
        images: pictures to show with the first question.
        max_new_tokens: longest answer, in tokens.
        temperature: 0 takes the likeliest token, above it samples.
        sounds: recordings to play with the first question.

    Raises:
        DataError: a picture or recording cannot be read.
        ModelError: no model there, an unreadable one, or pictures or recordings for one that takes none.
    """
    exported = is_hearing(folder)
    hears = exported or _hears(folder)
    if sounds and not hears:
        raise ModelError(
            f"{folder}: this model takes no recordings; name one that hears, e.g. --folder artifacts/models/speech"
        )
    if exported and not images:
        from flows.serving.hearing_chat import HearingChat

        return HearingChat(folder, sounds, max_new_tokens=max_new_tokens, temperature=temperature)
    if hears and not images:
        from flows.serving.hearing import HearingConversation

        return HearingConversation(folder, sounds, max_new_tokens=max_new_tokens, temperature=temperature)
    if is_seeing(folder):
        from flows.serving.seeing_chat import SeeingChat

        return SeeingChat(folder, images, max_new_tokens=max_new_tokens, temperature=temperature)
    if (folder / "config.json").is_file() and not (folder / "genai_config.json").exists():
        from tasks.models.multimodal import is_multimodal

        if is_multimodal(folder) and not hears:
            from flows.serving.seeing import SeeingConversation

            return SeeingConversation(folder, images, max_new_tokens=max_new_tokens, temperature=temperature)
    if images:
        raise ModelError(
            f"{folder}: this model takes no pictures; name one that sees, e.g. --folder artifacts/models/vlm"
        )
    return Conversation(folder, max_new_tokens=max_new_tokens, temperature=temperature)


def _hears(folder: Path) -> bool:
    """Whether a folder is that of a model which hears and does not see."""
    path = folder / "config.json"
    if not path.is_file() or (folder / "genai_config.json").exists():
        return False
    config = read_object(path)
    return "audio_config" in config and "vision_config" not in config
