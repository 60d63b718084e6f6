"""Freeze a module to TorchScript, the one compact form that holds int8 kernels and needs no Python to run."""

from __future__ import annotations

import copy
import operator
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from shared.errors import ModelUnsupported
from worker.quantization.batching import other_batches
from worker.quantization.copying import collect_garbage
from worker.quantization.parking import parked
from worker.quantization.raising import interface

#: Traced and eager differ only where a kernel takes another path at another batch size.
_TOLERANCE = 1e-3
_PLAIN_PATH = re.compile(r"[\w.]+", re.ASCII)
#: As operators these are given constants for the sizes that are traced; as functions of torch they keep them.
_WITH_TRACED_SIZES: Mapping[object, Callable[..., Tensor]] = {
    torch.ops.aten.affine_grid_generator.default: torch.affine_grid_generator,
    torch.ops.aten.as_strided.default: torch.as_strided,
    torch.ops.aten.broadcast_to.default: torch.broadcast_to,
    torch.ops.aten.eye.default: torch.eye,
    torch.ops.aten.eye.m: torch.eye,
    torch.ops.aten.scalar_tensor.default: torch.scalar_tensor,
}
_HINT = (
    "Take sizes from tensors (x.shape[0]) and not from Python numbers, and make no tensors of them. Where that is "
    "done, torch's tracer makes constants of the sizes that an operator is given: export with a fixed batch."
)


def freeze(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    """Trace the module on these inputs and freeze it; it returns what the module returns.

    Where the program's batch is dynamic the trace is run at another batch size and compared with the module. Raises
    ModelUnsupported when the trace does not hold there, or cannot be made. Freezing takes the weights twice: the
    module's own are parked.
    """
    module.eval()
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and tracing warns of sizes it follows well
        others = other_batches(interface(module).inputs, inputs)
        wanted = [module(*other) for other in others]
        traced = Path(scratch) / "traced.pt"
        torch.jit.save(_traced(_traceable(module), inputs), traced)
        with parked(module):
            size = traced.stat().st_size
            _forget_traced()
            collect_garbage(size)  # what was traced
            frozen = torch.jit.freeze(_load(traced).eval())
            collect_garbage(size)  # what was loaded: freezing makes a copy
            frozen(*inputs)
            for other, eager in zip(others, wanted, strict=True):
                _require_same(eager, _run(frozen, other))
    return frozen


def _traced(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    try:
        return torch.jit.trace(module, inputs, check_trace=False, strict=False)
    except RuntimeError as error:  # such as an operator that takes a size, and is given one that is traced
        told = str(error).strip().partition("\n")[0]
        raise ModelUnsupported(f"TorchScript does not take the model: {told}", hint=_HINT) from error


def _traceable(module: nn.Module) -> nn.Module:
    """The module, or where need be the same graph with other names of layers and other calls of the same operators."""
    assert isinstance(module, fx.GraphModule)
    graph = copy.deepcopy(module.graph)
    plain: dict[str, str] = {}
    nodes = [node for node in graph.nodes if node.op in ("call_module", "get_attr")]
    for node in nodes:
        target = str(node.target)
        plain.setdefault(target, target if _PLAIN_PATH.fullmatch(target) else f"renamed_{len(plain)}")
        node.target = plain[target]
    sized = [node for node in graph.nodes if node.op == "call_function" and node.target in _WITH_TRACED_SIZES]
    for node in sized:
        node.target = _WITH_TRACED_SIZES[node.target]
    if not sized and all(name == target for target, name in plain.items()):
        return module
    return fx.GraphModule({name: operator.attrgetter(target)(module) for target, name in plain.items()}, graph)


def _forget_traced() -> None:
    """Let torch drop the classes that it made of what was traced: it would keep them for ever, 0.2 MiB an int8 layer.

    As `torch.testing._internal.jit_utils.clear_class_registry` does; modules that are still in use keep theirs.
    """
    torch._C._jit_clear_class_registry()
    torch.jit._state._clear_class_state()


def _load(traced: Path) -> torch.jit.ScriptModule:
    """The traced module in a compilation unit of its own.

    Freezing makes constants of the weights, and what is traced shares one unit for the life of the process: torch would
    hold the weights of every model that was ever frozen.
    """
    loaded: torch.jit.ScriptModule = torch.jit.load(traced)
    return loaded


def _run(frozen: torch.jit.ScriptModule, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    try:
        return frozen(*inputs)
    except RuntimeError as error:
        raise ModelUnsupported(
            f"The model runs at the batch size it was traced at and at no other: {str(error).strip().splitlines()[-1]}",
            hint=_HINT,
        ) from error


def _require_same(eager: tuple[Tensor, ...], traced: tuple[Tensor, ...]) -> None:
    for wanted, found in zip(eager, traced, strict=True):
        same_shape = wanted.shape == found.shape
        if not same_shape or not torch.allclose(
            wanted.float(), found.float(), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True
        ):
            raise ModelUnsupported(
                "Traced at one batch size, the model computes something else at another.", hint=_HINT
            )
