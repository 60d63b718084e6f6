"""Which kernels compute in int8: the qengine, and whether activations keep to 7 bits for it.

Measured: 7-bit activations cost 3 to 8 dB, and only `onednn` kernels on CPUs with VNNI do without them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from shared.errors import SpecInvalid
from shared.quantization_spec import QatSpec, StaticSpec, WeightSettings
from worker.quantization.int8_kernels import SYMMETRIC_ONLY, holds_per_channel


def has_vnni() -> bool:
    """Whether the CPU multiplies bytes without overflow: AVX512-VNNI or AVX-VNNI."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_vnni") or capabilities.get("avx_vnni"))


def choose_kernels(spec: StaticSpec | QatSpec) -> tuple[str, bool]:
    """The qengine and reduce_range: full range wherever kernels and CPU hold it."""
    supported = torch.backends.quantized.supported_engines
    vnni = has_vnni()
    affine = where_weights_are_affine(spec)
    qengine = spec.qengine
    if qengine == "auto":
        if "onednn" in supported and vnni and not affine:
            qengine = "onednn"
        else:
            qengine = next(name for name in ("x86", "fbgemm", "qnnpack") if name in supported)
    elif qengine in SYMMETRIC_ONLY and affine:
        raise SpecInvalid(
            f"qengine {qengine} takes symmetric weights only, and {affine} asks for affine ones.",
            hint="Leave `qengine` at auto, or name x86, fbgemm or qnnpack.",
        )
    elif qengine not in supported:
        raise SpecInvalid(
            f"This worker has no qengine {qengine}; it has {', '.join(q for q in supported if q != 'none')}.",
            hint="Leave `qengine` at auto.",
        )
    reduce_range = spec.activation.reduce_range
    if reduce_range == "auto":
        # Seen on a trained mobilenet_v2 with VNNI, full range: onednn 22.8 dB, x86 11.2, fbgemm 1.7: they saturate.
        reduce_range = qengine in ("x86", "fbgemm") or (qengine == "onednn" and not vnni)
    return qengine, reduce_range


def where_weights_are_affine(spec: StaticSpec | QatSpec) -> str | None:
    """The place in the spec that asks for weights with zero points; None when there is none."""
    return next((place for place, asked in _asked_of_weights(spec) if asked.endswith("affine")), None)


def held_weight(spec: StaticSpec | QatSpec, qengine: str) -> tuple[WeightSettings, str | None]:
    """The weight settings that a qengine's kernels hold, and a note where they are not those of the spec.

    A qscheme left at `auto` follows the kernels; raises SpecInvalid where a scale a channel is asked of kernels that
    hold one a tensor.
    """
    if holds_per_channel(qengine):
        return spec.weight, None
    asked = next((place for place, value in _asked_of_weights(spec) if "per_channel" in value), None)
    if asked is not None:
        raise SpecInvalid(
            f"This worker's {qengine} kernels hold one scale a tensor, and {asked} asks for one a channel.",
            hint="Leave `weight.qscheme` at auto, or name another qengine.",
        )
    if "per_channel" not in spec.weight.observer:
        return spec.weight, None
    observer = spec.weight.observer.replace("per_channel_", "")
    return (
        spec.weight.model_copy(update={"observer": observer}),
        f"weights have one scale a tensor: this worker's {qengine} kernels hold none a channel",
    )


def _asked_of_weights(spec: StaticSpec | QatSpec) -> Iterator[tuple[str, str]]:
    """Where the spec says how weights are mapped, and what; the job's observer is not asked for, it has a default."""
    yield "weight.qscheme", spec.weight.qscheme
    for index, override in enumerate(spec.overrides):
        if override.weight is not None:
            for key in ("qscheme", "observer"):
                if (value := getattr(override.weight, key)) is not None:
                    yield f"overrides[{index}].weight.{key}", value
