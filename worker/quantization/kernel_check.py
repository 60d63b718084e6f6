"""Are int8 kernels right? Every layer is recomputed in float from the integers that went into it.

A right kernel differs from the reference by rounding: at most one step of its output, here and there. A wrong one, or
one whose sums saturate, is steps off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.nn import quantized as nnq
from torch.nn import functional as F  # noqa: N812 - its name everywhere

#: Sums in float32 and the kernels' own scaling may each turn a rounding: more than this is no rounding.
_ROUNDING_STEPS = 2.0

_CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nnq.Conv1d: F.conv1d,
    nnq.Conv2d: F.conv2d,
    nnq.Conv3d: F.conv3d,
}
_TRANSPOSED: dict[type[nn.Module], Callable[..., Tensor]] = {
    nnq.ConvTranspose1d: F.conv_transpose1d,
    nnq.ConvTranspose2d: F.conv_transpose2d,
    nnq.ConvTranspose3d: F.conv_transpose3d,
}
#: They choose among their input's integers: qnnpack's clamp scrambles a tensor whose channels come last (torch 2.13).
_CHOOSING = (F.relu, F.relu6, F.hardtanh, torch.clamp, F.max_pool1d, F.max_pool2d)


@dataclass(frozen=True)
class Deviation:
    """How far a layer's kernel is from the reference, in steps of its output (of 255)."""

    layer: str
    mean_steps: float
    greatest_steps: float


class KernelInspector(fx.Interpreter):
    """Runs a converted graph node by node, and notes how far each int8 layer is from what it should give."""

    def __init__(self, converted: fx.GraphModule) -> None:
        super().__init__(converted)
        self.deviations: list[Deviation] = []
        self._groups: dict[str, str] = converted.meta.get("octavo_groups", {})
        self.layer = ""
        """What runs, or ran last: where it fails, if it does."""

    def run_node(self, n: fx.Node) -> Any:
        """As fx does."""
        self.layer = str(n.target) if n.op == "call_module" else str(n.meta.get("layer", ""))
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As fx does; the layer is recomputed beside it."""
        found = super().call_module(target, args, kwargs)
        wanted = _reference(self.fetch_attr(target), args[0])
        if wanted is not None:
            self._note(str(target), found, wanted)
        return found

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As fx does; what only chooses among integers is recomputed beside it."""
        found = super().call_function(target, args, kwargs)
        if target in _CHOOSING and isinstance(found, Tensor) and found.is_quantized:
            wanted = _integers(target(args[0].dequantize(), *args[1:], **kwargs), found.q_scale(), found.q_zero_point())
            self._note(self._groups.get(self.layer, self.layer), found, wanted)
        return found

    def _note(self, layer: str, found: Tensor, wanted: Tensor) -> None:
        off = (found.int_repr().float() - wanted).abs()
        self.deviations.append(Deviation(layer, off.mean().item(), off.max().item()))


def departing_layers(converted: fx.GraphModule, *inputs: Tensor) -> list[str]:
    """The layers whose kernels do not compute what they should on these inputs, the worst first.

    Saturation shows in few values, those of the greatest sums: one that is off by more than rounding is enough.
    """
    inspector = KernelInspector(converted)
    with torch.no_grad():
        inspector.run(*inputs)
    wrong = [each for each in inspector.deviations if each.greatest_steps > _ROUNDING_STEPS]
    return [each.layer for each in sorted(wrong, key=lambda each: each.mean_steps, reverse=True)]


def _reference(module: nn.Module, given: Any) -> Tensor | None:
    """What an int8 layer should give, as integers; None for what is not checked."""
    if not isinstance(given, Tensor) or not given.is_quantized:
        return None
    plain: Any = module
    if isinstance(module, nnq.Linear):
        result: Tensor | None = F.linear(given.dequantize(), plain.weight().dequantize(), plain.bias())
    elif isinstance(module, nnq.PReLU):
        result = F.prelu(given.dequantize(), plain.weight.dequantize())
    else:
        result = _convolved(plain, given.dequantize())
    if result is None:
        return None
    if "ReLU" in type(module).__name__:
        result = result.relu()
    return _integers(result, plain.scale, plain.zero_point)


def _integers(values: Tensor, scale: float, zero_point: int) -> Tensor:
    return (torch.round(values / scale) + zero_point).clamp(0, 255)


def _convolved(module: Any, given: Tensor) -> Tensor | None:
    for kind, convolve in _CONVOLUTIONS.items():
        if kind in type(module).__mro__:
            weight, bias = module.weight().dequantize(), module.bias()
            return convolve(given, weight, bias, module.stride, module.padding, module.dilation, module.groups)
    for kind, convolve in _TRANSPOSED.items():
        if kind in type(module).__mro__:
            settings = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
            return convolve(given, module.weight().dequantize(), module.bias(), *settings)
    return None
