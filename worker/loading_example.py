"""`load_example*.py`: how to run the int8 model in each runtime, made of the report alone."""

from __future__ import annotations

from string import Template

from shared.job_report import ArtifactResult, ExampleInput, JobReport

_TORCH = Template('''\
"""Load $model and run it. Needs torch $version or a version near it, and nothing else."""

from pathlib import Path

import torch

QENGINE = "$qengine"
if QENGINE not in torch.backends.quantized.supported_engines:
    raise SystemExit(f"This build of torch has no {QENGINE} kernels: {torch.backends.quantized.supported_engines}")
torch.backends.quantized.engine = QENGINE

# oneDNN prepares its int8 kernels for the batch size of the first call: load one copy for each size that you run.
model = torch.jit.load(Path(__file__).with_name("$model"))
inputs = (
$inputs
)
with torch.inference_mode():
    outputs = model(*inputs)

for name, output in zip($outputs, outputs):
    print(name, tuple(output.shape), output.dtype)
''')
_ONNX_RUNTIME = Template('''\
"""Load $model and run it. Needs onnxruntime $version or a version near it, and numpy."""

from pathlib import Path

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1  # as many as are to compute one batch
session = onnxruntime.InferenceSession(
    Path(__file__).with_name("$model"), options, providers=["CPUExecutionProvider"]
)
inputs = {
$inputs
}
outputs = session.run(None, inputs)

for name, output in zip($outputs, outputs):
    print(name, output.shape, output.dtype)
''')
_OPENVINO = Template('''\
"""Load $model and run it. Needs openvino $version or a version near it, and numpy."""

from pathlib import Path

import numpy as np
import openvino

# What is not int8 is computed in this: what the report is about. $otherwise
options = {"INFERENCE_PRECISION_HINT": "$precision", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
model = openvino.Core().compile_model(Path(__file__).with_name("$model"), "CPU", options)
inputs = {
$inputs
}
outputs = model(inputs)

for name, output in zip($outputs, outputs.values()):
    print(name, output.shape, output.dtype)
''')
_OTHERWISE = {
    "f32": "OpenVINO would take bf16 where the CPU has it.",
    "bf16": "f32 rounds less, and is slower.",
}
_EXAMPLES = {"torch": _TORCH, "onnxruntime": _ONNX_RUNTIME, "openvino": _OPENVINO}


def loading_example(report: JobReport, artifact: ArtifactResult) -> str:
    """Python that loads this file beside it and calls it with random inputs."""
    environment, runtime = report.environment, artifact.runtime
    precision = artifact.inference_precision or "f32"
    found = {"torch": environment.torch, **environment.versions}[runtime]
    given = _random_tensor if runtime == "torch" else _random_array
    return _EXAMPLES[runtime].substitute(
        model=artifact.name,
        precision=precision,
        otherwise=_OTHERWISE[precision],
        version=found.partition("+")[0],
        qengine=environment.qengine,
        inputs="\n".join(f"    {given(each)}" for each in report.inputs),
        outputs=ascii(tuple(each.output for each in report.quality.fidelity)),
    )


def _random_tensor(given: ExampleInput) -> str:
    shape = tuple(given.shape)
    if given.greatest is None:
        values = f"torch.randn({shape}, dtype=torch.{given.dtype})"
    elif given.greatest <= 1:
        values = f"torch.full({shape}, {given.greatest}).to(torch.{given.dtype})"
    else:
        values = f"torch.randint(0, {given.greatest + 1}, {shape}).to(torch.{given.dtype})"
    return f"{values},  # {given.name}"


def _random_array(given: ExampleInput) -> str:
    shape = tuple(given.shape)
    if given.greatest is None:
        values = f"np.random.randn(*{shape})"
    elif given.greatest <= 1:
        values = f"np.full({shape}, {given.greatest})"
    else:
        values = f"np.random.randint(0, {given.greatest + 1}, {shape})"
    return f'"{given.name}": {values}.astype("{given.dtype}"),'
