"""How much memory a training step takes, by arithmetic alone: nothing is loaded and nothing is run.

What a parameter costs is counted as in "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"
(Rajbhandari et al., 2020, section 3.1): the weights, a gradient for each trained one, and the two moments of Adam.
PyTorch keeps gradients and moments in the data type of the parameter, so there is no second copy in 32 bits.

What a token costs is counted as in "Reducing Activation Recomputation in Large Transformer Models" (Korthikanti et
al., 2022, section 4): a multiple of the hidden size for each layer, without the matrix of attention scores, which
`scaled_dot_product_attention` does not keep; with checkpointing the input of each layer, and one layer in full while
it is computed anew. The multiple is `VALUES`, counted with `torch.autograd.graph.saved_tensors_hooks`: 19 to 27 for
Llama's layers, 30 to 35 for Qwen3's, whose heads are wider than the hidden size. The logits are added: in the model's
data type, and in 32 bits their logarithms and their gradient.

Left out: what the allocator wastes, kernels and buffers of the libraries, and what a batch of pictures or sounds
takes in its encoder. A step that needs more than three quarters of the memory there is may therefore fail.
"""

from typing import NamedTuple

SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8": 1, "int8": 1}
"""Bytes of a value, by the name of its data type."""
VALUES = 30
"""Values that a layer keeps for the backward pass, for each token and each unit of the hidden size."""
MOMENTS = 2
"""Values that Adam keeps for each trained parameter."""
LOGITS = 8
"""Bytes for each logit besides itself: the logarithm of its probability and its gradient, in 32 bits."""


class Bytes(NamedTuple):
    """Memory of one training step, in bytes."""

    weights: int
    """Of every copy of the model."""
    gradients: int
    optimizer: int
    """Adam's two moments."""
    activations: int
    """Of all layers and of the logits, at the largest batch."""
    total: int


def estimate(
    parameters: int,
    trained: int,
    layers: int,
    hidden: int,
    vocabulary: int,
    batch: int,
    length: int,
    dtype: str,
    checkpointing: bool,
    copies: int,
) -> Bytes:
    """Estimate the memory of one training step with Adam.

    Args:
        parameters: of the model, all of them.
        trained: those that get a gradient; with LoRA, the adapter's.
        layers: decoder layers.
        hidden: width of the residual stream.
        vocabulary: tokens that the model can give, the width of the logits.
        batch: sequences of one forward pass, both answers of a pair counted.
        length: tokens of the longest sequence.
        dtype: data type of the weights, a key of `SIZES`.
        checkpointing: whether activations are computed anew in the backward pass.
        copies: models in memory at once; 2 with a reference model.

    Returns:
        The parts and their sum.

    Raises:
        ValueError: a `dtype` that is not in `SIZES`.
    """
    if dtype not in SIZES:
        raise ValueError(f"dtype is '{dtype}'; take one of {', '.join(SIZES)}")
    size = SIZES[dtype]
    weights = parameters * size * copies
    gradients = trained * size
    optimizer = trained * size * MOMENTS
    kept = layers + VALUES if checkpointing else layers * VALUES
    activations = batch * length * (kept * hidden * size + vocabulary * (size + LOGITS))
    return Bytes(weights, gradients, optimizer, activations, weights + gradients + optimizer + activations)
