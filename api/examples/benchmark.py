"""What a benchmark job asks, and reports."""

from __future__ import annotations

from api.examples.objects import MODEL_RECORD
from api.examples.report import QUALITY, REPORT, latency_of
from api.examples.requests import BENCHMARK
from api.examples.wire import JOB_ID
from shared import benchmark_report as benchmark
from shared import job_report as report
from shared import latency_report as latency
from shared.benchmark_spec import BenchmarkSpec

BENCHMARK_SPEC = BenchmarkSpec.model_validate(
    {
        **BENCHMARK,
        "candidates": [
            {"model": MODEL_RECORD.id, "name": "float"},
            {"job": JOB_ID, "artifact": "model_int8.onnx", "name": "digits in int8, model_int8.onnx"},
        ],
    }
)


def _form(name: str, kind: benchmark.FormKind, fidelity: report.OutputFidelity, top1: float) -> benchmark.FormResult:
    return benchmark.FormResult(
        name=f"{name}/{kind}",
        kind=kind,
        runtime="torch" if kind == "eager" else "onnxruntime",
        size_bytes=104_857 if name == "float" else 29_120,
        load=None if kind == "eager" else latency.Load(cold_ms=21.4, warm_ms=3.1, resident_bytes=1_204_224),
        quality=benchmark.FormQuality(
            metric=benchmark.FormMetric(name="top1", value=top1, reference=0.9806, drop=round(0.9806 - top1, 4)),
            fidelity=[fidelity],
        ),
        int8_operators=0 if name == "float" else 3,
        float_operators=0 if kind == "eager" else 3 if name == "float" else 0,
        labels=[],
    )


_equal = report.OutputFidelity(output="0", sqnr_db=None, cosine=1.0, agreement=1.0)
_ours = "digits in int8, model_int8.onnx"
_faster = f"{_ours} in ONNX Runtime is the fastest: 2.00 times as fast as float in ONNX Runtime (1.92–2.07)."
BENCHMARK_REPORT = benchmark.BenchmarkReport(
    method="benchmark",
    conclusion=(
        f"{_faster.removesuffix('.')}: 0.2 ms at batch 1, 1 thread; its answers agree with those of float in eager "
        "torch (top1 0.9778 and 0.9806, 99.7 % of the samples, SQNR 31.4 dB)."
    ),
    fastest=f"{_ours}/onnxruntime",
    reference="float/eager",
    data="evaluation",
    samples=360,
    candidates=[
        benchmark.CandidateResult(
            name="float",
            source=MODEL_RECORD.id,
            size_bytes=104_857,
            forms=[
                _form("float", "eager", _equal, 0.9806),
                _form(
                    "float",
                    "onnxruntime",
                    report.OutputFidelity(output="0", sqnr_db=128.2, cosine=1.0, agreement=1.0),
                    0.9806,
                ),
            ],
        ),
        benchmark.CandidateResult(
            name=_ours,
            source=f"{JOB_ID}/model_int8.onnx",
            size_bytes=29_120,
            forms=[_form(_ours, "onnxruntime", QUALITY.fidelity[0], 0.9778)],
        ),
    ],
    latency=[
        benchmark.ComparisonResult(
            batch_size=1,
            threads=1,
            rounds=3,
            baseline="float/onnxruntime",
            fastest=f"{_ours}/onnxruntime",
            candidates=[
                latency_of("float/eager", 2.4),
                latency_of("float/onnxruntime", 2.0),
                latency_of(f"{_ours}/onnxruntime", 1.0),
            ],
            speedups=[
                benchmark.FormSpeedup(name=name, speedup=speedup, speedup_ci95=interval, significant=True)
                for name, speedup, interval in (
                    (f"{_ours}/onnxruntime", 2.0, (1.92, 2.07)),
                    ("float/eager", 0.83, (0.8, 0.86)),
                )
            ],
            conclusion=_faster,
            significant=True,
            cores=[1],
            noisy=False,
            doubts=[],
            sittings=[benchmark.ComparisonSitting(cores=[1], rounds=3, doubts=[], kept=True)],
        )
    ],
    spec=BENCHMARK_SPEC.model_dump(mode="json") | {"metric": "top1", "runtimes": ["torch", "onnxruntime"]},
    environment=REPORT.environment,
    timings={"load": 0.4, "export": 0.9, "verify": 0.8, "benchmark": 5.0},
)
