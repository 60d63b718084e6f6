"""A small network, quantized and analysed as a job does it, from tensors: (module, calibration, evaluation, spec)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from shared.quantization_spec import spec_adapter
from shared.spec_patch import apply_patch
from worker.datasets import InMemorySamples
from worker.findings import Case
from worker.inference import batch_range
from worker.quantization import convert, input_specs, output_names, plan, prepare, quantize_dynamic, raise_program
from worker.steps.analyse import analyse
from worker.steps.convert import Quantized
from worker.steps.evaluate import Yardstick, evaluate
from worker.steps.load import LoadedModel

MODEL, CALIBRATION, EVALUATION = "mdl_0123456789abcdef", "dst_000000000000ca11", "dst_00000000000e7a10"
Inputs = tuple[Tensor, ...]
MakeCase = Callable[..., Case]


@pytest.fixture
def make_case() -> MakeCase:
    """Make a case of a module with its calibration and evaluation inputs; keywords go into the spec."""

    def make(module: nn.Module, observed: Inputs, evaluation: Inputs, /, **spec: Any) -> Case:
        torch.set_num_threads(1)
        datasets = {"calibration": CALIBRATION} if spec.get("method", "static") == "static" else {}
        wanted = {"method": "static", "model": MODEL, "evaluation": EVALUATION} | datasets | spec
        asked = spec_adapter.validate_python(wanted)
        if getattr(asked, "calibration", None) == EVALUATION:
            observed = evaluation
        program = torch.export.export(
            module.eval(), tuple(t[:2] for t in evaluation), dynamic_shapes=tuple({0: Dim.DYNAMIC} for _ in evaluation)
        )
        raised, specs = raise_program(program), tuple(input_specs(program))
        model = LoadedModel(raised, specs, tuple(output_names(program)), batch_range(specs), 32)
        settled = plan(raised, asked)
        prepared = None
        if asked.method == "dynamic":
            int8 = quantize_dynamic(raised, settled)
        else:
            prepared = prepare(raised, settled, tuple(t[:2] for t in evaluation))
            with torch.no_grad():
                prepared(*observed)
            int8 = convert(prepared, settled)
        yardstick = Yardstick(InMemorySamples(evaluation), "evaluation", None, None)
        began_at = time.perf_counter()
        (quality,) = evaluate(model, [int8], yardstick, lambda *_: None)
        analysis = analyse(
            model,
            prepared,
            settled,
            Quantized(int8, Path("nothing here loads the frozen form"), settled.qengine),
            yardstick,
            spec=asked,
            evaluation_seconds=time.perf_counter() - began_at,
            advance=lambda *_: None,
        )
        return Case(asked, asked.model_dump(mode="json") | settled.resolved(), analysis, quality, holds_full_range=True)

    return make


def patched(case: Case, patch: dict[str, Any]) -> dict[str, Any]:
    """The keywords of the case's spec with a suggestion applied."""
    before = case.spec.model_dump(mode="json", exclude_unset=True)
    return apply_patch(before, patch)
