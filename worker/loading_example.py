"""`load_example.py`: how to run the int8 model, made of the report alone."""

from __future__ import annotations

from string import Template

from shared.job_report import ExampleInput, JobReport

_EXAMPLE = Template('''\
"""Load $model and run it. Needs torch $torch or a version near it, and nothing else."""

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


def loading_example(report: JobReport, *, model_name: str) -> str:
    """Python that loads the model of this name beside it and calls it with random inputs."""
    return _EXAMPLE.substitute(
        model=model_name,
        torch=report.environment.torch.partition("+")[0],
        qengine=report.environment.qengine,
        inputs="\n".join(f"    {_random_input(each)},  # {each.name}" for each in report.inputs),
        outputs=ascii(tuple(each.output for each in report.quality.fidelity)),
    )


def _random_input(given: ExampleInput) -> str:
    shape = tuple(given.shape)
    if given.greatest is None:
        return f"torch.randn({shape}, dtype=torch.{given.dtype})"
    values = (
        f"torch.full({shape}, {given.greatest})"
        if given.greatest <= 1
        else f"torch.randint(0, {given.greatest + 1}, {shape})"
    )
    return f"{values}.to(torch.{given.dtype})"
