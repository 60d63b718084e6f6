"""Fourteen families of networks at the sizes that people run: what peers.py is measured with.

    .tools/peers-venv/bin/python benchmarks/peers_networks.py [FAMILY ...]

The definitions are torchvision's and transformers', images are 224 × 224 and sequences 128 tokens long. Each network is
trained for a minute or two on scikit-learn's digits, most of it on small images: of no use, but it tells one input from
another, which a deep network of random numbers hardly does. Without that not only is a decibel of its outputs worth
nothing: of a model that is far from float the recipe leaves layers in float, and its speed would be such a model's.
quality.py has networks really trained, at sizes that are too small to time. Kept below `.tools/peers/` as a job's
inputs are: model.pt2, calibration.npz, evaluation.npz.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from trained_networks import (
    CLASSES,
    TRAINING_SAMPLES,
    BertConfig,
    BertForSequenceClassification,
    digits,
    models,
)
from transformers import ViTConfig, ViTForImageClassification  # torchvision must be imported first

NETWORKS = Path(__file__).parent.parent / ".tools" / "peers"
IMAGE_SIZE = 224
TOKENS = 128
CALIBRATION_SAMPLES, EVALUATION_SAMPLES = 64, 256
_BATCH = 8
_WARMING = 64  # samples
_NOISE = 0.1
_SHADES = 10
_GENTLE = 3e-5  # with large steps they unlearn at once
_FROM_NOTHING = 3e-4  # transformers of which few steps must make something
_WARM_UP = 30  # steps; without them those give the same answer to everything

_Course = tuple[tuple[int, int, int], ...]
#: Size, steps and samples a step: small images cost little, and then the network is used to large ones.
_GROWING: _Course = ((64, 400, 16), (IMAGE_SIZE, 16, 8))
#: Those that are cheap a step and know little after so few.
_GROWING_LONG: _Course = ((64, 1200, 16), (IMAGE_SIZE, 32, 8))
#: From nothing a ViT learns of large images nothing at all in the same time.
_GROWING_SLOWLY: _Course = ((64, 300, 32), (96, 200, 16), (128, 200, 16), (176, 80, 8), (IMAGE_SIZE, 60, 8))
_READING: _Course = ((TOKENS // 2, 200, 16), (TOKENS, 50, 8))


class Reader(nn.Module):
    """BERT of the size of MiniLM: logits for token ids of shape (batch, 128)."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.bert = BertForSequenceClassification(
            BertConfig(  # type: ignore[call-arg] # the library's own types
                vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
                max_position_embeddings=TOKENS, num_labels=num_classes,
            )
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits; every token counts."""
        logits: Tensor = self.bert(x).logits
        return logits


class Viewer(nn.Module):
    """ViT-Tiny with patches of 16: logits for images of any size, between whose patches the positions are stretched."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.vit = ViTForImageClassification(
            ViTConfig(  # type: ignore[call-arg] # the library's own types
                hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768,
                image_size=IMAGE_SIZE, patch_size=16, num_labels=num_classes,
            )
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.vit(x, interpolate_pos_encoding=x.shape[-1] != IMAGE_SIZE).logits
        return logits


def images(samples: Tensor, size: int = IMAGE_SIZE) -> Tensor:
    """Digits as large as photographs, with a little noise: filters for fine detail see something."""
    large = functional.interpolate(samples, size=size, mode="bilinear", align_corners=False)
    return large + _NOISE * torch.randn(large.shape, generator=torch.Generator().manual_seed(len(samples)))


def tokens(samples: Tensor, count: int = TOKENS) -> Tensor:
    """Digits as text: every pixel of 8 rows is a word, of its place and its shade."""
    shades = functional.interpolate(samples[:, :1], size=(8, count // 8), mode="bilinear", align_corners=False)
    shade = (_SHADES / 2 + _SHADES / 4 * shades).round().clamp(0, _SHADES - 1).long().flatten(1)
    return torch.arange(count) * (TOKENS // count) * _SHADES + shade


@dataclass(frozen=True)
class Family:
    """How a family is made, what it reads and how it learns."""

    make: Callable[..., nn.Module]
    inputs: Callable[..., Tensor] = images
    learning_rate: float = 1e-3
    course: _Course = _GROWING
    classes: int = 1000
    """The digits are the first ten: as much of a network is its head as in those that people run."""


FAMILIES = {
    "resnet18": Family(models.resnet18),
    "resnet50": Family(models.resnet50),
    "mobilenet_v2": Family(models.mobilenet_v2),
    "mobilenet_v3_large": Family(models.mobilenet_v3_large),
    "efficientnet_b0": Family(models.efficientnet_b0),
    "regnet_y_400mf": Family(models.regnet_y_400mf),
    "densenet121": Family(models.densenet121),
    "googlenet": Family(partial(models.googlenet, aux_logits=False, init_weights=False)),
    "shufflenet_v2": Family(models.shufflenet_v2_x1_0, course=_GROWING_LONG),
    "squeezenet": Family(models.squeezenet1_1, learning_rate=3e-4, course=_GROWING_LONG),
    "convnext_tiny": Family(models.convnext_tiny, learning_rate=_GENTLE),
    "vit_tiny": Family(Viewer, learning_rate=5e-4, course=_GROWING_SLOWLY),
    "swin_tiny": Family(models.swin_t, learning_rate=_GENTLE),
    "bert": Family(Reader, tokens, _FROM_NOTHING, _READING, CLASSES),
}


def train(network: nn.Module, family: Family, x: Tensor, y: Tensor) -> None:
    """Some steps of Adam, the first ones small; then batch norms take mean statistics at the size that is timed."""
    optimizer = torch.optim.AdamW(network.parameters(), family.learning_rate)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / _WARM_UP, total_iters=_WARM_UP)
    network.train()
    for size, steps, batch in family.course:
        for chosen in torch.randint(len(x), (steps, batch)):
            optimizer.zero_grad()
            functional.cross_entropy(network(family.inputs(x[chosen], size)), y[chosen]).backward()
            optimizer.step()
            warm_up.step()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over all batches
    with torch.no_grad():
        for some in x[:_WARMING].split(_BATCH):
            network(family.inputs(some))
    network.eval()


def make(name: str, folder: Path) -> None:
    """Train a family and write model.pt2, calibration.npz and evaluation.npz into the folder."""
    family = FAMILIES[name]
    x, y = digits(32)
    torch.manual_seed(0)
    network = family.make(num_classes=family.classes)
    started_at = time.perf_counter()
    train(network, family, x[:TRAINING_SAMPLES], y[:TRAINING_SAMPLES])
    held_out = TRAINING_SAMPLES + CALIBRATION_SAMPLES
    calibration = family.inputs(x[TRAINING_SAMPLES:held_out])
    evaluation = family.inputs(x[held_out : held_out + EVALUATION_SAMPLES])
    with torch.inference_mode():
        found = torch.cat([network(batch).argmax(1) for batch in evaluation.split(_BATCH)])
    top1 = float((found == y[held_out : held_out + EVALUATION_SAMPLES]).double().mean())
    print(f"{name:20} {time.perf_counter() - started_at:6.0f} s   top-1 {top1:.3f}", flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "calibration.npz", x=calibration.numpy())
    np.savez(folder / "evaluation.npz", x=evaluation.numpy())
    dynamic_batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(network, (calibration[:2],), dynamic_shapes=dynamic_batch)
    torch.export.save(program, folder / "model.pt2")


def main() -> None:
    """Make the families that are named and not made yet; all of them when none is named."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or FAMILIES:
        if not (NETWORKS / name / "model.pt2").exists():
            make(name, NETWORKS / name)


if __name__ == "__main__":
    main()
