"""What a quantize job reports."""

from __future__ import annotations

from api.examples.requests import STATIC
from shared import job_report as report
from shared import latency_report as latency
from shared.layer_report import LayerError, LayerSummary
from shared.layer_times import BoundaryTime, LayerTime, LayerTimes, OtherTime
from shared.quantization_spec import StaticSpec

SPEC = StaticSpec.model_validate(STATIC)


def latency_of(name: str, scale: float) -> latency.LatencyStats:
    """Three samples of about a fifth of a millisecond times `scale`."""
    samples = [round(0.20 * scale, 4), round(0.21 * scale, 4), round(0.20 * scale, 4)]
    return latency.LatencyStats(
        name=name,
        p50_ms=samples[0],
        p90_ms=samples[1],
        p99_ms=None,
        mean_ms=samples[0],
        throughput_per_second=round(1000 / samples[0], 1),
        samples_ms=samples,
    )


QUALITY = report.Quality(
    data="evaluation",
    samples=360,
    metric=report.MetricResult(
        name="top1", float_value=0.9806, int8_value=0.9778, drop=0.0028, max_drop=0.01, met=True
    ),
    fidelity=[report.OutputFidelity(output="0", sqnr_db=31.4, cosine=0.9996, agreement=0.9972)],
)
REPORT = report.JobReport(
    method="static",
    verdict=report.Verdict(
        word="recommended",
        sentence=(
            "top1 0.9806 → 0.9778 (drop 0.0028, target 0.0100 met); 2.00× faster (1.92–2.07) than ONNX Runtime float "
            "with model_int8.onnx at batch 1, 1 thread; 3.6× smaller."
        ),
        accuracy="met",
    ),
    recommended="model_int8.onnx",
    artifacts=[
        report.ArtifactResult(
            name="model_int8.pt",
            runtime="torch",
            size_bytes=30_310,
            quality=QUALITY,
            int8_operators=3,
            float_operators=0,
            labels=[],
        ),
        report.ArtifactResult(
            name="model_int8.onnx",
            runtime="onnxruntime",
            size_bytes=29_120,
            quality=QUALITY,
            int8_operators=3,
            float_operators=0,
            labels=[],
        ),
        report.ArtifactResult(
            name="model_int8.openvino.onnx",
            runtime="openvino",
            size_bytes=None,
            quality=None,
            int8_operators=0,
            float_operators=0,
            labels=["missing"],
            note="At batch 3 it gives outputs of shape [(1, 10)], and the float model of [(3, 10)].",
        ),
    ],
    quality=QUALITY,
    latency=[
        latency.BenchmarkResult(
            batch_size=1,
            threads=1,
            rounds=3,
            baseline="float_onnxruntime",
            int8="int8_onnxruntime",
            candidates=[
                latency_of("float_eager", 2.4),
                latency_of("float_frozen", 2.2),
                latency_of("float_onnxruntime", 2.0),
                latency_of("int8_torch", 1.25),
                latency_of("int8_onnxruntime", 1.0),
            ],
            speedup=2.0,
            speedup_ci95=(1.92, 2.07),
            significant=True,
            speedup_vs_eager=2.4,
            conclusion="ONNX Runtime int8 is 2.00 times as fast as ONNX Runtime float (1.92 to 2.07).",
            speedups=[
                latency.Speedup(
                    name=name,
                    speedup=speedup,
                    speedup_ci95=interval,
                    significant=True,
                    speedup_vs_eager=round(1.2 * speedup, 2),
                )
                for name, speedup, interval in (
                    ("int8_onnxruntime", 2.0, (1.92, 2.07)),
                    ("int8_torch", 1.6, (1.53, 1.68)),
                )
            ],
            cores=[1],
            doubts=[latency.Doubt(cause="few_rounds", told="Only 3 rounds fitted into the time budget.")],
            sittings=[
                latency.Sitting(
                    cores=[1],
                    rounds=3,
                    speedup=2.0,
                    speedup_ci95=(1.92, 2.07),
                    doubts=[latency.Doubt(cause="few_rounds", told="Only 3 rounds fitted into the time budget.")],
                    kept=True,
                )
            ],
            roofline=latency.Roofline(reached_gmacs_per_second=41.2, peak_gmacs_per_second=219.0, share=0.188),
            note="Only 3 rounds fitted into the time budget.",
        )
    ],
    size=report.Size(float_bytes=104_857, int8_bytes=29_120, ratio=3.6),
    inputs=[report.ExampleInput(name="x", dtype="float32", shape=[1, 1, 8, 8], greatest=None)],
    layers=[
        LayerSummary(
            name="conv1",
            op="Conv2d",
            precision="int8",
            weight_bytes=288,
            macs=18_432,
            error=LayerError(own_sqnr_db=29.8, arriving_sqnr_db=None, sqnr_db=29.8, cosine=0.9995, mse=0.00021),
        )
    ],
    layer_times=[
        LayerTimes(
            float_candidate="float_onnxruntime",
            int8_candidate="int8_onnxruntime",
            batch_size=1,
            threads=1,
            cores=[1],
            openings=3,
            runs=40,
            layers=[
                LayerTime(
                    layer="conv1",
                    precision="int8",
                    float_ms=1.9,
                    int8_ms=0.9,
                    ratio=2.11,
                    share=0.918,
                    noise_ms=0.02,
                    changed="faster",
                )
            ],
            boundaries=[BoundaryTime(kind="quantize", producer="input", consumer="conv1", ms=0.05)],
            others=[OtherTime(op="Reshape", float_ms=0.03, int8_ms=0.03)],
            float_ms=1.93,
            int8_ms=0.98,
            float_p50_ms=2.0,
            int8_p50_ms=1.0,
            subtracted_ms=0.0012,
            boundaries_ms=0.05,
            float_reorders_ms=0.0,
            conclusion=(
                "In ONNX Runtime int8 takes 1 ms less in conv1 (1.9 ms in float, 0.9 ms in int8); quantizing, "
                "dequantizing and reordering costs 0.05 ms at 1 place, 5 % of its time."
            ),
            method="By ONNX Runtime's profiler.",
        )
    ],
    warnings=[
        report.ReportWarning(
            code="outliers",
            message="A few values far from the others stretch the range of conv1's output.",
            hint="Leave the rarest values out of the range.",
            layer="conv1",
            evidence="The range is 6.1 times as wide as the one that holds 99.9 % of the values.",
            suggestion=report.Suggestion(
                title="Take the range of conv1 by percentile",
                patch={"overrides": [{"layer": "conv1", "activation": {"observer": "percentile"}}]},
                expected="The steps of conv1's output become 6.1 times as fine.",
            ),
        )
    ],
    spec=SPEC.model_dump(mode="json"),
    environment=latency.Environment(
        cpu_model="AMD EPYC 9354",
        isa=["avx2", "avx512", "avx512_vnni"],
        cores=2,
        torch="2.13.0",
        python="3.11.7",
        qengine="x86",
        octavo="0.1.0",
        sandbox_level="landlock",
        affinity=[0, 1],
        smt=False,
        load_average=[0.4, 0.3, 0.2],
        versions={"numpy": "2.4.1", "onnxruntime": "1.32.0", "openvino": "2026.4.1"},
        thread_settings={"job": "2"},
    ),
    timings={
        "load": 0.41,
        "calibrate": 0.35,
        "evaluate": 0.22,
        "export": 0.9,
        "package": 0.6,
        "verify": 0.8,
        "benchmark": 5.0,
    },
)
