"""What every layer did: qparams, errors, sensitivity, quant boundaries, graphs, histograms. Part of a report.

Words are plain strings and unknown fields are kept: a newer server must not break an older client.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Reported(BaseModel):
    """A part of the report."""

    # `float` is the field's word for the unquantized side, and a Python type: hence the aliases float/int8 on the wire.
    model_config = ConfigDict(extra="allow", populate_by_name=True, serialize_by_alias=True, protected_namespaces=())


class ChannelSpread(Reported):
    """How the channels of a per-channel tensor differ."""

    axis: int
    count: int
    scale_min: float
    scale_median: float
    scale_max: float
    dead: list[int] = []
    constant: list[int] = []


class Clipping(Reported):
    """Shares of the values outside of the quantized range, on the evaluation data."""

    rate: float
    below: float
    above: float


class Qparams(Reported):
    """How one tensor is mapped to integers: `real = (q − zero_point) × scale`."""

    role: str = Field(description="`weight`, `input` or `output`.")
    tensor: str
    dtype: str
    qscheme: str
    observer: str | None = None
    quant_min: int
    quant_max: int
    min: float | None = None
    max: float | None = None
    scale: float | None = None
    zero_point: int
    channels: ChannelSpread | None = None
    stretch: float | None = Field(
        default=None, description="Width of the range seen / width of the range that holds 99.9 % of the values."
    )
    clipping: Clipping | None = None
    flags: list[str] = []


class LayerError(Reported):
    """Float against int8 at a layer's output, on the same inputs."""

    own_sqnr_db: float | None = Field(default=None, description="Error made in the layer.")
    arriving_sqnr_db: float | None = Field(default=None, description="Error arriving at its inputs, the worst of them.")
    sqnr_db: float | None = Field(default=None, description="Both together, in the int8 model.")
    cosine: float
    mse: float


class LayerSummary(Reported):
    """What became of one layer or operator."""

    name: str
    op: str
    precision: str = Field(description="`int8`, `float32` or `float16`.")
    weight_bytes: int
    reason: str | None = Field(default=None, description="Why it was left in float.")
    fused: list[str] = []
    macs: int = Field(default=0, description="Multiply-accumulates for one sample.")
    qparams: list[Qparams] = []
    error: LayerError | None = None


class FirstWrong(Reported):
    """Where the int8 model first goes wrong, in the graph's order."""

    layer: str
    told: str = Field(description="In one sentence.")


class LayerSensitivity(Reported):
    """What one layer costs the output: alone in int8, and alone in float."""

    layer: str
    alone_int8_sqnr_db: float | None = None
    alone_float_sqnr_db: float | None = None
    gain_db: float
    alone_int8_metric: float | None = None
    alone_float_metric: float | None = None


class Sensitivity(Reported):
    """Layers ranked by what they cost the output, the costliest first."""

    samples: int
    base_sqnr_db: float | None = None
    base_metric: float | None = None
    budget_seconds: float
    seconds: float
    layers: list[LayerSensitivity]
    not_reached: list[str]


class QuantBoundary(Reported):
    """A place where a tensor passes between int8 and float."""

    producer: str
    consumer: str
    direction: str = Field(description="`quantize` or `dequantize`.")
    elements: int
    cost_ms: float | None = None
    removed_by: dict[str, Any] | None = None


class Fusion(Reported):
    """Layers that run as one kernel, or could and do not."""

    layers: list[str]
    pattern: str
    fused: bool
    reason: str | None = None


class GraphNode(Reported):
    """A node of the FX graph."""

    name: str
    op: str
    target: str
    args: str
    inputs: list[str] = []
    layer: str | None = None
    precision: str
    shape: list[int | None] | None = None


class Graphs(Reported):
    """The FX graph before and after."""

    float_nodes: list[GraphNode] = Field(alias="float")
    int8_nodes: list[GraphNode] = Field(alias="int8")


class Histogram(Reported):
    """How the values of one tensor are spread, with the range that int8 holds."""

    layer: str
    role: str
    low: float
    high: float
    counts: list[int]
    range_min: float
    range_max: float
