"""A live module to a .pt2 file, with an open batch size."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from octavo._exceptions import ExportFailed


def export_module(module: torch.nn.Module, example_inputs: Any, path: Path, *, dynamic_batch: bool = True) -> None:
    """Export a module to `path` by torch.export, in eval mode and on the CPU; the module itself is left as it was.

    `example_inputs` is a tensor, a tuple or list of tensors, or a dict of `forward`'s keywords, batch first. They only
    show shapes and dtypes: they are not saved with the model, because they could only be read back by unpickling.

    Raises:
        ExportFailed: with the reason, and what to do.
    """
    if not isinstance(module, torch.nn.Module):
        raise ExportFailed(f"models.upload takes an nn.Module or the path of a .pt2, not {type(module).__name__}")
    args, kwargs = _examples(example_inputs)
    if dynamic_batch:
        args = tuple(_batch_of_two(tensor) for tensor in args)
        kwargs = {name: _batch_of_two(tensor) for name, tensor in kwargs.items()}
    with _in_eval_mode(_on_cpu(module)) as evaluated:
        program = _export(evaluated, args, kwargs, dynamic_batch=dynamic_batch)
    program.example_inputs = None
    _return_plain_containers(program)
    torch.export.save(program, path)


def _export(
    module: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor], *, dynamic_batch: bool
) -> torch.export.ExportedProgram:
    if not dynamic_batch:
        try:
            return torch.export.export(module, args, kwargs)
        except Exception as error:
            raise ExportFailed(
                f"torch.export cannot export {type(module).__name__}: {_reason(error)}\n"
                "Hint: see https://docs.pytorch.org/docs/stable/export.html; code that depends on the data, such as "
                "`if x.sum() > 0`, is the usual cause."
            ) from error
    try:
        return torch.export.export(module, args, kwargs, dynamic_shapes=_dynamic_shapes(args, kwargs))
    except Exception as error:
        # Does it not export at all? Then that is what to say. Copies, because torch marks the examples as dynamic.
        fixed = tuple(tensor.clone() for tensor in args), {name: tensor.clone() for name, tensor in kwargs.items()}
        _export(module, *fixed, dynamic_batch=False)
        raise ExportFailed(
            f"{type(module).__name__} can be exported, but not with an open batch size: {_reason(error)}\n"
            "Hint: models.upload(..., dynamic_batch=False) fixes the batch size at that of the example inputs. To keep "
            "it open, take the batch size from the input (x.shape[0]) wherever the module writes it as a number."
        ) from error


def _return_plain_containers(program: torch.export.ExportedProgram) -> None:
    """Let the program return dicts and tuples where the module returns classes of a library, such as `ModelOutput`.

    Whoever reads the file need not have that library, and Octavo never does.
    """
    signature = program.module_call_graph[0].signature
    if signature is not None:
        signature.out_spec = _plain(signature.out_spec)


def _plain(tree: pytree.TreeSpec) -> pytree.TreeSpec:
    if tree.is_leaf():
        return tree
    children = [_plain(child) for child in tree.children()]
    if tree.type in (tuple, list, dict, OrderedDict):
        return pytree.TreeSpec(tree.type, tree.context, children)
    # The context of a named tuple is its class; of ModelOutput and the like, the keys of what is not None.
    keys = getattr(tree.context, "_fields", tree.context)
    if isinstance(keys, list | tuple) and len(keys) == len(children) and all(isinstance(key, str) for key in keys):
        return pytree.TreeSpec(dict, list(keys), children)
    return pytree.TreeSpec(tuple, None, children)


def _dynamic_shapes(
    args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]
) -> dict[str, Any] | tuple[Any, ...]:
    """Dimension 0 of every input, as torch.export wants it: a tuple like args, or a dict by name with keywords."""
    if not kwargs:
        return tuple(_open_batch(tensor) for tensor in args)
    return {name: _open_batch(tensor) for name, tensor in kwargs.items()}


def _open_batch(tensor: torch.Tensor) -> dict[int, Any] | None:
    return {0: torch.export.Dim.DYNAMIC} if tensor.dim() else None


def _examples(example_inputs: Any) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    if example_inputs is None:
        raise ExportFailed(
            "a module needs example_inputs to be exported with: a tensor, a tuple of tensors, or a dict of forward's "
            "keywords, such as example_inputs=torch.randn(2, 3, 224, 224)"
        )
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Mapping):
        kwargs = {name: value for name, value in example_inputs.items() if value is not None}
    elif isinstance(example_inputs, tuple | list):
        args = tuple(example_inputs)
    else:
        args = (example_inputs,)
    for name, value in [*enumerate(args), *kwargs.items()]:
        if not isinstance(value, torch.Tensor):
            raise ExportFailed(
                f"example input {name!r} is {type(value).__name__}, and a model's inputs must be tensors: "
                "wrap the module in one whose forward takes only tensors"
            )
    return tuple(tensor.detach().cpu() for tensor in args), {
        name: tensor.detach().cpu() for name, tensor in kwargs.items()
    }


def _batch_of_two(tensor: torch.Tensor) -> torch.Tensor:
    """torch.export takes a dimension of 1 for a constant, so an example of one sample is shown twice."""
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor


def _on_cpu(module: torch.nn.Module) -> torch.nn.Module:
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return module
    return copy.deepcopy(module).cpu()


@contextlib.contextmanager
def _in_eval_mode(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Some parts may be frozen in eval mode while others train: each goes back to what it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training


def _reason(error: Exception) -> str:
    """The first lines of what torch says; the whole is the exception's cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:500] or type(error).__name__
