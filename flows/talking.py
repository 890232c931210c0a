"""Commands that talk to a model: `polm chat`, `polm ask`, `polm serve`. Imports that take time are inside them."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str | None, typer.Option(help="Reader of the workspace, e.g. reader; without it, the champion.")]
Index = Annotated[str | None, typer.Option(help="Index of the workspace, in place of the reader's own.")]
Longest = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token, above it samples.")]


def chat(
    question: Annotated[list[str] | None, typer.Argument(help="Ask this and leave; without it, talk.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Talk to this export and not to the champion, e.g. artifacts/onnx/sft/int8; or to a model that sees "
            "or hears, e.g. artifacts/models/vlm."
        ),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Show a picture with the first question; repeatable.")
    ] = None,
    audio: Annotated[
        list[Path] | None, typer.Option(help="Play a recording with the first question, to a model that hears.")
    ] = None,
    rag: Annotated[
        bool, typer.Option("--rag", help="Answer from passages, which are shown under each answer.")
    ] = False,
    model: Model = None,
    index: Index = None,
    max_new_tokens: Longest = 256,
    temperature: Temperature = 0,
) -> None:
    """Talk to the champion."""
    from flows.serving import chat

    chat.main(
        question or [],
        folder,
        image or [],
        audio or [],
        rag=rag,
        model=model,
        index=index,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )


def ask(
    question: Annotated[list[str] | None, typer.Argument(help="Question; without it, it comes from a pipe.")] = None,
    model: Model = None,
    index: Index = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    max_new_tokens: Longest = 256,
    temperature: Temperature = 0,
) -> None:
    """Ask a reader one question; prints the answer and the passages that it was given from."""
    from flows.terminal import ask

    ask.main(question or [], model, index, as_json=as_json, max_new_tokens=max_new_tokens, temperature=temperature)


def serve(
    alias: Annotated[str, typer.Option(help="Which version: champion, candidate or previous.")] = "champion",
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than loopback need POLM_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more get status 429.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Requests that are answered together.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take, waiting included.")] = 120,
    max_new_tokens: Longest = 1024,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the model; without it, every core.")] = None,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the alias.")] = 2,
    allow_files: Annotated[
        Path | None,
        typer.Option(help="Folder below which requests may name pictures. Everyone who may ask can then show them."),
    ] = None,
    rag: Annotated[
        bool, typer.Option("--rag", help="Answer from passages unless a request says otherwise; needs an index.")
    ] = False,
    passages: Annotated[
        int | None,
        typer.Option(min=1, help="Most passages a request may be shown; without it, as many as the reader takes."),
    ] = None,
) -> None:
    """Serve the champion to OpenAI clients until Ctrl-C; follows promotions and rollbacks."""
    from flows import workspace
    from flows.serving import server as http_server
    from flows.serving.requests import Limits
    from flows.terminal.board import say

    allowed = allow_files.resolve() if allow_files is not None else None  # before the working directory changes
    workspace.enter()
    limits = Limits(
        queue=queue,
        batch=batch,
        timeout=timeout,
        max_new_tokens=max_new_tokens,
        allow_files=allowed,
        rag=rag,
        passages=passages,
    )
    http_server.serve(alias, host, port, limits, threads=threads, poll=poll, say=say)
