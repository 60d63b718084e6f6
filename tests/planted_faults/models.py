"""Networks with one fault each, built so that nothing else is wrong with them: what breaks, where, and what cures it.

Most stand with the default spec: it is the network or its data that is unlucky. The others have a spec that a user
might have written, and that turned off what would have helped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

CLASSES = 10
CALIBRATION_ID = "dst_000000000000ca11b"
EVALUATION_ID = "dst_0000000000000e7a1"
TOKENS, WIDTH = 6, 32


@dataclass(frozen=True)
class Fault:
    """A broken job: a network, its data, and the rest of its spec."""

    network: nn.Module
    calibration: Tensor
    evaluation: Tensor
    code: str  #: of the first warning
    layers: tuple[str, ...]  #: any of these may be blamed
    cure: dict[str, Any]  #: a patch that is known to help: the fault is one of quantization, not of the network
    gain_db: float  #: what the report's own patch gains at least, in the SQNR of the worst output
    spec: dict[str, Any] = field(default_factory=dict)  #: empty: the default


FAULTS: dict[str, Callable[[], Fault]] = {}


def planted(build: Callable[[], Fault]) -> Callable[[], Fault]:
    """Enter a fault into the list under its function's name, built with a seed of its own."""

    def seeded() -> Fault:
        torch.manual_seed(0)
        return build()

    FAULTS[build.__name__] = seeded
    return seeded


def speak_up(network: nn.Module) -> None:
    """Weights that keep the size of what they are given, and small biases: outputs are made of inputs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.05)


def train(network: nn.Module, x: Tensor) -> None:
    """Teach a network which colour is brightest: decisions with a margin, as those of real networks."""
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for batch in x.repeat(8, 1, 1, 1).split(64):
        optimizer.zero_grad()
        F.cross_entropy(network(batch), batch.mean((2, 3)).argmax(1)).backward()
        optimizer.step()


class Cnn(nn.Module):
    """Two convolutions and a classifier: (N, 3, 12, 12) to (N, 10)."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 9, CLASSES)
        self.activation = activation
        speak_up(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.second(self.activation(self.first(x))))
        return self.head(F.max_pool2d(x, 4).flatten(1))


def images(count: int, size: int = 12) -> Tensor:
    """Smooth noise, of which each sample has a brightness and a contrast of its own: (count, 3, size, size)."""
    coarse = F.interpolate(torch.randn(count, 3, size // 3, size // 3), size=(size, size), mode="bilinear")
    contrast = torch.rand(count, 1, 1, 1) + 0.5
    return contrast * (coarse + 0.2 * torch.randn(count, 3, size, size)) + 0.5 * torch.randn(count, 3, 1, 1)


def coloured(count: int) -> Tensor:
    """Images of which one colour is the brightest by far."""
    colour = F.one_hot(torch.randint(0, 3, (count,)), 3)[:, :, None, None]
    return images(count) + 2 * colour


def stretch_channel(writer: nn.Conv2d, reader: nn.Conv2d, channel: int, factor: float) -> None:
    """Make a channel larger and its reader's weights smaller by as much."""
    with torch.no_grad():
        writer.weight[channel] *= factor
        if writer.bias is not None:
            writer.bias[channel] *= factor
        reader.weight[:, channel] /= factor


# --- outliers and ranges ---------------------------------------------------------------------------------------------


@planted
def outlier_channel_before_relu() -> Fault:
    """One channel is a hundred times as large as the others, and equalization was turned off."""
    network = Cnn()
    stretch_channel(network.first, network.second, 3, 100)
    return Fault(
        network, images(256), images(256),
        "outlier_channel", ("first",),
        spec={"recovery": {"cross_layer_equalization": False}},
        cure={"recovery": {"cross_layer_equalization": True}}, gain_db=8,
    )  # fmt: skip


@planted
def outlier_channel_before_silu() -> Fault:
    """Likewise, but across SiLU nothing can be equalized: all that touches the tensor must stay in float."""
    network = Cnn(F.silu)
    stretch_channel(network.first, network.second, 3, 100)
    floats = [{"layer": layer, "precision": "float32"} for layer in ("first", "silu", "second")]
    return Fault(
        network, images(256), images(256), "outlier_channel", ("first", "silu"), cure={"overrides": floats}, gain_db=8
    )


class Block(nn.Module):
    """An MLP behind a layer norm, as transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.widen = nn.Linear(WIDTH, 2 * WIDTH)
        self.narrow = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + 2 * self.narrow(F.gelu(self.widen(self.norm(x))))
        return self.head(x.mean(1))


@planted
def outlier_channel_behind_layer_norm() -> Fault:
    """Two channels of a layer norm are 80 times as large as the others, and SmoothQuant was turned off."""
    network = Block()
    with torch.no_grad():
        for channel in (2, 9):
            network.norm.weight[channel] *= 80
            network.widen.weight[:, channel] /= 80
    return Fault(
        network, torch.randn(256, TOKENS, WIDTH), torch.randn(256, TOKENS, WIDTH),
        "outlier_channel", ("norm", "widen"),
        spec={"recovery": {"smooth_quant": False}},
        cure={"recovery": {"smooth_quant": True}}, gain_db=8,
    )  # fmt: skip


@planted
def range_stretched_by_glitches() -> Fault:
    """One pixel in each of two calibration samples is 200, and the observer that was asked for keeps all it saw."""
    calibration = images(256)
    calibration[7, 0, 3, 3] = 200.0
    calibration[90, 2, 8, 1] = -200.0
    return Fault(
        Cnn(), calibration, images(256),
        "outliers_stretch", ("x", "first"),
        spec={"activation": {"observer": "minmax"}},
        cure={"activation": {"observer": "percentile"}}, gain_db=6,
    )  # fmt: skip


@planted
def range_cut_off() -> Fault:
    """An override lets one layer keep 60 % of its values."""
    cut = {"layer": "second", "activation": {"observer": "percentile", "percentile": 60}}
    return Fault(
        Cnn(), images(256), images(256),
        "range_clips", ("second",),
        spec={"overrides": [cut]},
        cure={"overrides": [{"layer": "second", "activation": {"observer": "minmax"}}]}, gain_db=6,
    )  # fmt: skip


@planted
def calibration_too_narrow() -> Fault:
    """The calibration data is four times as faint as what the model will see."""
    return Fault(
        Cnn(), 0.25 * images(256), images(256),
        "calibration_too_narrow", ("x", "first"),
        cure={"calibration": EVALUATION_ID}, gain_db=8,
    )  # fmt: skip


class Classifier(nn.Module):
    """A hidden layer and a head; across SiLU nothing is equalized, so the hidden range is as it was built."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.body(x)))


@planted
def saturating_head() -> Fault:
    """The samples with the great logits are missing from calibration; every tensor before the head has its range."""
    network = Classifier()
    with torch.no_grad():
        network.body.weight.copy_(torch.eye(WIDTH) + 0.1 * torch.randn(WIDTH, WIDTH))
        network.head.weight[:, 7] += 2 * torch.randn(CLASSES).sign()
    calibration, evaluation = torch.rand(256, WIDTH) * 4, torch.rand(256, WIDTH) * 4
    calibration[:, 7] *= 0.1
    return Fault(
        network, calibration, evaluation,
        "saturating_head", ("head",),
        cure={"overrides": [{"layer": "head", "precision": "float32"}]}, gain_db=6,
    )  # fmt: skip


# --- nothing to see --------------------------------------------------------------------------------------------------


class DeadBranch(nn.Module):
    """A residual branch whose ReLU never opens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.dead = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 9, CLASSES)
        speak_up(self)
        with torch.no_grad():
            assert self.dead.bias is not None
            self.dead.bias -= 50

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + F.relu(self.dead(x))
        return self.head(F.max_pool2d(x, 4).flatten(1))


@planted
def dead_relu() -> Fault:
    """A ReLU gives zero for all data: a fact about the network, which no spec changes and int8 does not mind."""
    network = DeadBranch()
    train(network, coloured(512))
    return Fault(network, coloured(256), coloured(256), "dead_layer", ("dead",), cure={}, gain_db=0)


class RareBranch(nn.Module):
    """A branch that opens when feature 31 is above 2; the layer norm keeps all but Linears in float."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.branch = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            self.branch.weight.zero_()
            self.branch.weight[:, -1] = 4 * torch.rand(WIDTH)
            self.branch.bias.copy_(-2 * self.branch.weight[:, -1])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(x) + F.relu(self.branch(x))))


@planted
def unseen_branch() -> Fault:
    """No calibration sample opens the branch, half of the evaluation's do; the inputs have the same range."""
    calibration, evaluation = torch.randn(256, WIDTH), torch.randn(256, WIDTH)
    calibration[:, -1].clamp_(max=2)
    evaluation[:128, -1] = 2 + torch.rand(128)
    return Fault(
        RareBranch(), calibration, evaluation,
        "unseen_branch", ("branch",),
        cure={"overrides": [{"layer": "branch", "precision": "float32"}]}, gain_db=8,
    )  # fmt: skip


class Tiny(nn.Module):
    """A Linear that works in billionths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.tiny = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            self.tiny.weight *= 1e-9
            self.tiny.bias *= 1e-9

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.embed(x))
        return self.head(self.norm(self.tiny(x) * 1e9 + x))


@planted
def zero_scale() -> Fault:
    """Values below the least scale there is: a 127th of 1e-9 is taken for the float32 epsilon, and all becomes zero."""
    return Fault(
        Tiny(), torch.randn(256, WIDTH), torch.randn(256, WIDTH),
        "zero_scale", ("tiny",),
        cure={"overrides": [{"layer": "tiny", "precision": "float32"}]}, gain_db=10,
    )  # fmt: skip


# --- layers that int8 does not suit ----------------------------------------------------------------------------------


class ManyMagnitudes(nn.Module):
    """A Linear whose outputs are 3000 times as large for some samples as for others, before they are normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.wide = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        magnitude = torch.exp(4 * torch.tanh(x[:, :1]))
        return self.head(self.norm(self.wide(self.embed(x) * magnitude)))


@planted
def magnitudes_by_sample() -> Fault:
    """One scale for all samples rounds the faint ones to nothing."""
    return Fault(
        ManyMagnitudes(), torch.randn(256, WIDTH), torch.randn(256, WIDTH),
        "sensitive_layer", ("wide",),
        cure={"overrides": [{"layer": "wide", "precision": "float32"}]}, gain_db=8,
    )  # fmt: skip


class TwoReaders(nn.Module):
    """A convolution that is returned as well as normalized, so batch norm cannot be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 9, CLASSES)
        speak_up(self)
        with torch.no_grad():
            assert self.conv.bias is not None
            self.conv.weight *= 0.1
            self.conv.bias += 50
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            self.norm.running_mean.fill_(50)
            self.norm.running_var.fill_(0.04)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv(x)
        x = F.relu(self.second(F.relu(self.norm(features))))
        return self.head(F.max_pool2d(x, 4).flatten(1)), features


@planted
def unfused_pair() -> Fault:
    """Between convolution and batch norm all values lie around 50: int8 keeps little of what batch norm amplifies."""
    floats = [{"layer": layer, "precision": "float32"} for layer in ("conv", "norm")]
    return Fault(
        TwoReaders(), images(256), images(256), "unfused", ("conv", "norm"), cure={"overrides": floats}, gain_db=6
    )


# --- specs that a user might have written ----------------------------------------------------------------------------


@planted
def needless_float_island() -> Fault:
    """A convolution that int8 suits was kept in float: two quant boundaries for nothing."""
    convolutions = [nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(4)]
    layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
    network = nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(16 * 9, CLASSES))
    speak_up(network)
    train(network, coloured(512))
    return Fault(
        network, coloured(256), coloured(256),
        "float_island", ("4",),
        spec={"overrides": [{"layer": "4", "precision": "float32"}]},
        cure={"overrides": [{"layer": "4", "precision": "int8"}]}, gain_db=-10,
    )  # fmt: skip


@planted
def one_scale_for_all_weights() -> Fault:
    """One filter has great weights for a colour that no image has: a scale of its own would hurt that filter alone."""
    network = Cnn(F.silu)
    with torch.no_grad():
        network.first.weight[5, 2] = 30
    calibration, evaluation = images(256), images(256)
    for data in (calibration, evaluation):
        data[:, 2] = 0
    return Fault(
        network, calibration, evaluation,
        "weights_per_tensor", ("first",),
        spec={"weight": {"observer": "minmax"}},
        cure={"weight": {"observer": "per_channel_minmax"}}, gain_db=6,
    )  # fmt: skip


@planted
def symmetric_activations() -> Fault:
    """Half of the steps stand for negative values that no ReLU gives, layer upon layer; the head gives them."""
    layers = [layer for _ in range(5) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
    speak_up(network)
    return Fault(
        network, torch.rand(256, WIDTH), torch.rand(256, WIDTH),
        "symmetric_activation", ("0", "2", "4", "6", "8"),
        spec={"activation": {"qscheme": "per_tensor_symmetric"}},
        cure={"activation": {"qscheme": "per_tensor_affine"}}, gain_db=2,
    )  # fmt: skip


@planted
def few_levels() -> Fault:
    """Activations of four bits everywhere; the first layer's, whose noise all others pass on, cost the output most."""
    return Fault(
        Cnn(), images(256), images(256),
        "few_levels", ("first",),
        spec={"activation": {"quant_max": 15}},
        cure={"activation": {"quant_max": None}}, gain_db=8,
    )  # fmt: skip


class Offsets(nn.Module):
    """A Linear whose inputs lie around 5 and whose small weights all round to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.middle = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            self.embed.weight *= 0.5
            self.embed.bias += 5
            step = 0.001
            self.middle.weight.fill_(0.45 * step)
            self.middle.weight.fill_diagonal_(127 * step)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.middle(F.relu(self.embed(x)))))


@planted
def biased_rounding() -> Fault:
    """What rounding takes from each weight adds up to a shift of the output, and bias correction was turned off."""
    return Fault(
        Offsets(), torch.randn(256, WIDTH), torch.randn(256, WIDTH),
        "bias_shift", ("middle",),
        spec={"recovery": {"bias_correction": False}},
        cure={"recovery": {"bias_correction": True}}, gain_db=6,
    )  # fmt: skip
