"""Export: the float model and the int8 one as ONNX, the latter in the form of each runtime that is wanted.

What makes the int8 model leaves its reference graph in a file; a process that holds nothing else reads it and exports,
for the exporter takes as much memory as the float model once more.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from shared.errors import RuntimeNotInstalled
from shared.quantization_spec import DynamicSpec, QatSpec, Runtime, StaticSpec
from worker.datasets import Samples
from worker.environment import installed_runtimes
from worker.job_folder import JobFolder
from worker.outputs import MODEL_NAMES
from worker.progress import StepProgress
from worker.quantization import Plan, has_corrected_biases, reference_graph, simulate
from worker.steps.load import LoadedModel
from worker.steps.refine import corrections_unrounded

_REFERENCE_NAME = "reference.pt2"
_FLOAT_NAME = "model_float.onnx"
_SHIFTS_NAME = "shifts.pt"
_WITHIN_PRODUCTS = (functional.silu, functional.hardswish, functional.hardsigmoid, torch.sigmoid)
"""What OpenVINO computes within the product before, of what is not rounded."""
_NO_FLOAT16 = "ONNX Runtime has no kernels for float16 weights on CPUs."
_NOT_DYNAMIC = "OpenVINO has no kernels that find ranges at run time: it would dequantize the weights first."
_UNFORESEEN = "PyTorch's ONNX exporter failed on this model in a way that nobody foresaw."


@dataclass(frozen=True)
class MadeFile:
    """An artifact that was written, or why it was not."""

    runtime: Runtime
    path: Path
    problem: str | None = None
    """Why there is no file at the path."""


@dataclass(frozen=True)
class Exported:
    """What there is for runtimes other than torch."""

    float_file: Path | None
    """The float model, among the job's scratch; None where none was wanted or it cannot be exported."""
    files: list[MadeFile]


def wanted_runtimes(asked: Sequence[Runtime] | None) -> list[Runtime]:
    """The runtimes to make artifacts for: those asked for, or all that there are. Raises RuntimeNotInstalled."""
    here = list(installed_runtimes())
    if missing := [name for name in asked or () if name not in here]:
        raise RuntimeNotInstalled(f"This worker has {', '.join(here)}, and not {', '.join(missing)}.")
    return here if asked is None else list(asked)


def why_not_dynamic(runtime: Runtime, precision: str) -> str | None:
    """Why a runtime has no artifact of a dynamic job with this precision; None when it has one."""
    if runtime == "openvino":
        return _NOT_DYNAMIC
    return _NO_FLOAT16 if runtime == "onnxruntime" and precision == "float16" else None


def leave_reference(
    folder: JobFolder,
    model: LoadedModel,
    example: tuple[Tensor, ...],
    *,
    prepared: fx.GraphModule,
    converted: nn.Module,
    plan: Plan,
    observed: Samples | None,
) -> None:
    """Write the reference graph for `export`; where that fails, it will tell.

    Biases that were corrected on the samples `observed` were so for kernels that round what every layer gives: for
    OpenVINO they are corrected once more, where it is wanted and these are given.
    """
    from worker.exporting import trace  # noqa: PLC0415 - what it is made of comes with the runtimes

    assert isinstance(converted, fx.GraphModule)
    try:
        program = trace(reference_graph(prepared, converted, plan), example, model.inputs)
        torch.export.save(program, folder.tmp / _REFERENCE_NAME)
        if observed is not None:
            shifts = _shifts(model, prepared, plan, observed)
            if shifts:
                torch.save(shifts, folder.tmp / _SHIFTS_NAME)
    except Exception:  # noqa: BLE001 - an exporter's bug must not cost the artifact that is made already
        traceback.print_exc()


def _shifts(model: LoadedModel, prepared: fx.GraphModule, plan: Plan, observed: Samples) -> dict[str, Tensor]:
    """What to add to the biases, by layer, where what a sigmoid is computed of is not rounded.

    An EfficientNet's outputs came within 23 dB with that rounding, and without it, and with the same biases, within 14.
    """
    layers = simulate(prepared, plan).layers_before(_WITHIN_PRODUCTS) if has_corrected_biases(prepared) else None
    if not layers:
        return {}
    found = corrections_unrounded(model, prepared, plan, observed, layers)
    layer_of = {str(node.target): str(node.meta.get("layer")) for node in prepared.graph.nodes}
    return {layer_of[name]: shift for name, shift in found.items()}


def export(
    folder: JobFolder,
    model: LoadedModel,
    example: tuple[Tensor, ...],
    *,
    spec: DynamicSpec | StaticSpec | QatSpec,
    float_layers: Sequence[str],
    advance: StepProgress,
) -> Exported:
    """Write what the spec wants; what cannot be written is told, and costs the others nothing."""
    paths: dict[Runtime, Path] = {
        name: folder.outputs / MODEL_NAMES[name] for name in wanted_runtimes(spec.runtimes) if name != "torch"
    }
    if not paths:
        return Exported(None, [])
    float_file = folder.tmp / _FLOAT_NAME

    def write_float() -> None:
        export_float(model, example, float_file)

    problem = problem_of(write_float)
    advance(1, 2)
    problems: dict[Runtime, str | None]
    if problem is not None:
        problems = dict.fromkeys(paths, problem)
    elif isinstance(spec, DynamicSpec):
        problems = {runtime: why_not_dynamic(runtime, spec.precision) for runtime in paths}
        if "onnxruntime" in paths and problems["onnxruntime"] is None:
            problems["onnxruntime"] = problem_of(
                lambda: _quantize_dynamically(float_file, paths["onnxruntime"], float_layers, folder.tmp)
            )
    else:
        problems = dict.fromkeys(paths, problem_of(lambda: _write_int8(folder, model, paths)))
    for name, path in paths.items():
        if problems[name] is not None:
            path.unlink(missing_ok=True)
    files = [MadeFile(name, path, problems[name]) for name, path in paths.items()]
    return Exported(None if problem else float_file, files)


def export_float(model: LoadedModel, example: tuple[Tensor, ...], path: Path) -> None:
    """Write the float model as ONNX, with its weights in a file beside it."""
    from worker.exporting import export_onnx, save, trace  # noqa: PLC0415 - likewise

    program = trace(model.raised, example, model.inputs)
    save(export_onnx(program, model.inputs, model.outputs), path, weights_apart=True)


def _write_int8(folder: JobFolder, model: LoadedModel, paths: dict[Runtime, Path]) -> None:
    from worker.exporting import export_onnx, in_form, save  # noqa: PLC0415 - likewise

    program = torch.export.load(folder.tmp / _REFERENCE_NAME)
    exported = export_onnx(program, model.inputs, model.outputs)
    file = folder.tmp / _SHIFTS_NAME
    shifts = {layer: shift.numpy() for layer, shift in torch.load(file).items()} if file.exists() else {}
    for name, path in paths.items():
        save(in_form(exported, name, shifts), path)


def _quantize_dynamically(float_file: Path, path: Path, float_layers: Sequence[str], scratch: Path) -> None:
    from worker.exporting.dynamic import quantize_onnx_dynamically  # noqa: PLC0415 - likewise

    quantize_onnx_dynamically(float_file, path, float_layers=float_layers, scratch=scratch)


def problem_of(write: Callable[[], None]) -> str | None:
    """What is to be told of an exporter that failed."""
    from worker.exporting import CannotExport  # noqa: PLC0415 - likewise

    try:
        write()
    except CannotExport as error:
        return str(error)
    except Exception:  # noqa: BLE001 - an exporter's bug must not cost the artifact that is made already
        traceback.print_exc()
        return _UNFORESEEN
    return None
