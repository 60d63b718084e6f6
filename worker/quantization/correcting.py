"""Bias correction (Nagel et al. 2019, section 4.2): the shift that int8 makes in an output channel goes into the bias.

Rounding weights and clipping activations moves the mean of a layer's output; later layers see the shift and add theirs.
Empirically, as in the paper's appendix D: on calibration data, layer after layer, with the corrections of the earlier
ones already in. torch.ao has it for eager modules only (`torch.ao.quantization._correct_bias`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from worker.quantization.plans import Plan
from worker.quantization.simulating import FLOAT_BIASES, first_layer, simulate


def bias_corrections(
    prepared: fx.GraphModule, plan: Plan, batches: Iterable[tuple[Tensor, ...]], *, unrounded: Collection[str] = ()
) -> dict[str, Tensor]:
    """For each quantized layer by its module's name, what to add to its bias: shape (channels,).

    The mean over the batches of `E[float output] - E[int8 output]` before the activation. The prepared graph is left as
    it is. `unrounded` are layers that give floats where the runtime that is corrected for computes so.
    """
    simulation = simulate(prepared, plan, unrounded)
    seen = 0
    modules = {str(node.target): first_layer(module) for node, module in simulation.weighted()}
    # All of them beforehand: one made beside each weight that comes and goes keeps the heap from using its place again.
    shifts = {
        name: torch.zeros(_channels(module), dtype=module.weight.dtype)
        for name, module in modules.items()
        if hasattr(module, "bias")
    }

    def meet(node: fx.Node, reference: Tensor, found: Tensor) -> Tensor:
        name = str(node.target)
        if name not in shifts:  # an embedding
            return found
        axis = _channel_axis(modules[name], found)
        others = [dimension for dimension in range(found.dim()) if dimension != axis]
        shifts[name] += ((reference - found).mean(others) - shifts[name]) / (seen + 1)
        shape = [1] * found.dim()
        shape[axis] = -1
        return found + shifts[name].reshape(shape)

    with torch.no_grad():
        for batch in batches:
            simulation.amend(*batch, meet=meet)
            seen += 1
    return shifts


def has_corrected_biases(prepared: fx.GraphModule) -> bool:
    """Whether a prepared graph computes with corrected biases."""
    return FLOAT_BIASES in prepared.meta


class Biases:
    """The biases that a prepared graph had, once corrected or as they were."""

    def __init__(self, found: dict[str, nn.Parameter | None], prepared: fx.GraphModule) -> None:
        self._found = found
        self._prepared = prepared
        self._float = prepared.meta.get(FLOAT_BIASES)
        prepared.meta.setdefault(FLOAT_BIASES, found)

    def restore(self) -> None:
        """Put them back, to the bit."""
        for name, bias in self._found.items():
            first_layer(self._prepared.get_submodule(name)).bias = bias
        if self._float is None:
            del self._prepared.meta[FLOAT_BIASES]


def correct_biases(prepared: fx.GraphModule, corrections: dict[str, Tensor]) -> Biases:
    """Add the corrections to the biases of a prepared graph, in place; what it had can be restored.

    What it had at first stands in the graph's meta too: in float a layer computes with its own.
    """
    before: dict[str, nn.Parameter | None] = {}
    for name, shift in corrections.items():
        layer = first_layer(prepared.get_submodule(name))
        before[name] = layer.bias
        corrected = shift if layer.bias is None else layer.bias.detach() + shift
        layer.bias = nn.Parameter(corrected, requires_grad=False)
    return Biases(before, prepared)


def _channel_axis(module: nn.Module, output: Tensor) -> int:
    return output.dim() - 1 if isinstance(module, nn.Linear) else 1


def _channels(module: Any) -> int:
    channels: int = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return channels
