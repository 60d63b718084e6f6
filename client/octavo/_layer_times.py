"""The time of each layer in float and in int8, in one runtime, and of passing between the two."""

from __future__ import annotations

from pydantic import Field

from octavo._layer_report import Reported


class LayerTime(Reported):
    """One layer, or several that the runtime computes as one."""

    layer: str
    together: list[str] = Field(default=[], description="The others that the runtime computes with it.")
    precision: str
    float_ms: float
    int8_ms: float
    ratio: float | None = Field(default=None, description="float_ms / int8_ms: above 1 it got faster.")
    share: float = Field(description="Of the time of all operators of the int8 model.")
    noise_ms: float | None = None
    changed: str = Field(description="`faster`, `slower` or `same`, which is within the noise.")


class BoundaryTime(Reported):
    """An operator of the int8 model that computes nothing: its tensor passes into another type or layout."""

    kind: str = Field(description="`quantize`, `dequantize` or `reorder`.")
    producer: str
    consumer: str
    ms: float


class OtherTime(Reported):
    """All other operators of one type."""

    op: str
    float_ms: float
    int8_ms: float


class LayerTimes(Reported):
    """An artifact, operator by operator, beside the float model in the same runtime."""

    float_candidate: str
    int8_candidate: str
    batch_size: int
    threads: int
    cores: list[int] = Field(default=[])
    openings: int
    runs: int
    layers: list[LayerTime]
    boundaries: list[BoundaryTime] = Field(default=[])
    others: list[OtherTime] = Field(default=[])
    float_ms: float
    int8_ms: float
    float_p50_ms: float
    int8_p50_ms: float
    subtracted_ms: float = 0.0
    boundaries_ms: float
    float_reorders_ms: float
    conclusion: str
    method: str
