"""What ONNX Runtime's and NNCF's own post-training quantization make of one trained network: peers.json in its folder.

    .tools/peers-venv/bin/python benchmarks/peers_quality.py FOLDER

The folder holds model.pt2, calibration.npz and evaluation.npz, as trained_networks.py writes them. Each tool is run as
its documentation shows it, in every variant that a user would try without tuning; quality.py takes the best. SQNR is
against the outputs of the .pt2 itself over the whole evaluation data.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnxruntime
import openvino
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

Array = np.ndarray[Any, Any]
Infer = Callable[[Array], Array]

_BATCH = 50
# A float model that a peer has imported must still be the same model.
_SAME_MODEL_DB = 60.0


class Samples(CalibrationDataReader):  # type: ignore[misc]  # untyped
    """Calibration samples one by one, as ONNX Runtime asks for them."""

    def __init__(self, name: str, samples: Array) -> None:
        self._samples: Iterator[Array] = iter(np.split(samples, len(samples)))
        self._name = name

    def get_next(self) -> dict[str, Array] | None:
        """The next sample; None after the last."""
        sample = next(self._samples, None)
        return None if sample is None else {self._name: sample}


def outputs(infer: Infer, x: Array) -> Array:
    """Logits of all samples, batch by batch."""
    return np.concatenate([infer(x[start : start + _BATCH]) for start in range(0, len(x), _BATCH)])


def sqnr_db(reference: Array, found: Array) -> float:
    """20·log10(‖reference‖ / ‖reference − found‖)."""
    error = np.linalg.norm((reference - found).astype(np.float64))
    return float(20 * np.log10(np.linalg.norm(reference.astype(np.float64)) / max(error, 1e-30)))


def run_onnx(path: Path) -> Infer:
    """An ONNX file on ONNX Runtime's CPU kernels."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def run_openvino(model: Any) -> Infer:
    """An OpenVINO model on the CPU, its float part in float32."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda x: compiled([x])[0]


def by_onnxruntime(float_onnx: Path, calibration: Array, **types: QuantType) -> Path:
    """`quant_pre_process`, then `quantize_static` with per-channel weights and its default min-max ranges."""
    folder = float_onnx.parent
    prepared, quantized = folder / "prepared.onnx", folder / "quantized.onnx"
    quant_pre_process(float_onnx, prepared)
    name = onnxruntime.InferenceSession(prepared, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    reader = Samples(name, calibration)
    quantize_static(prepared, quantized, reader, quant_format=QuantFormat.QDQ, per_channel=True, **types)
    return quantized


def by_nncf(float_onnx: Path, calibration: Array, **options: Any) -> Any:
    """`nncf.quantize` on the OpenVINO model, fast bias correction included."""
    samples = nncf.Dataset(np.split(calibration, len(calibration)))
    return nncf.quantize(openvino.convert_model(float_onnx), samples, **options)


Quantize = Callable[[Path, Array], Any]

VARIANTS: dict[str, dict[str, Quantize]] = {
    "onnxruntime": {
        "QUInt8 activations": partial(by_onnxruntime, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8),
        "QInt8 activations": partial(by_onnxruntime, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8),
    },
    "nncf": {
        "performance": by_nncf,
        "mixed": partial(by_nncf, preset=nncf.QuantizationPreset.MIXED),
    },
}
# For networks with layer norms only: what NNCF does for transformers, SmoothQuant included.
FOR_TRANSFORMERS = partial(by_nncf, model_type=nncf.ModelType.TRANSFORMER)
RUN: dict[str, Callable[[Any], Infer]] = {"onnxruntime": run_onnx, "nncf": run_openvino}


def variants_for(program: torch.export.ExportedProgram) -> dict[str, dict[str, Quantize]]:
    """By peer, what a user would try on this network."""
    variants = {peer: dict(functions) for peer, functions in VARIANTS.items()}
    if any("layer_norm" in str(node.target) for node in program.graph.nodes):
        variants["nncf"]["transformer"] = FOR_TRANSFORMERS
    return variants


def write_float(program: torch.export.ExportedProgram, path: Path) -> None:
    """What both peers start from."""
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert exported is not None
    exported.save(path)


def compare(folder: Path) -> dict[str, Any]:
    """Every variant's SQNR, top-1 and which samples it has right, or what it failed with."""
    calibration = np.load(folder / "calibration.npz")["x"]
    evaluation = np.load(folder / "evaluation.npz")
    x, labels = evaluation["x"], evaluation["labels"]
    program = torch.export.load(folder / "model.pt2")
    module = program.module()
    with torch.inference_mode():
        reference = outputs(lambda batch: module(torch.from_numpy(batch)).numpy(), x)

    def measured(infer: Infer) -> dict[str, float | str]:
        found = outputs(infer, x)
        right = found.argmax(1) == labels
        # A digit a sample: tools that answer the same samples are compared pair by pair, not by their means.
        digits = "".join(str(int(each)) for each in right)
        return {"sqnr_db": sqnr_db(reference, found), "top1": float(right.mean()), "right": digits}

    result: dict[str, Any] = {"float_top1": float((reference.argmax(1) == labels).mean()), "versions": versions()}
    with tempfile.TemporaryDirectory() as directory:
        float_onnx = Path(directory) / "float.onnx"
        write_float(program, float_onnx)
        imported = [measured(run_onnx(float_onnx)), measured(run_openvino(openvino.convert_model(float_onnx)))]
        if min(float(each["sqnr_db"]) for each in imported) < _SAME_MODEL_DB:
            raise RuntimeError(f"The ONNX export is not the same model: {imported}")
        for peer, functions in variants_for(program).items():
            result[peer] = {}
            for variant, quantize in functions.items():
                try:
                    result[peer][variant] = measured(RUN[peer](quantize(float_onnx, calibration)))
                except Exception as error:  # noqa: BLE001  # a peer that fails is a result
                    result[peer][variant] = {"error": f"{type(error).__name__}: {error}"[:500]}
    return result


def versions() -> dict[str, str]:
    """Of the tools compared with."""
    return {name: version(name) for name in ("onnxruntime", "nncf", "openvino", "onnx", "torch")}


def main() -> None:
    """Compare, and write peers.json into the folder."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    (folder / "peers.json").write_text(json.dumps(compare(folder), indent=1) + "\n")


if __name__ == "__main__":
    main()
