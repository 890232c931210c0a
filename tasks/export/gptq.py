"""GPTQ for the forms of an export: the weights of a decoder rounded so that its layers' outputs change least.

Frantar et al., arXiv:2210.17323: the columns of a weight matrix W [N, K] are rounded one after the other, and the
columns not yet rounded make up for each one's error. With H = sum of x x^T over the calibration tokens' inputs x, its
diagonal dampened, and U the upper Cholesky factor of its inverse, column j with the error

    e = (W_j - rounded(W_j)) / U_jj        changes the rest by        W_k -= e U_jk   for k > j     (eq. 2 and 3)

Each block of columns gets its scale and zero point when its turn comes, from the weights as they are by then: the pair
that among a few shrunk ranges errs least, weighted by H's diagonal, with the scale refitted by least squares. The
layers go in order, each with the outputs of the rounded ones before it as its inputs. `quantize` has llm-compressor's
GPTQ, for folders that transformers and vLLM load; here the grid is ONNX Runtime's, with float32 scales and zero points,
which its folders do not have.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from tasks.models.layers import decoder_layers
from tasks.stage.progress import Progress

SHRUNK = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8, 0.75, 0.7)
"""Shares of a block's range that are tried: a narrower range cuts off the largest weights and is finer for the rest."""
COLUMNS = 128
"""Columns whose errors reach the rest of the matrix at once; only the speed depends on it."""
Rounded = tuple[Any, Any, Any]
"""Codes uint8 `[N, blocks, block]`, scales float32 `[N, blocks]`, zeros uint8 `[N, blocks]`, as numpy arrays."""


class Grid(NamedTuple):
    """Grid that a matrix is rounded to."""

    bits: int
    """Bits of each stored code."""
    block: int
    """Number of columns that share a scale."""
    symmetric: bool
    """Whether the zero point is the middle of the range; else each block has its own."""


def grid(weights: Any, form: Grid, importance: Any) -> tuple[Any, Any]:
    """Search the scale and zero point of each block.

    Args:
        weights: float32 `[N, block]`.
        form: bits, and whether the zero point is fixed.
        importance: float32 `[block]`, of an error in each column.

    Returns:
        Scales and zeros, float32 `[N]`: weights are near `(code - zero) * scale` with codes from 0 to 2**bits - 1.
        Symmetric blocks have one level more below zero than above; a negative scale turns that to the longer side.
    """
    import torch

    top = 2**form.bits - 1
    low = weights.amin(-1).clamp(max=0)
    high = weights.amax(-1).clamp(min=0)
    best = torch.full_like(low, torch.inf)
    scales = torch.ones_like(low)
    zeros = torch.zeros_like(low)
    for share in SHRUNK:
        if form.symmetric:
            zero = torch.full_like(low, (top + 1) // 2)
            scale = torch.where(high > -low, -high, -low) * share / zero
            scale = torch.where(scale == 0, 1e-10, scale)
        else:
            scale = ((high - low) * share / top).clamp(min=1e-10)
            zero = (-low * share / scale).round().clamp(0, top)
        levels = _codes(weights, scale, zero, top) - zero[:, None]
        least_squares = (importance * weights * levels).sum(-1) / (importance * levels**2).sum(-1).clamp(min=1e-12)
        for candidate in (scale, torch.where(least_squares * scale > 0, least_squares, scale)):
            levels = _codes(weights, candidate, zero, top) - zero[:, None]
            error = (importance * (weights - levels * candidate[:, None]) ** 2).sum(-1)
            better = error < best
            best = torch.where(better, error, best)
            scales = torch.where(better, candidate, scales)
            zeros = torch.where(better, zero, zeros)
    return scales, zeros


def round_matrix(weights: Any, hessian: Any, form: Grid, damping: float) -> tuple[Rounded, Any]:
    """Round one matrix.

    Args:
        weights: float32 `[N, K]`.
        hessian: float32 `[K, K]`, the sum of x x^T over its inputs.
        form: bits and blocks of the codes; K is filled up with zeros to whole blocks.
        damping: addition to the diagonal, as a share of its mean.

    Returns:
        The codes, and the weights that they stand for, float32 `[N, K]`.
    """
    import torch

    count, width = weights.shape
    block = form.block
    top = 2**form.bits - 1
    padding = -width % block
    rest = torch.nn.functional.pad(weights, (0, padding)).clone()
    inner = torch.nn.functional.pad(hessian, (0, padding, 0, padding))
    idle = inner.diagonal() == 0  # columns whose inputs were always 0
    rest[:, idle] = 0
    inner.diagonal()[idle] = 1
    importance = inner.diagonal().clone()
    inner.diagonal().add_(damping * importance.mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(inner))
    upper = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.empty_like(rest)
    scales = rest.new_empty(count, rest.shape[1] // block)
    zeros = rest.new_empty(count, rest.shape[1] // block)
    chunk = max(COLUMNS, block)
    for start in range(0, rest.shape[1], chunk):
        stop = min(start + chunk, rest.shape[1])
        errors = rest.new_empty(count, stop - start)
        for j in range(start, stop):
            if j % block == 0:
                at = slice(j, j + block)
                scale, zero = grid(rest[:, at], form, importance[at])
                scales[:, j // block] = scale
                zeros[:, j // block] = zero
            codes[:, j] = _codes(rest[:, j : j + 1], scale, zero, top)[:, 0]
            error = (rest[:, j] - (codes[:, j] - zero) * scale) / upper[j, j]
            rest[:, j:stop] -= error[:, None] * upper[j, j:stop]
            errors[:, j - start] = error
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    blocked = codes.view(count, -1, block)
    rounded = ((blocked - zeros[..., None]) * scales[..., None]).flatten(1)[:, :width]
    return (blocked.numpy().astype("uint8"), scales.numpy(), zeros.numpy().astype("uint8")), rounded


def _codes(weights: Any, scale: Any, zero: Any, top: int) -> Any:
    """Return the code of each weight: the nearest of its row's levels."""
    return ((weights / scale[:, None]).round() + zero[:, None]).clamp(0, top)


def fit(
    model: Any, rows: Sequence[Sequence[int]], grids: Mapping[str, Grid], damping: float, progress: Progress
) -> dict[str, Rounded]:
    """Round the matrices of a model's decoder layers, in place, one layer after the other.

    Args:
        model: a causal language model in float32 on the CPU, its decoder a list of layers.
        rows: token ids of the calibration rows.
        grids: names of the modules to round, and how.
        damping: see `round_matrix`.
        progress: told of each layer.

    Returns:
        Name of each module to its numbers.

    Raises:
        ModelError: a decoder that is no list of layers.
    """
    import torch

    matrices: dict[str, Rounded] = {}
    names = {module: name for name, module in model.named_modules()}
    layers = decoder_layers(model)
    with torch.no_grad():
        inputs, arguments = _inputs(model, layers, rows)
        for number, layer in enumerate(layers):
            progress.update(number, len(layers), "rounding")
            modules = {names[module]: module for module in layer.modules() if names[module] in grids}
            hessians = _hessians(layer, modules, inputs, arguments[number])
            for name, module in modules.items():
                matrices[name], rounded = round_matrix(module.weight, hessians[name], grids[name], damping)
                module.weight.copy_(rounded)
            inputs = [_output(layer, x, others) for x, others in zip(inputs, arguments[number], strict=True)]
    return matrices


class _Reached(Exception):
    """The last layer's input is there; the head's work is not needed."""


def _inputs(model: Any, layers: Sequence[Any], rows: Sequence[Sequence[int]]) -> tuple[list[Any], list[list[Any]]]:
    """Record the first layer's inputs, and the other arguments of every layer, for each batch of rows of one length."""
    import torch

    first: list[Any] = []
    arguments: list[list[Any]] = [[] for _ in layers]

    def note(number: int, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        if number == 0:
            first.append(positional[0])
        arguments[number].append((positional[1:], named))
        if number == len(layers) - 1:
            raise _Reached

    hooks = [
        layer.register_forward_pre_hook(lambda _, args, named, number=i: note(number, args, named), with_kwargs=True)
        for i, layer in enumerate(layers)
    ]
    for batch in _batches(rows):
        with contextlib.suppress(_Reached):
            model(torch.tensor(batch), use_cache=False)
    for hook in hooks:
        hook.remove()
    return first, arguments


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Yield rows of one length together: padding would count as text."""
    for _, same in groupby(sorted(rows, key=len), key=len):
        yield list(same)


def _hessians(
    layer: Any, modules: Mapping[str, Any], inputs: Sequence[Any], arguments: Sequence[Any]
) -> dict[str, Any]:
    """Sum x x^T over the inputs of each module; modules with the same input tensor share one sum."""
    import torch

    totals = {name: torch.zeros(module.in_features, module.in_features) for name, module in modules.items()}
    last: dict[str, Any] = {"input": None}

    def add_input(name: str, x: Any) -> None:
        if x is last["input"]:
            totals[name] = totals[last["name"]]
            return
        last.update(input=x, name=name)
        flat = x.reshape(-1, x.shape[-1])
        totals[name].addmm_(flat.T, flat)

    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: add_input(name, args[0]))
        for name, module in modules.items()
    ]
    for x, others in zip(inputs, arguments, strict=True):
        _output(layer, x, others)
    for hook in hooks:
        hook.remove()
    return totals


def _output(layer: Any, x: Any, others: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """Run a layer on its input and other arguments, and return the hidden states; some layers return a tuple."""
    positional, named = others
    out = layer(x, *positional, **named)
    return out[0] if isinstance(out, tuple) else out
