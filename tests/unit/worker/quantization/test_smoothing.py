"""SmoothQuant: outlying channels move into the weights, the function stays, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.unit.worker.quantization.test_planning import raised
from tests.unit.worker.quantization.transforms import assert_same, static_sqnr_db
from tests.zoo.models import FAMILIES
from worker.quantization.smoothing import channel_maxima, smooth

WIDTH = 16


def smoothed_and_compared(module: fx.GraphModule, *inputs: Tensor, alpha: float = 0.5) -> tuple[str, ...]:
    """The names of what was smoothed, after the outputs were compared, with outliers in every layer norm."""
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.LayerNorm):
                norm.weight[3] = 40.0
        wanted = module(*inputs)
        smoothed = smooth(module, channel_maxima(module, [inputs]), alpha)
        assert_same(smoothed.module(*inputs), wanted)
        assert_same(module(*inputs), wanted)
    return smoothed.layers


class HandMadeRms(nn.Module):
    """RMSNorm as many write it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Normed(nn.Module):
    """A normalization and what reads it."""

    def __init__(self, read: Callable[[nn.ModuleList, Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = norm or nn.LayerNorm(WIDTH)
        self.readers = nn.ModuleList(nn.Linear(WIDTH, 8) for _ in range(3))
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.readers, self.norm(x))


SMOOTHED = {
    "one Linear": lambda r, x: r[0](x),
    "three Linears": lambda r, x: r[0](x) + r[1](x) * r[2](x),
    "the first token": lambda r, x: r[0](x[:, 0]),
    "tokens as a batch": lambda r, x: r[0](x.reshape(-1, WIDTH)),
    "windows": lambda r, x: r[0](torch.roll(x, 1, 1).view(-1, 3, 2, WIDTH).permute(0, 2, 1, 3)),
    "the mean of the tokens": lambda r, x: r[0](x.mean(1)),
    "every second Linear": lambda r, x: r[0](x[:, :2]) + r[1](x[:, 2:4]),
}
LEFT_ALONE = {
    "a residual connection": lambda r, x: r[0](x).repeat(1, 1, 2) + x,
    "attention without weights": lambda r, x: r[0](F.scaled_dot_product_attention(x, x, x)),
    "an activation": lambda r, x: r[0](F.gelu(x)),
    "half of the channels": lambda r, x: r[0](torch.cat([x[..., :8], x[..., :8]], -1)),
    "channels by head": lambda r, x: r[0](x.view(-1, 6, 2, 8).transpose(2, 3).flatten(2)),
    "nothing but the output": lambda r, x: x,
}


@pytest.mark.parametrize("case", SMOOTHED)
def test_a_layer_norm_is_smoothed_that_is_read_by(case: str) -> None:
    x = torch.randn(4, 6, WIDTH)
    assert smoothed_and_compared(raised(Normed(SMOOTHED[case]), x), x) == ("norm",)


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_a_layer_norm_is_left_alone_that_is_read_by(case: str) -> None:
    x = torch.randn(4, 6, WIDTH)
    assert smoothed_and_compared(raised(Normed(LEFT_ALONE[case]), x), x) == ()


@pytest.mark.parametrize(
    ("norm", "layers"),
    [
        (lambda: nn.LayerNorm(WIDTH, bias=False), ("norm",)),
        (lambda: nn.RMSNorm(WIDTH), ("norm.rms_norm",)),
        (HandMadeRms, ("norm.mul_1",)),
        (lambda: nn.LayerNorm(WIDTH, elementwise_affine=False), ()),
        (lambda: nn.LayerNorm((6, WIDTH)), ()),
    ],
)
def test_normalizations_with_a_weight_a_channel_are_smoothed(
    norm: Callable[[], nn.Module], layers: tuple[str, ...]
) -> None:
    x = torch.randn(4, 6, WIDTH)
    module = raised(Normed(SMOOTHED["three Linears"], norm()), x)
    with torch.no_grad():
        smoothed = smooth(module, channel_maxima(module, [(x,)]), 0.5)
        assert_same(smoothed.module(x), module(x))
    assert smoothed.layers == layers


def test_attention_reads_query_key_and_value_of_a_norm() -> None:
    """`nn.TransformerEncoderLayer` with its norms first: before attention and before the first Linear."""
    torch.manual_seed(0)
    network = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True, norm_first=True)
    x = torch.randn(4, 6, WIDTH)
    assert smoothed_and_compared(raised(network, x), x) == ("norm1", "norm2")


def test_norms_behind_residual_connections_are_left_alone() -> None:
    """Norms last: what attention reads is added to its result as well."""
    torch.manual_seed(0)
    x = torch.randn(4, 6, WIDTH)
    assert smoothed_and_compared(raised(nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True), x), x) == ()


ZOO = {
    "convnext": ("blocks.0.norm", "blocks.1.norm", "norm"),
    "vision_transformer": ("layers.0.norm1", "layers.0.norm2", "layers.1.norm1", "layers.1.norm2", "norm"),
    "bert": ("bert.bert.encoder.layer.1.output.LayerNorm",),
    "plain_cnn": (),
}


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_zoo_computes_what_it_computed(name: str, alpha: float) -> None:
    (family,) = (family for family in FAMILIES if family.name == name)
    inputs = family.make_inputs(4, torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    assert smoothed_and_compared(raised(family.build(), *inputs), *inputs, alpha=alpha) == ZOO[name]


class Swin(nn.Module):
    """`transformers`' Swin: two stages of a plain and a shifted block, and patch merging."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import SwinConfig, SwinForImageClassification

        config = SwinConfig(  # type: ignore[call-arg] # the library's own types
            image_size=24, patch_size=2, embed_dim=WIDTH, depths=[2, 2], num_heads=[2, 2], window_size=4, num_labels=4
        )
        self.swin = SwinForImageClassification(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.swin(pixel_values=x).logits


def test_shifted_windows_are_followed() -> None:
    """Swin's norms are read through padding, rolling and partition into windows, and by patch merging."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 24, 24)
    layers = smoothed_and_compared(raised(Swin(), x), x)
    blocks = [f"swin.swin.encoder.layers.{stage}.blocks.{block}" for stage in range(2) for block in range(2)]
    assert set(layers) == {
        *(f"{block}.layernorm_{place}" for block in blocks for place in ("before", "after")),
        "swin.swin.encoder.layers.0.downsample.norm",
        "swin.swin.layernorm",
    }


def test_tied_parameters_are_left_alone() -> None:
    """One Linear that reads two norms, and one norm that is called twice, have no scale of their own."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
            self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.linears[0](self.norms[0](x)) + self.linears[0](self.norms[1](x))
            x = self.linears[1](self.norms[2](x)) + self.linears[2](self.norms[2](x + 1))
            return self.linears[3](self.norms[3](x))

    x = torch.randn(4, WIDTH)
    assert smoothed_and_compared(raised(Tied(), x), x) == ("norms.3",)


def test_maxima_grow_over_batches_and_the_formula_is_the_papers() -> None:
    x = torch.randn(12, 6, WIDTH)
    module = raised(Normed(SMOOTHED["three Linears"]), x)
    maxima = channel_maxima(module, ((batch,) for batch in x.split(5)))
    with torch.no_grad():
        normed = module.get_submodule("norm")(x)
    assert torch.equal(maxima["norm"], normed.abs().amax((0, 1)))
    weights = torch.stack([module.get_parameter(f"readers.{i}.weight").detach().abs().amax(0) for i in range(3)])
    scales = maxima["norm"] ** 0.7 / weights.amax(0) ** 0.3
    smoothed = smooth(module, maxima, 0.7).module
    torch.testing.assert_close(
        smoothed.get_parameter("norm.weight"), module.get_parameter("norm.weight") / scales, rtol=1e-6, atol=0
    )
    torch.testing.assert_close(
        smoothed.get_parameter("readers.1.weight"), module.get_parameter("readers.1.weight") * scales, rtol=1e-6, atol=0
    )


def test_channels_that_say_nothing_keep_their_scale() -> None:
    x = torch.randn(4, 6, WIDTH)
    module = raised(Normed(SMOOTHED["one Linear"]), x)
    with torch.no_grad():
        module.get_parameter("norm.weight")[2] = 0.0
        module.get_parameter("norm.bias")[2] = 0.0
        module.get_parameter("readers.0.weight")[:, 5] = 0.0
        maxima = channel_maxima(module, [(x,)])
        maxima["norm"][7] = torch.nan
        smoothed = smooth(module, maxima, 0.5).module
        assert_same(smoothed(x), module(x))
    for channel in (2, 5, 7):
        assert smoothed.get_parameter("norm.bias")[channel] == module.get_parameter("norm.bias")[channel]
        assert smoothed.get_parameter("norm.weight")[channel] == module.get_parameter("norm.weight")[channel]


def test_what_is_not_changed_is_shared_and_gradients_stay_as_asked() -> None:
    x = torch.randn(4, 6, WIDTH)
    network = Normed(SMOOTHED["one Linear"])
    network.norm.weight.requires_grad_(False)  # type: ignore[operator, union-attr]
    module = raised(network, x)
    smoothed = smooth(module, channel_maxima(module, [(x,)]), 0.5).module
    assert smoothed.get_parameter("readers.0.bias") is module.get_parameter("readers.0.bias")
    assert not smoothed.get_parameter("norm.weight").requires_grad
    assert smoothed.get_parameter("readers.0.weight").requires_grad


def test_int8_recovers_from_outlying_channels() -> None:
    """Two channels 80 times as large as the others, and weights as small: int8 keeps little of the others."""
    torch.manual_seed(0)
    x = torch.randn(64, 6, WIDTH)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(WIDTH)
            self.widen = nn.Linear(WIDTH, 32)
            self.narrow = nn.Linear(32, WIDTH)
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.narrow(F.gelu(self.widen(self.norm(x))))
            return self.head(x.mean(1))

    network = Block()
    balanced = static_sqnr_db(raised(network, x), x)
    with torch.no_grad():
        for channel in (2, 9):
            network.norm.weight[channel] *= 80
            network.widen.weight[:, channel] /= 80
    module = raised(network, x)
    smoothed = smooth(module, channel_maxima(module, ((batch,) for batch in x.split(16))), 0.5).module
    broken, recovered = static_sqnr_db(module, x), static_sqnr_db(smoothed, x)
    assert broken < balanced - 8
    assert recovered > balanced - 1
