"""Twenty small networks, one a family: the shapes of code that users upload, small enough for a CPU's seconds.

Each is seeded and trained for a few steps on a synthetic task, so its weights and batch-norm statistics are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

CLASSES = 10


# --- convolutional ---------------------------------------------------------------------------------------------------


def plain_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding="same"), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, CLASSES),
    )  # fmt: skip


class Residual(nn.Module):
    """One ReLU module used everywhere, in place, and `out += identity`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        identity = x
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += identity
        return self.fc(self.relu(out).mean((2, 3)))


class Depthwise(nn.Module):
    """Like MobileNet: depthwise convolutions, ReLU6 and hard-swish, an inverted residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(inplace=True))
        self.block = nn.Sequential(
            nn.Conv2d(16, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU6(inplace=True),
            nn.Conv2d(48, 48, 3, 1, 1, groups=48, bias=False), nn.BatchNorm2d(48), nn.ReLU6(inplace=True),
            nn.Conv2d(48, 16, 1, bias=False), nn.BatchNorm2d(16),
        )  # fmt: skip
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SqueezeExcite(nn.Module):
    """Like EfficientNet: SiLU, and a sigmoid gate over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.SiLU(inplace=True))
        self.reduce = nn.Conv2d(24, 6, 1)
        self.expand = nn.Conv2d(6, 24, 1)
        self.project = nn.Sequential(nn.Conv2d(24, 32, 1, bias=False), nn.BatchNorm2d(32), nn.SiLU(inplace=True))
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.expand(F.silu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))
        return self.fc(self.project(x * gate).mean([2, 3]))


class Dense(nn.Module):
    """Like DenseNet: batch norm before ReLU before convolution, and concatenation of everything so far."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16 + 8 * i), nn.ReLU(), nn.Conv2d(16 + 8 * i, 8, 3, padding=1))
            for i in range(3)
        )
        self.norm = nn.BatchNorm2d(40)
        self.fc = nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.fc(F.relu(self.norm(torch.cat(features, 1))).mean((2, 3)))


class ChannelShuffle(nn.Module):
    """Like ShuffleNet: half of the channels pass by, then channels are shuffled by view and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16),
            nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        kept, worked = x.chunk(2, dim=1)
        x = torch.cat((kept, self.branch(worked)), dim=1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return self.fc(x.view(batch, channels, height, width).mean((2, 3)))


class GroupedAndDilated(nn.Module):
    """Grouped, dilated and strided convolutions with leaky activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=2, dilation=2)
        self.grouped = nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=4)
        self.tall = nn.Conv2d(32, 32, (3, 1), padding=(1, 0))
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.stem(x), 0.1)
        x = F.avg_pool2d(F.elu(self.grouped(x)), 2)
        return self.fc(torch.relu(self.tall(x)).amax((2, 3)))


class Audio(nn.Module):
    """Conv1d over a waveform."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(4, 16, 5, stride=2, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        )  # fmt: skip
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x))


class EncoderDecoder(nn.Module):
    """Like U-Net: down, up by transposed convolution and by interpolation, a skip connection; an image comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.bottom = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.out = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        x = torch.cat([self.up(self.bottom(skip)), skip], 1)
        return F.interpolate(self.out(x), scale_factor=2.0, mode="nearest")


class Volume(nn.Module):
    """Conv3d over a short film."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.conv2 = nn.Conv3d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return self.fc(F.relu(self.conv2(x)).mean((2, 3, 4)))


# --- attention -------------------------------------------------------------------------------------------------------


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.narrow(F.gelu(self.widen(y)))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Patches, depthwise 7x7, channels-last layer norm, GELU, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, stride=4)
        self.blocks = nn.Sequential(ConvNeXtBlock(24), ConvNeXtBlock(24))
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x)).mean((-2, -1))))


class VisionTransformer(nn.Module):
    """A class token, position embeddings, and `nn.TransformerEncoderLayer` with `nn.MultiheadAttention` in it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.positions = nn.Parameter(torch.randn(1, 17, 32) * 0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, 0.1, "gelu", batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class Bert(nn.Module):
    """`transformers`' BERT from a config: token ids and an attention mask in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(  # type: ignore[call-arg] # the library's own types
            vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            max_position_embeddings=64, num_labels=CLASSES, initializer_range=0.2,
        )  # fmt: skip
        self.bert = BertForSequenceClassification(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).logits


# --- recurrent and plain ---------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Embedding, two recurrent layers in both directions, and a classifier on the last step."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU | nn.RNN]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.rnn = kind(16, 32, 2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(64, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        steps, _ = self.rnn(self.embedding(tokens))
        return self.fc(steps[:, -1])


class Cells(nn.Module):
    """An encoder unrolled by hand: a cell of each kind, one after the other, over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.lstm, self.gru, self.rnn = nn.LSTMCell(16, 32), nn.GRUCell(32, 32), nn.RNNCell(32, 32, bias=False)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        steps = self.embedding(tokens)
        state: Any = None
        second = third = None
        for step in range(4):
            state = self.lstm(steps[:, step], state)
            second = self.gru(state[0], second)
            third = self.rnn(second, third)
        return self.fc(third)


class Bags(nn.Module):
    """A recommender: sums and means of table rows, padded, beside a few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.EmbeddingBag(100, 16, mode="mean", padding_idx=0)
        self.words = nn.EmbeddingBag(100, 16, mode="sum")
        self.body = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(torch.cat([self.items(tokens[:, :4]), self.words(tokens[:, 4:])], 1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, CLASSES)
    )


class TwoInputs(nn.Module):
    """An image and a table row, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2)
        self.table = nn.Linear(6, 16)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        seen = F.relu(self.conv(image)).mean((2, 3))
        return self.fc(torch.cat([seen, torch.tanh(self.table(row))], 1))


class TwoOutputs(nn.Module):
    """A dictionary with logits and a box."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
        self.classes = nn.Linear(16, CLASSES)
        self.box = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(x).mean((2, 3))
        return {"logits": self.classes(x), "box": torch.sigmoid(self.box(x))}


class TiedWeights(nn.Module):
    """An embedding that is also the output layer's weight, and one Linear called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.mix = nn.Linear(32, 32)
        self.out = nn.Linear(32, 40, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = torch.relu(self.mix(x))
        x = torch.relu(self.mix(x)) + x
        return self.out(x.mean(1))


class ReusedConvolution(nn.Module):
    """One convolution called twice, each time with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.norm2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.norm1(self.conv(x)))
        x = F.relu(self.norm2(self.conv(x)))
        return self.fc(x.mean((2, 3)))


# --- the zoo ---------------------------------------------------------------------------------------------------------

MakeInputs = Callable[[int, torch.Generator], tuple[Tensor, ...]]


def images(batch: int, generator: torch.Generator, size: int = 16) -> tuple[Tensor, ...]:
    """Smooth noise, as photographs are smoother than white noise: (batch, 3, size, size)."""
    coarse = torch.randn(batch, 3, size // 4, size // 4, generator=generator)
    fine = torch.randn(batch, 3, size, size, generator=generator)
    return (F.interpolate(coarse, size=(size, size), mode="bilinear") + 0.3 * fine,)


def tokens(batch: int, generator: torch.Generator, vocabulary: int = 40, length: int = 12) -> tuple[Tensor, ...]:
    return (torch.randint(0, vocabulary, (batch, length), generator=generator),)


def _ids_and_mask(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    lengths = torch.randint(4, 17, (batch, 1), generator=generator)
    return (*tokens(batch, generator, 200, 16), (torch.arange(16)[None] < lengths).long())


def _normal(*shape: int) -> MakeInputs:
    return lambda batch, generator: (torch.randn(batch, *shape, generator=generator),)


def _image_and_row(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (*images(batch, generator), torch.randn(batch, 6, generator=generator))


@dataclass(frozen=True)
class Family:
    """A family of networks: how to build one, what goes in, and the SQNR in dB below which a method has regressed."""

    name: str
    build: Callable[[], nn.Module]
    make_inputs: MakeInputs
    floor_db: dict[str, float]


def trained(family: Family, steps: int = 30) -> nn.Module:
    """The family's network after a few steps of training on labels that its inputs decide; in evaluation mode."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    module = family.build().train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(steps):
        inputs = family.make_inputs(32, generator)
        loss = _loss(module(*inputs), inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


def _loss(outputs: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    signal = inputs[0].float().flatten(1)
    main = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
    if main.dim() == 4:
        return F.mse_loss(main, F.interpolate(inputs[0], size=main.shape[-2:]))
    projection = torch.randn(signal.shape[1], main.shape[1], generator=torch.Generator().manual_seed(2))
    return F.cross_entropy(main, (signal @ projection).argmax(1))


FAMILIES = [
    Family("plain_cnn", plain_cnn, images, {"dynamic": 42, "static": 43, "qat": 18}),
    Family("residual_shared_relu", Residual, images, {"dynamic": 43, "static": 42, "qat": 28}),
    Family("depthwise_relu6_hardswish", Depthwise, images, {"dynamic": 38, "static": 36, "qat": 26}),
    Family("squeeze_excite_silu", SqueezeExcite, images, {"dynamic": 43, "static": 39, "qat": 27}),
    Family("dense_concatenation", Dense, images, {"dynamic": 42, "static": 40, "qat": 30}),
    Family("channel_shuffle", ChannelShuffle, images, {"dynamic": 38, "static": 40, "qat": 28}),
    Family("grouped_dilated", GroupedAndDilated, images, {"static": 39, "qat": 34}),
    Family("conv1d_audio", Audio, _normal(4, 64), {"static": 40, "qat": 31}),
    Family("encoder_decoder", EncoderDecoder, images, {"static": 33, "qat": 34}),
    Family("conv3d_volume", Volume, _normal(1, 6, 8, 8), {"static": 51, "qat": 35}),
    Family("convnext", ConvNeXt, images, {"dynamic": 39, "static": 35, "qat": 33}),
    Family("vision_transformer", VisionTransformer, images, {"dynamic": 36, "static": 33, "qat": 22}),
    Family("bert", Bert, _ids_and_mask, {"dynamic": 39, "static": 40, "qat": 19}),
    Family("lstm", lambda: Recurrent(nn.LSTM), tokens, {"dynamic": 49, "static": 44}),
    Family("gru", lambda: Recurrent(nn.GRU), tokens, {"dynamic": 51, "static": 44}),
    Family("rnn", lambda: Recurrent(nn.RNN), tokens, {"dynamic": 52, "static": 44}),
    Family("cells", Cells, tokens, {"dynamic": 49, "static": 44}),
    Family("bags", Bags, tokens, {"dynamic": 36, "static": 33, "qat": 27}),
    Family("mlp", mlp, _normal(32), {"dynamic": 33, "static": 31, "qat": 28}),
    Family("two_inputs", TwoInputs, _image_and_row, {"dynamic": 38, "static": 33, "qat": 30}),
    Family("two_outputs", TwoOutputs, images, {"dynamic": 41, "static": 34, "qat": 30}),
    Family("tied_weights", TiedWeights, tokens, {"dynamic": 38, "static": 44, "qat": 35}),
    Family("reused_convolution", ReusedConvolution, images, {"static": 43, "qat": 32}),
]
