"""The registered model as it is served: a chat completion over ONNX Runtime GenAI.

Models-from-code: `mlflow.pyfunc.log_model(python_model="mlflow/chat_model.py", artifacts={"onnx": folder})` copies this
file into the model, where it runs, so it imports nothing of this repository. `mlflow models serve` then answers

    curl http://127.0.0.1:5000/invocations -H 'Content-Type: application/json' \\
      -d '{"messages": [{"role": "user", "content": "What is 2 + 3?"}], "max_tokens": 32, "temperature": 0}'

with an OpenAI chat completion. `ChatModel` is the class for that: MLflow recommends `ResponsesAgent` instead of it, but
not to those who need the OpenAI ChatCompletion format, for an agent's requests and responses have another shape.
"""

import json
import re
import threading
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import ChatModel
from mlflow.types.llm import (
    ChatChoice,
    ChatChoiceDelta,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatCompletionResponse,
    ChatMessage,
    ChatParams,
    TokenUsageStats,
)

SEARCH: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
}
"""Search that takes the likeliest token: the request alone says how to draw, and the folder's settings nothing."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Role of a message to its name in chat templates: `developer` is OpenAI's newer name of `system`."""
UNSUPPORTED = ("tools", "frequency_penalty", "presence_penalty", "custom_inputs")


class OnnxChat(ChatModel):
    """Answers with the ONNX Runtime GenAI folder in the artifact `onnx`."""

    def load_context(self, context: Any) -> None:
        """Load the model once, when the server starts. `model_config` may hold `threads`; without it, every core."""
        import onnxruntime_genai as og

        folder = Path(context.artifacts["onnx"])
        config = og.Config(str(folder))
        if context.model_config and "threads" in context.model_config:
            session = {"intra_op_num_threads": context.model_config["threads"]}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = og.Model(config)
        self._tokenizer = og.Tokenizer(self._model)
        settings = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        self._context_length = int(settings["model"]["context_length"])
        self._drops_space = _drops_space(folder)
        # One answer at a time: two would share the cores, and each would take twice as long.
        self._lock = threading.Lock()

    def predict(self, context: Any, messages: list[ChatMessage], params: ChatParams) -> ChatCompletionResponse:
        """Answer a conversation.

        Raises:
            MlflowException: a request that cannot be answered; the server turns it into status 400 with its message.
        """
        if params.stream:
            raise _refusal("'stream' is true, but this server sends whole answers; leave it out")
        ids = self._prompt(messages, params)
        answer = _Answer()
        text = "".join(self._texts(ids, params, answer))
        return ChatCompletionResponse(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            model="polm",
            choices=[ChatChoice(message=ChatMessage(role="assistant", content=text), finish_reason=answer.reason)],
            usage=TokenUsageStats(len(ids), answer.tokens, len(ids) + answer.tokens),
        )

    def predict_stream(
        self, context: Any, messages: list[ChatMessage], params: ChatParams
    ) -> Iterator[ChatCompletionChunk]:
        """Answer a conversation bit by bit; the last chunk carries the finish reason. Raises MlflowException."""
        ids = self._prompt(messages, params)
        answer = _Answer()
        name = f"chatcmpl-{uuid.uuid4().hex}"
        for text in self._texts(ids, params, answer):
            choice = ChatChunkChoice(delta=ChatChoiceDelta(content=text))
            yield ChatCompletionChunk(id=name, model="polm", choices=[choice])
        usage = TokenUsageStats(len(ids), answer.tokens, len(ids) + answer.tokens)
        last = ChatChunkChoice(delta=ChatChoiceDelta(content=""), finish_reason=answer.reason)
        yield ChatCompletionChunk(id=name, model="polm", choices=[last], usage=usage)

    def _prompt(self, messages: list[ChatMessage], params: ChatParams) -> list[int]:
        """Check a request and encode it as token ids."""
        _read_unlimited(params)
        _check(messages, params)
        turns = [{"role": ROLES[m.role], "content": m.content} for m in messages]
        try:
            text = self._tokenizer.apply_chat_template(json.dumps(turns), add_generation_prompt=True)
        except RuntimeError as e:
            raise _refusal(f"the model's chat template refuses these messages: {e}") from e
        ids = [int(i) for i in self._tokenizer.encode(text)]
        if len(ids) >= self._context_length:
            raise _refusal(
                f"the messages are {len(ids)} tokens long, and the model's context of {self._context_length} must hold "
                f"them and the answer; send fewer or shorter messages"
            )
        return ids

    def _texts(self, ids: list[int], params: ChatParams, answer: "_Answer") -> Iterator[str]:
        """Yield the answer's text as it comes, ended by the model, by `max_tokens`, or before a stop string."""
        import numpy as np
        import onnxruntime_genai as og

        limit = self._context_length if params.max_tokens is None else len(ids) + params.max_tokens
        search = og.GeneratorParams(self._model)
        search.set_search_options(max_length=min(limit, self._context_length), **_sampling(params))
        ends = {int(i) for i in self._tokenizer.eos_token_ids}
        stream = self._tokenizer.create_stream()
        at_start = self._drops_space
        stops = params.stop or []
        held_back = ""  # the end of the text so far that might be the beginning of a stop string
        with self._lock:
            generator = og.Generator(self._model, search)
            generator.append_tokens(np.asarray(ids, dtype=np.int32))
            while not generator.is_done():
                generator.generate_next_token()
                token = int(generator.get_next_tokens()[0])
                answer.tokens += 1
                if token in ends:
                    answer.reason = "stop"
                    break
                text = stream.decode(token)
                if at_start and text:
                    text = text.removeprefix(" ")
                    at_start = False
                text = held_back + text
                places = [text.index(stop) for stop in stops if stop in text]
                if places:
                    held_back = text[: min(places)]
                    answer.reason = "stop"
                    break
                ready = len(text) - _overlap(text, stops)
                held_back = text[ready:]
                if ready:
                    yield text[:ready]
        if held_back:
            yield held_back


class _Answer:
    """Tokens of an answer, and why it ended."""

    tokens = 0
    reason = "length"


def _drops_space(folder: Path) -> bool:
    """Tell whether transformers leaves out the space that a text begins with (see `tasks.export.genai.drops_space`)."""
    path = folder / "tokenizer.json"
    decoder = json.loads(path.read_text(encoding="utf-8")).get("decoder") if path.exists() else None
    steps = (decoder or {}).get("decoders", [decoder] if decoder else [])
    return any(
        (step["type"] == "Strip" and step["content"] == " " and step["start"] > 0)
        or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )


def _read_unlimited(params: ChatParams) -> None:
    """Read -1 as no limit of tokens, as llama.cpp does, and as every token in `top_k`, as vLLM does."""
    params.max_tokens = None if params.max_tokens == -1 else params.max_tokens
    params.top_k = 0 if params.top_k == -1 else params.top_k


def _check(messages: list[ChatMessage], params: ChatParams) -> None:
    """Refuse what would be ignored or misunderstood. Raises MlflowException."""
    if not messages:
        raise _refusal("'messages' is empty; send at least one message of role 'user'")
    for number, message in enumerate(messages):
        if message.role not in ROLES:
            raise _refusal(f"messages[{number}].role is '{message.role}'; known roles: {', '.join(ROLES)}")
        if not isinstance(message.content, str) or not message.content.strip():
            raise _refusal(f"messages[{number}].content must be a text that is not empty")
        if re.search("[\0\ud800-\udfff]", message.content):  # the tokenizer would cut the text there, or fail
            raise _refusal(f"messages[{number}].content holds the character NUL or half a character; leave it out")
    if messages[-1].role != "user":
        raise _refusal(f"the last message has the role '{messages[-1].role}'; it must be the user's, to be answered")
    for name in UNSUPPORTED:
        if getattr(params, name):
            raise _refusal(f"'{name}' is not supported; leave it out")
    if params.n != 1:
        raise _refusal(f"'n' is {params.n}; this model gives one answer")
    if params.max_tokens is not None and params.max_tokens < 1:
        raise _refusal(f"'max_tokens' is {params.max_tokens}; it must be at least 1")
    if not 0 <= params.temperature <= 2:
        raise _refusal(f"'temperature' is {params.temperature}; it must lie between 0 (the likeliest token) and 2")
    if params.top_p is not None and not 0 < params.top_p <= 1:
        raise _refusal(f"'top_p' is {params.top_p}; it must be above 0 and at most 1")
    if params.top_k is not None and params.top_k < 0:
        raise _refusal(f"'top_k' is {params.top_k}; it must be at least 1, or 0 for every token")
    if any(not s for s in params.stop or []):
        raise _refusal("'stop' holds an empty text")


def _sampling(params: ChatParams) -> dict[str, Any]:
    if params.temperature == 0:
        return SEARCH
    settings = {"top_p": params.top_p, "top_k": params.top_k}
    drawing = {"do_sample": True, "temperature": params.temperature}
    return SEARCH | drawing | {key: value for key, value in settings.items() if value is not None}


def _overlap(text: str, stops: list[str]) -> int:
    """Measure the longest end of `text` that begins one of `stops`."""
    return max((n for s in stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)


def _refusal(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # the advice to use ResponsesAgent: see above
    set_model(OnnxChat())
