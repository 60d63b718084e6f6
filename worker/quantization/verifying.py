"""Does the raised module compute what the program computes? Asked of every upload, at two batch sizes."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from shared.errors import ModelFailed, RaiseMismatch
from worker.quantization.batching import other_batches
from worker.quantization.raising import interface
from worker.quantization.settling import flatten

#: Relative to the largest value of the output: float32 sums taken in another order stay well below it.
TOLERANCE = 1e-4


def verify_raised(program: ExportedProgram, raised: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
    """Compare the raised module's outputs with the program's on these inputs, and at another batch size.

    The program runs in evaluation mode. Raises RaiseMismatch, naming the output and how far off it is, and ModelFailed
    when the program itself fails on the inputs.
    """
    reference = flatten(program)
    _compare(raised, inputs, _run_original(reference, inputs))
    for other in other_batches(interface(raised).inputs, inputs):
        try:
            wanted = _run_original(reference, other)
        except ModelFailed:
            continue  # the program promises more batch sizes than it keeps, and so will the raised module
        _compare(raised, other, wanted)


def _run_original(reference: fx.GraphModule, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        try:
            return reference(*(tensor.clone() for tensor in inputs))
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
            raise ModelFailed(f"The model fails on inputs of shape {shapes}: {error}") from error


def _compare(raised: fx.GraphModule, inputs: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        try:
            found = raised(*(tensor.clone() for tensor in inputs))
        except Exception as error:
            raise RaiseMismatch(f"The model rebuilt as modules fails where the original does not: {error}") from error
    for name, original, rebuilt in zip(interface(raised).outputs, wanted, found, strict=True):
        _compare_output(name, original, rebuilt)


def _compare_output(name: str, original: Tensor, rebuilt: Tensor) -> None:
    if original.shape != rebuilt.shape:
        raise RaiseMismatch(
            f"Output {name} of the model rebuilt as modules has shape {tuple(rebuilt.shape)}, "
            f"the original's has {tuple(original.shape)}."
        )
    if not original.is_floating_point():
        if not torch.equal(original, rebuilt):
            raise RaiseMismatch(f"Output {name} of the model rebuilt as modules differs from the original's.")
        return
    finite = original.isfinite()
    if not torch.equal(finite, rebuilt.isfinite()):
        raise RaiseMismatch(f"Output {name} of the model rebuilt as modules is not finite where the original's is.")
    scale = max(float(original[finite].abs().max()), 1e-6) if finite.any() else 1.0
    off = float((original - rebuilt)[finite].abs().max()) if finite.any() else 0.0
    if off > TOLERANCE * scale:
        raise RaiseMismatch(
            f"Output {name} of the model rebuilt as modules is off by {off:.3g}, where the original's largest value is "
            f"{scale:.3g} (allowed: {TOLERANCE * scale:.1g})."
        )
