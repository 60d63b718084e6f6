"""The files that ONNX Runtime's and NNCF's own quantization make of one network, for peers.py to time.

    .tools/peers-venv/bin/python benchmarks/peers_files.py FOLDER

Beside model.pt2 and calibration.npz come float.onnx, a file for every variant of peers_quality.py, and peers.json,
which names them or says why there is none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from peers_quality import variants_for, versions, write_float


def write(folder: Path) -> dict[str, Any]:
    """All files; by peer and variant, the file's name or the error."""
    calibration = np.load(folder / "calibration.npz")["x"]
    program = torch.export.load(folder / "model.pt2")
    float_onnx = folder / "float.onnx"
    write_float(program, float_onnx)
    made: dict[str, Any] = {}
    for peer, variants in variants_for(program).items():
        made[peer] = {}
        for variant, quantize in variants.items():
            try:
                made[peer][variant] = {"file": keep(quantize(float_onnx, calibration), folder, f"{peer} {variant}")}
            except Exception as error:  # noqa: BLE001  # a peer that fails is a result
                made[peer][variant] = {"error": f"{type(error).__name__}: {error}"[:500]}
    return made


def keep(quantized: Any, folder: Path, title: str) -> str:
    """Give what a peer made its own name; a model of OpenVINO's is written as it is, not in 16 bits."""
    stem = title.replace(" ", "_")
    if isinstance(quantized, Path):
        return quantized.rename(folder / f"{stem}.onnx").name
    openvino.save_model(quantized, folder / f"{stem}.xml", compress_to_fp16=False)
    return f"{stem}.xml"


def main() -> None:
    """Quantize, and write peers.json into the folder last."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    made = write(folder) | {"versions": versions()}
    (folder / "peers.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
