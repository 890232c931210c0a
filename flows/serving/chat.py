"""`polm chat`: talking to a model in a terminal, or one question and its answer."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console

from flows.serving import source_view
from flows.serving.conversation import Talk
from flows.serving.reading import Reader, reader
from flows.serving.talk import begin
from tasks.stage.errors import ConfigError, DataError, ModelError

HELP = "/reset forgets the conversation, /quit or Ctrl-D leaves, Ctrl-C stops an answer"
SHOW = "/image"
"""Command that shows a picture with the next question, to a model that sees."""
HEAR = "/audio"
"""Command that plays a recording with the next question, to a model that hears."""


def main(
    words: Sequence[str],
    folder: Path | None,
    images: Sequence[Path],
    sounds: Sequence[Path],
    *,
    rag: bool,
    model: str | None,
    index: str | None,
    max_new_tokens: int,
    temperature: float,
) -> None:
    """Answer the question, or talk.

    Args:
        words: the question; without any it comes from a pipe, and at a terminal the person is asked.
        folder: an ONNX Runtime GenAI folder, or that of a model that sees or hears; None takes the champion.
        images: pictures to show with the first question.
        sounds: recordings to play with it.
        rag: whether to answer from passages, with a reader and its index; `folder` is None then.
        model: name of that reader in the workspace; None takes the champion.
        index: name of another index in the workspace; None takes the reader's own.
        max_new_tokens: longest answer, in tokens.
        temperature: 0 takes the likeliest token, above it samples.

    Raises:
        ConfigError: options that exclude each other.
        DataError: the question is empty or too long, or a picture or recording cannot be read.
        GateError: there is no champion, or none with an index.
        ModelError: no model there, an unreadable one, one that takes no pictures or recordings, or a champion that
            `polm promote` did not register.
    """
    from flows import workspace
    from flows.registry import version as model_version

    if rag and (folder is not None or images or sounds):
        raise ConfigError("--rag answers words from the index of a reader: leave --folder, --image and --audio out")
    if not rag and (model is not None or index is not None):
        raise ConfigError("--model and --index name a reader and its index: add --rag, or name a --folder")
    # Before the working directory becomes the project's:
    folder = folder.resolve() if folder is not None else None
    images, sounds = ([path.resolve() for path in paths] for paths in (images, sounds))
    start = Path(os.environ.get("PWD", ""))
    workspace.enter(writes=False)
    question = question_from(words, sys.stdin)
    if rag:
        with reader(model, index, max_new_tokens=max_new_tokens, temperature=temperature) as opened:
            if question is not None:
                _say(opened, question, Console())
            else:
                converse(opened, start, title=opened.title, console=Console())
        return
    export = contextlib.nullcontext((folder, str(folder))) if folder is not None else model_version.champion()
    with export as (path, title):
        if question is not None:
            answer(
                path, question, images, sounds, max_new_tokens=max_new_tokens, temperature=temperature,
                console=Console(),
            )  # fmt: skip
        else:
            chat(
                path,
                images,
                start,
                sounds,
                title=title,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                console=Console(),
            )


def question_from(words: Sequence[str], stdin: TextIO) -> str | None:
    """Read the one question of `polm chat "…"` or `… | polm chat`; None when a person wants to talk.

    Raises:
        DataError: the words or the piped text are empty, or the text is not in the terminal's encoding.
    """
    if words:
        question = " ".join(words).strip()
    elif stdin.isatty():
        return None
    else:
        try:
            question = stdin.read().strip()
        except UnicodeDecodeError as e:
            raise _not_text(e) from None
    if not question:
        raise DataError("the question is empty; ask like this: polm chat 'What is 2 + 3?'")
    return question


def _not_text(error: UnicodeDecodeError) -> DataError:
    what = f"byte {error.start + 1} of the question is no {error.encoding} ({error.reason})"
    return DataError(f"{what}; convert it: iconv -f ITS_ENCODING -t {error.encoding}")


def answer(
    folder: Path,
    question: str,
    images: Sequence[Path] = (),
    sounds: Sequence[Path] = (),
    *,
    max_new_tokens: int,
    temperature: float,
    console: Console,
) -> None:
    """Answer one question and leave. Raises as `begin`."""
    _say(begin(folder, images, max_new_tokens, temperature, sounds), question, console)


def chat(
    folder: Path,
    images: Sequence[Path] = (),
    start: Path = Path(),
    sounds: Sequence[Path] = (),
    *,
    title: str,
    max_new_tokens: int,
    temperature: float,
    console: Console,
) -> None:
    """Talk to the model of a folder until the person leaves.

    Args:
        folder: as `begin` takes it.
        images: pictures to show with the first question.
        start: folder that names of pictures and recordings start from, where the command was called.
        sounds: recordings to play with the first question.
        title: what is being talked to, e.g. `polm-tiny version 3 (champion), int8`.
        max_new_tokens: longest answer, in tokens.
        temperature: 0 takes the likeliest token, above it samples.
        console: where to talk.

    Raises:
        DataError: a picture cannot be read.
        ModelError: as `begin`.
    """
    conversation = begin(folder, images, max_new_tokens, temperature, sounds)
    converse(conversation, start, title=title, console=console)


def converse(conversation: Talk, start: Path, *, title: str, console: Console) -> None:
    """Talk until the person leaves; for the arguments see `chat`."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys and history in input(); not on every platform)
    console.print(title, style="bold", markup=False, highlight=False)
    console.print(_help(conversation), style="dim", markup=False, highlight=False)
    while True:
        try:
            question = console.input("[bold cyan]>[/] ").strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print(f"\n{_help(conversation)}", style="dim", markup=False, highlight=False)
            continue
        except UnicodeDecodeError as e:
            console.print(str(_not_text(e)), style="red", markup=False, highlight=False)
            continue
        if question == "/quit":
            return
        if question == "/reset":
            conversation.forget()
            console.print("forgotten", style="dim")
        elif (takes := _command(conversation)) and question.startswith(f"{takes[0]} "):
            try:
                takes[1](start / Path(question.removeprefix(takes[0]).strip()).expanduser())
                console.print(f"{'played' if takes[0] == HEAR else 'shown'} with the next question", style="dim")
            except DataError as e:
                console.print(str(e), style="red", markup=False, highlight=False)
        elif question.startswith("/"):
            console.print(_help(conversation), style="dim", markup=False, highlight=False)
        elif question:
            try:
                _say(conversation, question, console)
            except (DataError, ModelError) as e:
                console.print(str(e), style="red", markup=False, highlight=False)


def _help(conversation: Talk) -> str:
    takes = _command(conversation)
    if takes is None:
        return HELP
    return f"{takes[0]} FILE {'plays a recording' if takes[0] == HEAR else 'shows a picture'}, {HELP}"


def _command(conversation: Talk) -> tuple[str, Callable[[Path], None]] | None:
    """Return the command by which a conversation takes a file, and its function; None where it takes none."""
    if hear := getattr(conversation, "hear", None):
        return HEAR, hear
    show = getattr(conversation, "show", None)
    return (SHOW, show) if show else None


def _say(conversation: Talk, question: str, console: Console) -> None:
    """Print an answer as it comes, and a reader's passages. Ctrl-C ends the answer, and in a conversation only that."""
    texts = conversation.ask(question)
    answer = ""
    try:
        for text in texts:
            answer += text
            console.print(text, end="", markup=False, highlight=False, emoji=False, soft_wrap=True)
            console.file.flush()
    except KeyboardInterrupt:
        console.print(" [stopped]", style="dim", markup=False, end="")
    finally:
        texts.close()  # puts what was said into the conversation
        console.print()
    if isinstance(conversation, Reader) and conversation.grounded is not None:
        source_view.show(console, answer, conversation.form, conversation.grounded.sources)
