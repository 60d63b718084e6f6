"""The time of each layer in float and in int8, in one runtime, and of passing between the two. Part of a report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.layer_report import LayerPrecision, Reported


class LayerTime(Reported):
    """One layer, or several that the runtime computes as one."""

    layer: str = Field(description="Of several the one with the most multiply-accumulates.")
    together: list[str] = Field(
        default=[], description="The others that the runtime computes with it, in float or in int8; `fused` is more."
    )
    precision: LayerPrecision = Field(description="Of the layer in the int8 model.")
    float_ms: float
    int8_ms: float
    ratio: float | None = Field(description="float_ms / int8_ms: above 1 it got faster; null where int8 takes no time.")
    share: float = Field(description="Of the time of all operators of the int8 model, 0..1.")
    noise_ms: float | None = Field(
        description="How far the difference of the two lay apart each time the files were opened; null for once."
    )
    changed: Literal["faster", "slower", "same"] = Field(description="`same` within the noise, or 5 %.")


class BoundaryTime(Reported):
    """An operator of the int8 model that computes nothing: its tensor passes into another type or layout."""

    kind: Literal["quantize", "dequantize", "reorder"]
    producer: str = Field(description="The layers whose tensor it is, `input`, or `weights`.")
    consumer: str = Field(description="The layers that read it, or `output`.")
    ms: float


class OtherTime(Reported):
    """All other operators of one type."""

    op: str = Field(description="What the runtime calls it.")
    float_ms: float
    int8_ms: float


class LayerTimes(Reported):
    """An artifact, operator by operator, beside the float model in the same runtime."""

    float_candidate: str = Field(description="As in `latency`, such as `float_onnxruntime`.")
    int8_candidate: str
    batch_size: int
    threads: int
    cores: list[int] = Field(description="Which all threads were pinned to.")
    openings: int = Field(description="How often both files were opened anew; times are medians over these.")
    runs: int = Field(description="Of each file each time, in a row, after those to warm up.")
    layers: list[LayerTime] = Field(description="In the graph's order.")
    boundaries: list[BoundaryTime] = Field(description="In the order in which they run, those of one place as one.")
    others: list[OtherTime] = Field(description="What gives tensors another shape, and what is of no layer.")
    float_ms: float = Field(description="All operators of the float model, one after another.")
    int8_ms: float
    float_p50_ms: float = Field(description="Undisturbed, from `latency`: what timing operators takes is not in it.")
    int8_p50_ms: float
    subtracted_ms: float = Field(
        description="From each operator: what timing it took, where that shows in all of them exceeding the p50s."
    )
    boundaries_ms: float = Field(description="All boundaries of the int8 model together.")
    float_reorders_ms: float = Field(description="What reordering tensors takes in the float model.")
    conclusion: str = Field(description="What got faster, what got slower, what the boundaries cost.")
    method: str = Field(description="How operators were timed, and what that disturbs.")
