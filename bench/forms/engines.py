"""One model in one runtime, behind the same five calls, so that `python -m bench.forms` measures all of them alike.

    text(messages)      a conversation by the form's own chat template; None where it only carries the template
    encode, decode      token ids of a text, and back
    logits(ids)         float32 [len(ids), vocabulary], of one sequence
    answer(ids, n)      greedy answer of at most n tokens
    times(rows, n)      the clock before the rows are read, and after each of n greedy tokens of all rows

Nothing that one runtime needs is imported for another, so that the peak memory of a process is that of its form.
`bench/forms/llama.py` has llama.cpp.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Engine(Protocol):
    """Questions that a form answers; see above."""

    template: str
    """Chat template that the form carries."""

    def text(self, messages: Sequence[dict[str, str]]) -> str | None: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def logits(self, ids: Sequence[int]) -> Any: ...
    def answer(self, ids: Sequence[int], new_tokens: int) -> list[int]: ...
    def times(self, rows: Any, new_tokens: int) -> list[float]: ...


class Transformers:
    """A Hugging Face folder under `generate`; weights packed in few bits are unpacked on loading."""

    def __init__(self, folder: Path, threads: int, dtype: str, adapter: Path | None = None) -> None:
        """Load the model.

        Args:
            folder: Hugging Face folder.
            threads: threads of torch.
            dtype: torch name of the weights' type.
            adapter: adapter of PEFT, to be put on the model and not merged; its tokenizer is in the folder around it.
        """
        import torch

        torch.set_num_threads(threads)
        from tasks.export.reference import Reference
        from tasks.models.folder import load_causal_lm, load_tokenizer

        model = load_causal_lm(folder, dtype, quantized=True)
        if adapter is not None:
            from peft import PeftConfig, PeftModel

            from tasks.models import weights

            model = PeftModel(model, PeftConfig.from_pretrained(adapter))
            weights.load_adapter(model, adapter)
        self._model = model.eval()
        self._tokenizer = load_tokenizer(adapter.parent if adapter else folder)
        self._reference = Reference(self._model, self._tokenizer)
        self.template = str(self._tokenizer.chat_template)

    def text(self, messages: Sequence[dict[str, str]]) -> str:
        """Render a conversation with transformers."""
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def encode(self, text: str) -> list[int]:
        """Encode a text, in which special tokens written out become special tokens."""
        return [int(i) for i in self._tokenizer(text, add_special_tokens=False)["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids."""
        return str(self._tokenizer.decode(list(ids)))

    def logits(self, ids: Sequence[int]) -> Any:
        """Compute logits, float32 [len(ids), vocabulary]."""
        import torch

        with torch.inference_mode():
            return self._model(torch.tensor([list(ids)])).logits[0].float().numpy()

    def answer(self, ids: Sequence[int], new_tokens: int) -> list[int]:
        """Answer greedily, until the end token."""
        return self._reference.generate(ids, max_new_tokens=new_tokens)

    def times(self, rows: Any, new_tokens: int) -> list[float]:
        """Read the clock around `generate`, whose streamer is called with the prompt first and then with each token."""
        import torch

        times = []

        class Clock:
            def put(self, _tokens: Any) -> None:
                times.append(time.perf_counter())

            def end(self) -> None:
                pass

        tokens = torch.tensor(rows)
        length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
        self._model.generate(tokens, attention_mask=torch.ones_like(tokens), streamer=Clock(), pad_token_id=0, **length)
        return times

    def weight_bytes(self) -> int:
        """Count the bytes of the tensors that one token reads: all, less an embedding that is no output layer too."""
        embedding = self._model.get_input_embeddings().weight
        tied = self._model.get_output_embeddings().weight is embedding
        return sum(p.nbytes for p in self._model.parameters() if tied or p is not embedding)


class OnnxRuntime:
    """An ONNX Runtime GenAI folder."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Args: folder: folder to load; threads: threads of ONNX Runtime."""
        from tasks.export import genai

        self._onnx = genai
        self._model, self._tokenizer = genai.load(folder, threads)
        self.template = (folder / "chat_template.jinja").read_text(encoding="utf-8")

    def text(self, messages: Sequence[dict[str, str]]) -> str:
        """Render a conversation with ONNX Runtime GenAI."""
        return self._onnx.render(self._tokenizer, messages)

    def encode(self, text: str) -> list[int]:
        """Encode a text, in which special tokens written out become special tokens."""
        return self._onnx.encode(self._tokenizer, text)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids."""
        return self._onnx.decode(self._tokenizer, ids)

    def logits(self, ids: Sequence[int]) -> Any:
        """Compute logits, float32 [len(ids), vocabulary]."""
        return self._onnx.logits(self._model, ids)

    def answer(self, ids: Sequence[int], new_tokens: int) -> list[int]:
        """Answer greedily, until the end token."""
        return list(self._onnx.generate(self._model, ids, max_new_tokens=new_tokens))

    def times(self, rows: Any, new_tokens: int) -> list[float]:
        """Read the clock around `Generator`; the end token is held back to the last."""
        import onnxruntime_genai as og

        count, width = rows.shape
        length = width + new_tokens
        params = og.GeneratorParams(self._model)
        limits = {"batch_size": count, "max_length": length, "min_length": length}
        params.set_search_options(**self._onnx.SEARCH | limits)
        times = [time.perf_counter()]
        generator = og.Generator(self._model, params)
        generator.append_tokens(rows.astype(np.int32))
        for _ in range(new_tokens):
            generator.generate_next_token()
            times.append(time.perf_counter())
        return times


def onnx_weight_bytes(folder: Path) -> int:
    """Count the bytes of the tensors that one token reads: no embedding or table of angles, of which it reads a row."""
    import onnx

    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    rows_only = {"cos_cache", "sin_cache"}
    read = {name for node in graph.node if not node.op_type.startswith("Gather") for name in node.input} - rows_only
    bits = {onnx.TensorProto.FLOAT: 32, onnx.TensorProto.FLOAT16: 16, onnx.TensorProto.BFLOAT16: 16}
    tensors = [t for t in graph.initializer if t.name in read]
    return sum(int(np.prod(t.dims)) * bits.get(t.data_type, 8) // 8 for t in tensors)
