"""Export: the float model and the int8 one as ONNX, the latter in the form of each runtime that is wanted."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx, nn

from shared.errors import RuntimeNotInstalled
from shared.quantization_spec import DynamicSpec, QatSpec, Runtime, StaticSpec
from worker.job_folder import JobFolder
from worker.outputs import MODEL_NAMES
from worker.quantization import Plan, collect_garbage, reference_graph
from worker.runtimes import installed
from worker.steps.load import LoadedModel

_FLOAT_NAME = "model_float.onnx"
_NO_FLOAT16 = "ONNX Runtime has no kernels for float16 weights on CPUs."
_NOT_DYNAMIC = "OpenVINO has no kernels that find ranges at run time: it would dequantize the weights first."


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
    here = list(installed())
    if missing := [name for name in asked or () if name not in here]:
        raise RuntimeNotInstalled(f"This worker has {', '.join(here)}, and not {', '.join(missing)}.")
    return here if asked is None else list(asked)


def export(
    folder: JobFolder,
    model: LoadedModel,
    example: tuple[Tensor, ...],
    *,
    prepared: fx.GraphModule | None,
    converted: nn.Module,
    plan: Plan,
    spec: DynamicSpec | StaticSpec | QatSpec,
) -> Exported:
    """Write what the spec wants; what cannot be written is told, and costs the others nothing."""
    others: list[Runtime] = [name for name in wanted_runtimes(spec.runtimes) if name != "torch"]
    if not others:
        return Exported(None, [])
    # Only now: what it is made of comes with the runtimes.
    from worker.exporting import CannotExport, export_onnx, in_form, save  # noqa: PLC0415

    paths = {name: folder.outputs / MODEL_NAMES[name] for name in others}
    float_file = folder.tmp / _FLOAT_NAME
    problems: dict[Runtime, str] = {}
    try:
        save(export_onnx(model.raised, example, model.inputs, model.outputs), float_file)
        collect_garbage()
        if prepared is None:
            problems = _quantize_dynamically(float_file, paths, plan, spec, scratch=folder.tmp)
        else:
            assert isinstance(converted, fx.GraphModule)
            exported = export_onnx(reference_graph(prepared, converted, plan), example, model.inputs, model.outputs)
            for name, path in paths.items():
                save(in_form(exported, name), path)
    except CannotExport as error:
        problems = dict.fromkeys(paths, str(error))
    except Exception:  # noqa: BLE001 - an exporter's bug must not cost the artifact that is made already
        traceback.print_exc()
        problems = dict.fromkeys(paths, "PyTorch's ONNX exporter failed on this model in a way that nobody foresaw.")
    collect_garbage()
    for name in problems:
        paths[name].unlink(missing_ok=True)
    files = [MadeFile(name, path, problems.get(name)) for name, path in paths.items()]
    return Exported(float_file if float_file.exists() else None, files)


def _quantize_dynamically(
    float_file: Path, paths: dict[Runtime, Path], plan: Plan, spec: DynamicSpec | StaticSpec | QatSpec, *, scratch: Path
) -> dict[Runtime, str]:
    """Write the file for ONNX Runtime by its own quantizer; returns why there is none for a runtime."""
    problems: dict[Runtime, str] = {"openvino": _NOT_DYNAMIC} if "openvino" in paths else {}
    if "onnxruntime" not in paths:
        return problems
    if isinstance(spec, DynamicSpec) and spec.precision == "float16":
        return problems | {"onnxruntime": _NO_FLOAT16}
    from worker.exporting.dynamic import quantize_onnx_dynamically  # noqa: PLC0415 - onnxruntime, where it is installed

    quantize_onnx_dynamically(float_file, paths["onnxruntime"], float_layers=plan.float_layers, scratch=scratch)
    return problems
