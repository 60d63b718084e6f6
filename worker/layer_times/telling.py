"""The time of layers in words: how it was taken, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.layer_times import LayerTime
from shared.quantization_spec import Runtime
from worker.candidate_names import RUNTIME_NAMES
from worker.layer_times.attributing import Attributed

METHODS: Mapping[Runtime, str] = {
    "torch": "By moments that the frozen graph itself notes between its operators. Noting one takes about a "
    "microsecond, which is measured and subtracted; what lies between operators counts with the next of them.",
    "onnxruntime": "By ONNX Runtime's profiler, which rounds every operator down to whole microseconds, and adds one "
    "or two to each: by so much all of them exceed the undisturbed p50s of both models, and that is subtracted.",
    "openvino": "By OpenVINO's performance counters: means over all runs, in which every run of an operator is rounded "
    "down to whole microseconds. What takes less than one is told as nothing.",
}


def compared(found: Attributed, float_p50_ms: float, int8_p50_ms: float) -> str:
    """All operators together beside the undisturbed runs."""
    return (
        f"All operators together take {_ms(found.float_ms)} in float and {_ms(found.int8_ms)} in int8; undisturbed the "
        f"whole took {_ms(float_p50_ms)} and {_ms(int8_p50_ms)}."
    )


def conclusion(runtime: Runtime, found: Attributed) -> str:
    """What got faster, what got slower, and what passing between int8 and float costs."""
    faster = _told([each for each in found.layers if each.changed == "faster"], "less")
    slower = _told([each for each in found.layers if each.changed == "slower"], "more")
    changes = " and ".join(filter(None, (faster, slower)))
    first = f"In {RUNTIME_NAMES[runtime]} int8 takes {changes}" if changes else "No layer changed beyond the noise"
    if not found.boundaries:
        return f"{first}; nothing passes between int8 and float in an operator of its own."
    places = len(found.boundaries)
    share = f", {100 * found.boundaries_ms / found.int8_ms:.0f} % of its time" if found.int8_ms else ""
    return (
        f"{first}; quantizing, dequantizing and reordering costs {_ms(found.boundaries_ms)} at "
        f"{places} place{'' if places == 1 else 's'}{share}."
    )


def _told(layers: Sequence[LayerTime], word: str) -> str | None:
    if not layers:
        return None
    most = max(layers, key=lambda each: abs(each.int8_ms - each.float_ms))
    total = sum(abs(each.int8_ms - each.float_ms) for each in layers)
    where = "in" if len(layers) == 1 else f"in {len(layers)} layers, most in"
    return f"{_ms(total)} {word} {where} {most.layer} ({_ms(most.float_ms)} in float, {_ms(most.int8_ms)} in int8)"


def _ms(value: float) -> str:
    return f"{value:.3g} ms"
