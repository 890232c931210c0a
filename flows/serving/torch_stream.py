"""An answer by PyTorch, bit by bit: drawn in a thread of its own, until its end or until nobody listens any more."""

import threading
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from tasks.stage.errors import ModelError


def stream(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], *, room: int, ends: Sequence[int], temperature: float
) -> Generator[str]:
    """Yield an answer; closing the generator ends it.

    Args:
        model: a model of transformers.
        tokenizer: of the model.
        inputs: tensors of one prompt, as the model takes them.
        room: longest answer, in tokens.
        ends: tokens that end it.
        temperature: 0 takes the likeliest token, above it samples.

    Raises:
        ModelError: the model failed.
    """
    from transformers import TextIteratorStreamer

    stop = threading.Event()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    failed: list[Exception] = []

    def generate() -> None:
        import torch
        from transformers import StoppingCriteriaList

        def stopped(ids: Any, scores: Any, **kwargs: Any) -> Any:
            return torch.full((len(ids),), stop.is_set())

        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        try:
            with torch.inference_mode():
                model.generate(
                    **inputs,
                    **sampling,
                    max_new_tokens=room,
                    eos_token_id=list(ends),
                    pad_token_id=tokenizer.pad_token_id,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([stopped]),
                )
        except Exception as e:  # it must reach whoever waits for the answer
            failed.append(e)
            streamer.end()

    thread = threading.Thread(target=generate, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
        if failed:
            raise ModelError(f"the model failed on this question ({failed[0]}); ask again")
    finally:
        stop.set()
        thread.join()
