"""What every layer did: qparams, errors, sensitivity, quant boundaries, graphs, histograms. Part of a job's report.

Layers carry the names of the user's modules; a layer stands for what FX fuses with it (batch norm, ReLU …). Every SQNR
is in dB; null where two tensors are equal or nothing was measured, as each field says.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LayerPrecision = Literal["int8", "float32", "float16"]


class Reported(BaseModel):
    """A part of the report."""

    # `float` is the field's word for the unquantized side, and a Python type: hence the aliases float/int8 on the wire.
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class ChannelSpread(Reported):
    """How the channels of a per-channel tensor differ."""

    axis: int
    count: int
    scale_min: float
    scale_median: float
    scale_max: float
    dead: list[int] = Field(default=[], description="Channels that are all zero; the first 32.")
    constant: list[int] = Field(default=[], description="Channels with one value only; the first 32.")


class Clipping(Reported):
    """Values outside of the quantized range, counted on the evaluation data."""

    rate: float = Field(description="Share of all values, 0..1.")
    below: float = Field(description="Share below the range: they saturate at quant_min.")
    above: float = Field(description="Share above the range: they saturate at quant_max.")


class Qparams(Reported):
    """How one tensor is mapped to integers: `real = (q − zero_point) × scale`."""

    role: Literal["weight", "input", "output"]
    tensor: str = Field(description="`weight`, `output`, or the name of the node that an input comes from.")
    dtype: Literal["quint8", "qint8", "float16"]
    qscheme: str
    observer: str | None = Field(default=None, description="What found the range; null for a fixed range.")
    quant_min: int
    quant_max: int
    min: float | None = Field(description="Least value seen; null when nothing was.")
    max: float | None = Field(description="Greatest value seen.")
    scale: float | None = Field(description="Median over channels when per-channel; null when it is not finite.")
    zero_point: int = Field(description="Of the first channel when per-channel.")
    channels: ChannelSpread | None = None
    stretch: float | None = Field(
        default=None, description="Width of the range seen / width of the range that holds 99.9 % of the values."
    )
    clipping: Clipping | None = None
    flags: list[
        Literal[
            "scale_zero", "scale_not_finite", "nothing_seen", "outliers", "dead_channels", "constant_channels", "clips"
        ]
    ] = []


class LayerError(Reported):
    """Float against int8 at a layer's output, on the same inputs."""

    own_sqnr_db: float | None = Field(description="Error made in the layer: int8 arithmetic on float inputs.")
    arriving_sqnr_db: float | None = Field(description="Error arriving at its inputs, the worst of them.")
    sqnr_db: float | None = Field(description="Both together: at its output, in the int8 model.")
    cosine: float
    mse: float


class LayerSummary(Reported):
    """What became of one layer or operator."""

    name: str
    op: str
    precision: LayerPrecision
    weight_bytes: int
    reason: str | None = Field(default=None, description="Why it was left in float.")
    fused: list[str] = Field(default=[], description="The layers that run as one with it.")
    macs: int = Field(default=0, description="Multiply-accumulates for one sample.")
    qparams: list[Qparams] = []
    error: LayerError | None = None


class FirstWrong(Reported):
    """Where the int8 model first goes wrong, in the graph's order."""

    layer: str = Field(description="Its output is under 20 dB, a noise of 10 %, and what arrives at it is not.")
    told: str = Field(description="The same in one sentence, with its errors.")


class LayerSensitivity(Reported):
    """What one layer costs the output: alone in int8, and alone in float."""

    layer: str
    alone_int8_sqnr_db: float | None = Field(description="Of the output, with only this layer in int8.")
    alone_float_sqnr_db: float | None = Field(description="Of the output, with all int8 layers but this one.")
    gain_db: float = Field(description="What the output gains when this layer stays in float.")
    alone_int8_metric: float | None = None
    alone_float_metric: float | None = None


class Sensitivity(Reported):
    """Layers ranked by what they cost the output, the costliest first; measured by simulating int8 in float."""

    samples: int
    base_sqnr_db: float | None = Field(description="Of the output, all int8 layers together.")
    base_metric: float | None = None
    budget_seconds: float
    seconds: float
    layers: list[LayerSensitivity]
    not_reached: list[str] = Field(description="Layers that the time budget did not reach, the most telling first.")


class QuantBoundary(Reported):
    """A place where a tensor passes between int8 and float."""

    producer: str
    consumer: str
    direction: Literal["quantize", "dequantize"]
    elements: int = Field(description="Of the tensor, for one sample.")
    cost_ms: float | None = Field(description="Median at batch 1; null when it was not measured.")
    removed_by: dict[str, Any] | None = Field(default=None, description="A spec patch that would remove it.")


class Fusion(Reported):
    """Layers that run as one kernel, or could and do not."""

    layers: list[str]
    pattern: str = Field(description="Such as `Conv2d + BatchNorm2d + ReLU`.")
    fused: bool
    reason: str | None = Field(default=None, description="Why not.")


class GraphNode(Reported):
    """A node of the FX graph: one line of `print_tabular`."""

    name: str
    op: str
    target: str
    args: str
    inputs: list[str] = []
    layer: str | None = None
    precision: Literal["int8", "float32", "float16", "boundary", "other"]
    shape: list[int | None] | None = None


class Graphs(Reported):
    """The FX graph before and after."""

    float_nodes: list[GraphNode] = Field(alias="float")
    int8_nodes: list[GraphNode] = Field(alias="int8")


class Histogram(Reported):
    """How the values of one tensor are spread, with the range that int8 holds."""

    layer: str
    role: Literal["weight", "output"]
    low: float
    high: float
    counts: list[int]
    range_min: float
    range_max: float
