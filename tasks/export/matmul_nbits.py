"""Rounded matrices of an ONNX model, read and written in place.

ONNX Runtime's MatMulNBits (and GatherBlockQuantized, which may share its weights) keeps a matrix `[N, K]` in blocks of
`block` weights along K, each with a float32 scale and a zero point:

    weight = (code - zero) * scale        code and zero are whole numbers from 0 to 2**bits - 1

Codes are bytes `[N, blocks, block * bits / 8]`, zeros `[N, ceil(blocks * bits / 8)]`; of two 4-bit numbers in a byte
the first is the lower one. The builder decides which products are rounded, and to how many bits; here other numbers
are put in their places, which lie at fixed offsets in `model.onnx.data`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.stage.errors import ModelError

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Names of the builder's products to the modules of transformers that they join, their rows one after the other."""


@dataclass(frozen=True)
class _Place:
    """Place of a tensor's bytes."""

    file: Path
    offset: int
    length: int

    def read(self, dtype: str) -> Any:
        import numpy as np

        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            return np.frombuffer(stream.read(self.length), dtype=dtype)

    def write(self, array: Any) -> None:
        data = array.tobytes()
        if len(data) != self.length:
            raise ModelError(f"{self.file}: a tensor of {len(data)} bytes does not fit where {self.length} were")
        with self.file.open("r+b") as stream:
            stream.seek(self.offset)
            stream.write(data)


@dataclass(frozen=True)
class Product:
    """One rounded matrix."""

    name: str
    """Name that the builder gives it: `model.layers.0.attn.qkv_proj`, `lm_head`."""
    bits: int
    """Bits of each stored code."""
    block: int
    """Number of weights in a row that share a scale."""
    rows: int
    """Rows of the matrix."""
    columns: int
    """Columns of the matrix, without padding."""
    _codes: _Place
    _scales: _Place
    _zeros: _Place | None

    @property
    def blocks(self) -> int:
        """Number of blocks in a row; the last one may be padded."""
        return -(-self.columns // self.block)

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle of the range, and none is stored."""
        return self._zeros is None

    def modules(self) -> list[str]:
        """Return the names of transformers' modules whose weights these are, row after row."""
        head, _, last = self.name.replace(".attn.", ".self_attn.").rpartition(".")
        return [f"{head}.{module}" if head else module for module in FUSED.get(last, (last,))]

    def read(self) -> tuple[Any, Any, Any]:
        """Return codes uint8 `[rows, blocks, block]`, scales float32 and zeros uint8 `[rows, blocks]`."""
        import numpy as np

        shape = (self.rows, self.blocks)
        codes = _unpack(self._codes.read("uint8").reshape(-1, self.block * self.bits // 8), self.bits)
        scales = self._scales.read("<f4").reshape(shape)
        if self._zeros is None:
            zeros = np.full(shape, 2 ** (self.bits - 1), np.uint8)
        else:
            zeros = _unpack(self._zeros.read("uint8").reshape(self.rows, -1), self.bits)[:, : self.blocks]
        return codes.reshape(*shape, self.block), scales, zeros

    def write_parts(self, parts: Sequence[tuple[Any, Any, Any]]) -> None:
        """Overwrite the numbers: for each of `modules()`, codes, scales and zeros as `read` returns them."""
        import numpy as np

        codes, scales, zeros = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        self.write(codes, scales, zeros)

    def write(self, codes: Any, scales: Any, zeros: Any) -> None:
        """Overwrite the numbers; arguments as `read` returns them."""
        self._codes.write(_pack(codes, self.bits))
        self._scales.write(scales.astype("<f4"))
        if self._zeros is not None:
            self._zeros.write(_pack(zeros, self.bits))


def products(folder: Path) -> list[Product]:
    """Return the rounded matrices of an ONNX Runtime GenAI folder, in the order of the graph.

    Raises:
        ModelError: a graph that stores them in another way than the builder does.
    """
    import onnx

    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    places = {tensor.name: _place(folder, tensor) for tensor in graph.initializer if tensor.external_data}
    matrices = []
    for node in graph.node:
        if node.op_type != "MatMulNBits":
            continue
        numbers = {a.name: a.i for a in node.attribute}
        inputs = [name for name in node.input[1:4] if name]
        if missing := [name for name in inputs if name not in places]:
            raise ModelError(
                f"{folder}: {', '.join(missing)} of {node.name} is not in model.onnx.data; export it again"
            )
        matrices.append(
            Product(
                name=node.name.strip("/").rpartition("/")[0].replace("/", "."),
                bits=numbers["bits"],
                block=numbers["block_size"],
                rows=numbers["N"],
                columns=numbers["K"],
                _codes=places[inputs[0]],
                _scales=places[inputs[1]],
                _zeros=places[inputs[2]] if len(inputs) > 2 else None,
            )
        )
    return matrices


def decoder_products(folder: Path, model: Any) -> list[Product]:
    """Return the rounded matrices of a model's decoder layers: not the head.

    Args:
        folder: an ONNX Runtime GenAI folder.
        model: the transformers model that it was made from.

    Raises:
        ModelError: none are rounded, or the folder's are not the model's.
    """
    import torch

    weights = {name: m.weight for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    in_layers = [product for product in products(folder) if "layers" in product.name]
    for product in in_layers:
        matrices = [weights[name] for name in product.modules() if name in weights]
        shape = (sum(map(len, matrices)), matrices[0].shape[1]) if matrices else None
        if len(matrices) != len(product.modules()) or shape != (product.rows, product.columns):
            raise ModelError(
                f"{folder}: {product.name} is no matrix of {type(model).__name__} that GPTQ can find; set `gptq: null`"
            )
    if not in_layers:
        raise ModelError(f"{folder}: no weights of the decoder are rounded, so that GPTQ has none; set `gptq: null`")
    return in_layers


def _place(folder: Path, tensor: Any) -> _Place:
    where = {entry.key: entry.value for entry in tensor.external_data}
    return _Place(folder / where["location"], int(where.get("offset", 0)), int(where["length"]))


def _unpack(packed: Any, bits: int) -> Any:
    """Read numbers of `bits` bits out of bytes, along the last axis."""
    import numpy as np

    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _pack(numbers: Any, bits: int) -> Any:
    """Write numbers as `_unpack` reads them; an odd last axis is filled up with a zero."""
    import numpy as np

    numbers = np.ascontiguousarray(numbers, dtype=np.uint8)
    if bits == 8:
        return numbers
    if numbers.shape[-1] % 2:
        numbers = np.concatenate([numbers, np.zeros_like(numbers[..., :1])], axis=-1)
    return numbers[..., ::2] | (numbers[..., 1::2] << 4)
