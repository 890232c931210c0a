"""Encoders out of packages: the same network under other names, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import EfficientNetConfig, EfficientNetModel

from tasks.multimodal import encoders
from tasks.stage.errors import ConfigError, ModelError
from tests.support.pictures import PARAMS

EPSILON = 1e-3
SHAPE: dict[str, Any] = {
    "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "hidden_act": "relu6",
    "drop_connect_rate": 0.0, "kernel_sizes": [3, 5], "in_channels": [32, 16], "out_channels": [16, 24],
    "strides": [1, 2], "num_block_repeats": [1, 2], "expand_ratios": [1, 6],
}  # fmt: skip
BLOCKS = ((32, 16, 3, 1, 1), (16, 24, 5, 2, 6), (24, 24, 5, 1, 6))
"""Channels in and out, kernel, stride and expansion of each block of `SHAPE`."""


def lite_weights() -> dict[str, torch.Tensor]:
    """Random weights of a small EfficientNet-Lite, named as `efficientnet_lite_pytorch` names them."""
    rng = torch.Generator().manual_seed(1)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(*shape, generator=rng) / (shape[1] * shape[2] * shape[3]) ** 0.5

    def normalisation(name: str, width: int) -> None:
        for key in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{key}"] = torch.rand(width, generator=rng) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)

    convolution("_conv_stem", 32, 3, 3, 3)
    normalisation("_bn0", 32)
    for i, (narrow, out, kernel, _, expansion) in enumerate(BLOCKS):
        wide = narrow * expansion
        if expansion > 1:
            convolution(f"_blocks.{i}._expand_conv", wide, narrow, 1, 1)
            normalisation(f"_blocks.{i}._bn0", wide)
        convolution(f"_blocks.{i}._depthwise_conv", wide, 1, kernel, kernel)
        normalisation(f"_blocks.{i}._bn1", wide)
        convolution(f"_blocks.{i}._project_conv", out, wide, 1, 1)
        normalisation(f"_blocks.{i}._bn2", out)
    convolution("_conv_head", 1280, 24, 1, 1)
    normalisation("_bn1", 1280)
    state["_fc.weight"], state["_fc.bias"] = torch.randn(10, 1280, generator=rng), torch.zeros(10)
    return state


def lite_features(state: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """Compute the network as TensorFlow defines it: padded to `same`, the odd pixel on the right and below."""

    def layer(x: torch.Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1, active: bool = True) -> Any:
        kernel = state[f"{conv}.weight"].shape[-1]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = functional.pad(x, (total // 2, total - total // 2) * 2)
        x = functional.conv2d(x, state[f"{conv}.weight"], stride=stride, groups=groups)
        mean, variance, scale, shift = (
            state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        x = functional.batch_norm(x, mean, variance, scale, shift, eps=EPSILON)
        return functional.relu6(x) if active else x

    x = layer(pixels, "_conv_stem", "_bn0", stride=2)
    for i, (narrow, out, _, stride, expansion) in enumerate(BLOCKS):
        name, before = f"_blocks.{i}", x
        if expansion > 1:
            x = layer(x, f"{name}._expand_conv", f"{name}._bn0")
        x = layer(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, narrow * expansion)
        x = layer(x, f"{name}._project_conv", f"{name}._bn2", active=False)
        x = x + before if stride == 1 and narrow == out else x
    return layer(x, "_conv_head", "_bn1")


def tower(**changes: Any) -> Any:
    torch.manual_seed(2)
    return EfficientNetModel(EfficientNetConfig(**SHAPE | changes)).eval()


def written(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_efficientnet_lite_sees_the_same_under_the_names_of_transformers(tmp_path: Path) -> None:
    state = lite_weights()
    model = tower()
    encoders.load(model, written(tmp_path / "lite.pth", state), PARAMS)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found = model(pixels).last_hidden_state
    assert found.std() > 0.1
    torch.testing.assert_close(found, lite_features(state, pixels), atol=1e-5, rtol=1e-5)


def test_the_gates_stay_open_while_the_encoder_learns(tmp_path: Path) -> None:
    model = tower()
    encoders.load(model, written(tmp_path / "lite.pth", lite_weights()), PARAMS)
    model(torch.randn(2, 3, 32, 32)).last_hidden_state.sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if ".squeeze_excite." in name}
    assert len(gradients) == 4 * len(BLOCKS)
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def test_weights_in_the_names_of_transformers_are_taken_as_they_are(tmp_path: Path) -> None:
    source, model = tower(), tower()
    with torch.no_grad():
        for weight in source.parameters():
            weight.add_(1)
    encoders.load(model, written(tmp_path / "net.pth", source.state_dict()), PARAMS)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), source.parameters(), strict=True))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "lite.pth", lite_weights())
    with pytest.raises(ConfigError, match=r"pictures.yaml: the weights of lite.pth are not those of architecture"):
        encoders.load(tower(kernel_sizes=[3, 3]), path, PARAMS)


class Command:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


@pytest.mark.parametrize("content", [b"<html>", Command()])
def test_a_file_of_more_than_tensors_is_not_loaded(
    tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lite.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ModelError, match=r"lite.pth: no state dict"):
        encoders.load(tower(), path, PARAMS)
    assert "code ran" not in capsys.readouterr().out
