"""Read a `.pt2` and say what goes in and what comes out of the program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from shared.errors import ModelCorrupt, ModelUnsupported

MAX_DYNAMIC_SIZE = 1 << 20  # export's «no upper bound» is an integer near 2**63


@dataclass(frozen=True)
class InputSpec:
    """One tensor that the program takes, in the order that it takes them."""

    name: str
    shape: tuple[int | None, ...]  #: None stands for a dynamic dimension
    dtype: torch.dtype
    example_shape: tuple[int, ...]  #: the shape it was exported with
    bounds: tuple[tuple[int, int], ...]  #: the least and greatest size of each dimension
    symbols: tuple[str | None, ...]  #: dimensions that bear the same symbol have the same size

    @property
    def batch_symbol(self) -> str | None:
        """The symbol of the first axis when that axis is dynamic: the batch."""
        return self.symbols[0] if self.symbols else None

    def with_batch(self, batch_size: int) -> tuple[int, ...]:
        """The exported shape at another batch size."""
        return (batch_size, *self.example_shape[1:])


def load_program(path: Path) -> ExportedProgram:
    """The exported program in a `.pt2`; its bytes are hostile, so call it inside the sandbox only.

    Raises ModelCorrupt when it cannot be read, ModelUnsupported when it can and still cannot be served.
    """
    try:
        program = torch.export.load(path)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # the reader meets arbitrary bytes and raises whatever it stumbles over
        if type(error).__name__ == "SerializeError" or ("op" in str(error) and "not found" in str(error)):
            raise ModelUnsupported(f"The exported program names something torch does not know here: {error}") from error
        raise ModelCorrupt(f"The .pt2 cannot be read: {_first_line(error)}") from error
    _require_plain_tensors(program)
    return program


def input_specs(program: ExportedProgram) -> list[InputSpec]:
    """The tensors that the program takes, in order; plain numbers and None fixed at export are left out."""
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = []
    for entry in program.graph_signature.input_specs:
        if entry.kind is not InputKind.USER_INPUT or not isinstance(entry.arg, TensorArgument):
            continue
        value: torch.Tensor = placeholders[entry.arg.name].meta["val"]
        sizes = [_size(program, size) for size in value.shape]
        specs.append(
            InputSpec(
                name=entry.arg.name,
                shape=tuple(None if symbol else example for example, _, symbol in sizes),
                dtype=value.dtype,
                example_shape=tuple(example for example, _, _ in sizes),
                bounds=tuple(bounds for _, bounds, _ in sizes),
                symbols=tuple(symbol for _, _, symbol in sizes),
            )
        )
    return specs


def output_names(program: ExportedProgram) -> list[str]:
    """A name for each tensor that the program returns: dictionary keys and positions joined by dots, or `output`."""
    tree = program.call_spec.out_spec
    leaves = [entry.arg for entry in program.graph_signature.output_specs if entry.kind is OutputKind.USER_OUTPUT]
    assert tree is not None
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(tree.num_leaves)), tree))
    names = [".".join(_key(key) for key in path) or "output" for path, _ in paths]
    return [name for name, leaf in zip(names, leaves, strict=True) if isinstance(leaf, TensorArgument)]


def _key(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _size(program: ExportedProgram, size: int | torch.SymInt) -> tuple[int, tuple[int, int], str | None]:
    """A dimension's size at export, its bounds, and its symbol when it is dynamic."""
    if isinstance(size, int):
        return size, (size, size), None
    expression = size.node.expr
    example = size.node.hint
    bounds = program.range_constraints.get(expression)
    low = max(1, int(bounds.lower)) if bounds is not None and bounds.lower.is_Integer else 1
    high = MAX_DYNAMIC_SIZE
    if bounds is not None and bounds.upper.is_Integer:
        high = min(high, int(bounds.upper))
    return (int(example) if example is not None else max(2, low)), (low, high), str(expression)


def _require_plain_tensors(program: ExportedProgram) -> None:
    """Refuse what no method can serve: half-precision weights, numbers as inputs, another device."""
    for name, tensor in program.state_dict.items():
        if tensor.is_floating_point() and tensor.dtype is not torch.float32:
            raise ModelUnsupported(
                f"The weight {name} is {str(tensor.dtype).removeprefix('torch.')}; quantization starts from float32.",
                hint="Call model.float() before you export it.",
            )
        if tensor.device.type != "cpu":
            raise ModelUnsupported(
                f"The weight {name} lies on {tensor.device.type}.", hint='Call model.to("cpu") before you export it.'
            )
    for entry in program.graph_signature.input_specs:
        if entry.kind is InputKind.USER_INPUT and not isinstance(entry.arg, TensorArgument | ConstantArgument):
            raise ModelUnsupported(
                f"The input {entry.arg.name} is a number that may vary.",
                hint="Fix the number in the module, or pass it as a tensor, then export again.",
            )
    if not input_specs(program):
        raise ModelUnsupported("The program takes no tensor.")
    if not output_names(program):
        raise ModelUnsupported("The program returns no tensor.")


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {text[:300]}"
