"""Fourteen families of networks, trained on handwritten digits: what quality.py quantizes.

    .tools/peers-venv/bin/python benchmarks/trained_networks.py [FAMILY ...]

The data is scikit-learn's 1797 images of 8 × 8, enlarged; it ships with the library and nothing is downloaded. The
definitions are torchvision's and transformers', at their own width where that trains in a minute or two on one core and
narrower where it does not. Every network is kept below `.tools/trained/` as a job's inputs are: model.pt2,
calibration.npz, evaluation.npz.
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
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

try:
    from torchvision import models
except RuntimeError:
    # torchvision's wheel for CUDA cannot load its own kernels beside torch for the CPU, and declaring how their
    # outputs are shaped then fails. No network here calls them: two empty declarations are enough.
    _operators = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from transformers import BertConfig, BertForSequenceClassification  # it imports torchvision too

TRAINED = Path(__file__).parent.parent / ".tools" / "trained"
TRAINING_SAMPLES = 1041
CALIBRATION_SAMPLES = 256  # the other 500 are held out
CLASSES = 10


class RowReader(nn.Module):
    """BERT that reads an image as a sequence of rows, each projected to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(  # type: ignore[call-arg] # the library's own types
            vocab_size=1, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
            max_position_embeddings=16, type_vocab_size=1, num_labels=CLASSES,
        )  # fmt: skip
        self.rows = nn.Linear(3 * 16, config.hidden_size)
        self.bert = BertForSequenceClassification(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits for images of shape (batch, 3, 16, 16)."""
        rows = x.transpose(1, 2).flatten(2)
        logits: torch.Tensor = self.bert(inputs_embeds=self.rows(rows)).logits
        return logits


class _Mixing(nn.Module):
    """One layer of an MLP-Mixer: across the patches, then across the channels (Tolstikhin et al. 2021, figure 1)."""

    def __init__(self, patches: int, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.tokens = nn.Sequential(nn.Linear(patches, channels), nn.GELU(), nn.Linear(channels, patches))
        self.norm2 = nn.LayerNorm(channels)
        self.channels = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        mixed: torch.Tensor = x + self.channels(self.norm2(x))
        return mixed


class Mixer(nn.Module):
    """MLP-Mixer on patches of 4 × 4 pixels of images of 32 × 32."""

    def __init__(self, *, channels: int = 96, layers: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 4, stride=4)
        self.layers = nn.Sequential(*(_Mixing(64, channels) for _ in range(layers)))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits for images of shape (batch, 3, 32, 32)."""
        x = self.layers(self.stem(x).flatten(2).transpose(1, 2))
        logits: torch.Tensor = self.head(self.norm(x).mean(1))
        return logits


@dataclass(frozen=True)
class Family:
    """How a family is made and trained."""

    make: Callable[[], nn.Module]
    image_size: int
    epochs: int
    learning_rate: float = 1e-3


def _convnext() -> nn.Module:
    widths = ((48, 96, 2), (96, 192, 2), (192, 384, 4), (384, None, 2))
    settings = [CNBlockConfig(*each) for each in widths]
    return models.ConvNeXt(settings, stochastic_depth_prob=0.0, layer_scale=1e-1, num_classes=CLASSES)


def _googlenet() -> nn.Module:
    return models.googlenet(num_classes=CLASSES, aux_logits=False, init_weights=False)


def _swin() -> nn.Module:
    return models.SwinTransformer(
        [4, 4], embed_dim=64, depths=[2, 4], num_heads=[2, 4], window_size=[4, 4], stochastic_depth_prob=0.0,
        num_classes=CLASSES,
    )  # fmt: skip


def _vit() -> nn.Module:
    return models.VisionTransformer(32, 8, 6, 4, 128, 512, num_classes=CLASSES)


FAMILIES = {
    "mobilenet_v2": Family(partial(models.mobilenet_v2, num_classes=CLASSES), 64, 7, 2e-3),
    "vit": Family(_vit, 32, 25, 2e-3),
    "efficientnet_b0": Family(partial(models.efficientnet_b0, num_classes=CLASSES), 64, 7, 2e-3),
    "resnet18": Family(partial(models.resnet18, num_classes=CLASSES), 32, 5),
    "convnext": Family(_convnext, 64, 8),
    "mobilenet_v3_small": Family(partial(models.mobilenet_v3_small, num_classes=CLASSES), 64, 12, 2e-3),
    "swin": Family(_swin, 32, 20, 2e-3),
    "regnet_y_400mf": Family(partial(models.regnet_y_400mf, num_classes=CLASSES), 64, 6),
    "googlenet": Family(_googlenet, 64, 5),
    "densenet121": Family(partial(models.densenet121, num_classes=CLASSES), 32, 6),
    "shufflenet_v2": Family(partial(models.shufflenet_v2_x1_0, num_classes=CLASSES), 64, 10, 2e-3),
    "squeezenet": Family(partial(models.squeezenet1_1, num_classes=CLASSES), 64, 12, 5e-4),
    "bert": Family(RowReader, 16, 20),
    "mixer": Family(Mixer, 32, 8, 2e-3),
}


def digits(image_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All samples in a fixed random order, images of about zero mean and unit variance; and labels."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    targets = torch.from_numpy(labels[order]).long()
    small = torch.from_numpy(pixels[order]).float().reshape(-1, 1, 8, 8)
    images = functional.interpolate(small, size=image_size, mode="bilinear", align_corners=False)
    return ((images - 4.9) / 6.0).expand(-1, 3, -1, -1).contiguous(), targets


def train(network: nn.Module, family: Family, x: torch.Tensor, y: torch.Tensor) -> None:
    """Adam with one cycle of the learning rate; batch statistics settle within the few batches there are."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # mobilenet_v3's 0.01 is meant for 300 epochs
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    batches = len(x) // 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, family.learning_rate, epochs=family.epochs, steps_per_epoch=batches, pct_start=0.2
    )
    network.train()
    for _ in range(family.epochs):
        for batch in torch.randperm(len(x))[: 32 * batches].split(32):
            optimizer.zero_grad()
            functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def make(name: str, folder: Path) -> None:
    """Train a family and write model.pt2, calibration.npz and evaluation.npz into the folder."""
    family = FAMILIES[name]
    x, y = digits(family.image_size)
    torch.manual_seed(0)
    network = family.make()
    started_at = time.perf_counter()
    train(network, family, x[:TRAINING_SAMPLES], y[:TRAINING_SAMPLES])
    held_out = TRAINING_SAMPLES + CALIBRATION_SAMPLES
    with torch.inference_mode():
        found = torch.cat([network(batch).argmax(1) for batch in x[held_out:].split(100)])
    top1 = float((found == y[held_out:]).double().mean())
    print(f"{name:20} {time.perf_counter() - started_at:6.0f} s   top-1 {top1:.3f}", flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "calibration.npz", x=x[TRAINING_SAMPLES:held_out].numpy())
    np.savez(folder / "evaluation.npz", x=x[held_out:].numpy(), labels=y[held_out:].numpy())
    dynamic_batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(network, (x[:2],), dynamic_shapes=dynamic_batch)
    torch.export.save(program, folder / "model.pt2")


def main() -> None:
    """Make the families that are named and not made yet; all of them when none is named."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or FAMILIES:
        if not (TRAINED / name / "model.pt2").exists():
            make(name, TRAINED / name)


if __name__ == "__main__":
    main()
