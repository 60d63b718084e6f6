"""What the layers of method dynamic should compute: int8 in float, with the ranges that kernels find at run time.

A layer quantizes what it multiplies by weights: of one that runs once its input; of LSTM and GRU each layer's input as
a whole, and the hidden state step by step, as torch's kernels do. Tables and float16 layers quantize weights only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.nn.quantized import dynamic as nnqd
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from torch.utils import _pytree as pytree

from worker.quantization.copying import copy_structure
from worker.quantization.counting import layer_macs
from worker.quantization.dynamic_planning import DynamicPlan
from worker.quantization.float_reasons import FloatReason
from worker.quantization.grouping import groups
from worker.quantization.int8_modules import int8_weights, precision_of
from worker.quantization.plans import require_something

_MAX_LOST = 10**0.1  # of noise power: 1 dB
_NEGLIGIBLE = 1e-8  # of the output's power: 80 dB below it


def dynamic_in_float(raised: fx.GraphModule, quantized: fx.GraphModule) -> fx.GraphModule:
    """A copy of `raised` that computes in float what the layers of `quantized` should; the other layers are shared.

    `quantized` is what `quantize_dynamic` made of `raised`.
    """
    model = copy_structure(raised).eval()
    layers = dict(quantized.named_modules(remove_duplicate=False))
    made: dict[nn.Module, nn.Module] = {}
    with torch.no_grad():
        for name, replaced in raised.named_modules(remove_duplicate=False):
            if precision_of(layers.get(name)) != "float32":
                if layers[name] not in made:
                    made[layers[name]] = _in_float(replaced, layers[name])
                model.set_submodule(name, made[layers[name]])
    return model


def departing_dynamic_layers(
    raised: fx.GraphModule, quantized: fx.GraphModule, in_float: fx.GraphModule, *inputs: Tensor
) -> list[str]:
    """The layers whose kernels are more than 1 dB further from float than int8 in float, on the float model's values.

    Noise 80 dB below a layer's output is added to both: what lies below it matters to nobody.
    """
    inspector = _Inspector(raised, quantized, in_float)
    with torch.no_grad():
        inspector.run(*inputs)
    return inspector.departing


def without_departing(raised: fx.GraphModule, plan: DynamicPlan, layers: list[str]) -> DynamicPlan:
    """The plan with these layers in float; raises NothingToQuantize when no layer is left."""
    for layer in layers:
        why = f"its {plan.qengine} kernel is over 1 dB further from float than it should be"
        plan = plan.without(layer, FloatReason("failed", why))
    require_something(plan, groups(raised))
    return plan.counted(layer_macs(raised))


class _Inspector(fx.Interpreter):
    """Runs the float graph, and beside each quantized layer its kernel and int8 in float on the same inputs."""

    def __init__(self, raised: fx.GraphModule, quantized: fx.GraphModule, in_float: fx.GraphModule) -> None:
        super().__init__(raised)
        self.departing: list[str] = []
        self._quantized = dict(quantized.named_modules(remove_duplicate=False))
        self._in_float = dict(in_float.named_modules(remove_duplicate=False))

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        exact = super().call_module(target, args, kwargs)
        layer = str(target)
        int8 = precision_of(self._quantized.get(layer)) != "float32"
        # What is not finite has no range, and no kernel can be held against what comes of it.
        if int8 and layer not in self.departing and _is_finite(args) and _is_finite(exact):
            wanted, found = (each[layer](*args, **kwargs) for each in (self._in_float, self._quantized))
            # A comparison with NaN is false.
            if not _noise(exact, found) <= _MAX_LOST * _noise(exact, wanted):
                self.departing.append(layer)
        return exact


def _is_finite(values: Any) -> bool:
    return all(bool(leaf.isfinite().all()) for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor))


def _noise(exact: Any, found: Any) -> float:
    """Of all tensors that a layer gives together, relative to what they should be."""
    pairs = list(zip(pytree.tree_leaves(exact), pytree.tree_leaves(found), strict=True))
    signal = sum(float(a.double().square().sum()) for a, _ in pairs)
    noise = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    return noise / signal + _NEGLIGIBLE if signal > 0 else noise + _NEGLIGIBLE


def _in_float(replaced: nn.Module, quantized: Any) -> nn.Module:
    if precision_of(quantized) == "float16":
        return _with_weights(replaced, {name: each.half().float() for name, each in _weights_of(replaced).items()})
    weights = {name: each.dequantize() for name, each in int8_weights(quantized).items()}
    if isinstance(quantized, nnqd.Linear):
        return _DynamicLinear(weights["weight"], quantized.bias(), reduce_range=_reduces(quantized, 4))
    if isinstance(quantized, nnqd.LSTM | nnqd.GRU):
        return _DynamicRecurrent(replaced, weights, quantized.get_bias(), reduce_range=_reduces(quantized, 2))
    if isinstance(quantized, nnqd.LSTMCell | nnqd.GRUCell | nnqd.RNNCell):  # torch keeps theirs to 7 bits
        return _DynamicCell(replaced, weights, quantized.get_bias(), reduce_range=True)
    assert isinstance(quantized, nn.Module)
    return _with_weights(replaced, weights)  # Embedding, EmbeddingBag


def _reduces(quantized: Any, since: int) -> bool:
    """Whether a layer takes in 7 bits: those of an older version, or of none, keep all 8."""
    return quantized.version is not None and quantized.version >= since


def _weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: each for name, each in module.named_parameters() if "weight" in name}


def _with_weights(replaced: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    module = copy.deepcopy(replaced).eval()
    for name, weight in weights.items():
        getattr(module, name).data = weight
    return module


def _rounded(values: Tensor, *, reduce_range: bool) -> Tensor:
    """As kernels take it in: by the range that it has, rounded to 8 bits, or 7."""
    if values.numel() == 0:
        return values
    scale, zero_point = torch._choose_qparams_per_tensor(values, reduce_range)
    return torch.fake_quantize_per_tensor_affine(values, float(scale), int(zero_point), 0, 255)


class _DynamicLinear(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None, *, reduce_range: bool) -> None:
        super().__init__()
        self._weight, self._bias, self._reduce_range = weight, bias, reduce_range

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(_rounded(x, reduce_range=self._reduce_range), self._weight, self._bias)


class _DynamicCell(nn.Module):
    """LSTMCell, GRUCell or RNNCell: one step."""

    def __init__(
        self, replaced: Any, weights: Mapping[str, Tensor], biases: Mapping[str, Tensor], *, reduce_range: bool
    ) -> None:
        super().__init__()
        self._from_input, self._from_hidden = (
            _DynamicLinear(weights[f"weight_{which}"], biases[f"bias_{which}"], reduce_range=reduce_range)
            for which in ("ih", "hh")
        )
        self._width = replaced.hidden_size
        self._kind = type(replaced)
        self._activation = getattr(torch, getattr(replaced, "nonlinearity", "tanh"))

    def forward(self, x: Tensor, state: Any = None) -> Any:
        if state is None:
            zeros = x.new_zeros(x.shape[0], self._width)
            state = (zeros, zeros) if self._kind is nn.LSTMCell else zeros
        of_input = self._from_input(x)
        if self._kind is nn.LSTMCell:
            return _lstm_step(of_input, self._from_hidden, *state)
        if self._kind is nn.GRUCell:
            return _gru_step(of_input, self._from_hidden, state)
        return self._activation(of_input + self._from_hidden(state))


class _DynamicRecurrent(nn.Module):
    """LSTM or GRU over whole sequences."""

    def __init__(
        self, replaced: Any, weights: Mapping[str, Tensor], biases: Mapping[str, Tensor], *, reduce_range: bool
    ) -> None:
        super().__init__()
        self._is_lstm = isinstance(replaced, nn.LSTM)
        self._batch_first, self._width = replaced.batch_first, replaced.hidden_size
        directions = ("", "_reverse") if replaced.bidirectional else ("",)
        self._layers = [
            [
                tuple(
                    _DynamicLinear(weights[f"weight_{which}_{place}"], biases[f"bias_{which}_{place}"],
                                   reduce_range=reduce_range)
                    for which in ("ih", "hh")
                )
                for place in (f"l{layer}{direction}" for direction in directions)
            ]
            for layer in range(replaced.num_layers)
        ]  # fmt: skip

    def forward(self, x: Tensor, state: Any = None) -> Any:
        x = x.transpose(0, 1) if self._batch_first else x
        if state is None:
            zeros = x.new_zeros(sum(map(len, self._layers)), x.shape[1], self._width)
            state = (zeros, zeros) if self._is_lstm else zeros
        first = iter(zip(*state, strict=True) if self._is_lstm else ((hidden,) for hidden in state))
        last: list[tuple[Tensor, ...]] = []
        for directions in self._layers:
            outputs = []
            for is_backward, (from_input, from_hidden) in enumerate(directions):
                steps, states = from_input(x).unbind(0), next(first)
                given = []
                for of_input in reversed(steps) if is_backward else steps:
                    if self._is_lstm:
                        states = _lstm_step(of_input, from_hidden, *states)
                    else:
                        states = (_gru_step(of_input, from_hidden, *states),)
                    given.append(states[0])
                outputs.append(torch.stack(given[::-1] if is_backward else given))
                last.append(states)
            x = torch.cat(outputs, -1)
        ends = tuple(torch.stack(each) for each in zip(*last, strict=True))
        return x.transpose(0, 1) if self._batch_first else x, ends if self._is_lstm else ends[0]


def _lstm_step(of_input: Tensor, from_hidden: nn.Module, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    admit, forget, new, show = (of_input + from_hidden(hidden)).chunk(4, -1)
    cell = forget.sigmoid() * cell + admit.sigmoid() * new.tanh()
    return show.sigmoid() * cell.tanh(), cell


def _gru_step(of_input: Tensor, from_hidden: nn.Module, hidden: Tensor) -> Tensor:
    (reset, keep, new), (hidden_reset, hidden_keep, hidden_new) = (
        each.chunk(3, -1) for each in (of_input, from_hidden(hidden))
    )
    found = (new + (reset + hidden_reset).sigmoid() * hidden_new).tanh()
    return (hidden - found) * (keep + hidden_keep).sigmoid() + found
