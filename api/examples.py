"""The examples of the OpenAPI document: one small story, from the upload of a model to its report.

They are built of the wire types, so they cannot name a field that is not there.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from api.jobs.schemas import Event, EventPage, wire_job
from api.objects.schemas import wire_object
from api.uploads.schemas import Part, wire_upload
from shared import benchmark_report as benchmark
from shared import job_plan as plan
from shared import job_report as report
from shared import latency_report as latency
from shared.benchmark_spec import BenchmarkSpec
from shared.database.records import JobRecord, ObjectRecord, PartRecord, UploadRecord
from shared.job import Artifact, JobStatus, Progress, Step
from shared.layer_report import LayerError, LayerSummary
from shared.layer_times import BoundaryTime, LayerTime, LayerTimes, OtherTime
from shared.quantization_spec import StaticSpec

_STARTED = 1_795_438_800.0  # 2026-11-23T13:00:00Z
_MODEL_SHA256 = "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"
_DATASET_SHA256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
_ARTIFACT_SHA256 = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"

JOB_ID = "job_019abc5d3f0e7a33c49d2077"
UPLOAD_ID = "upl_019abc5d0b0e7a33c49d20aa"


def _wire(value: BaseModel) -> Any:
    return value.model_dump(mode="json", warnings=False)


_model = ObjectRecord(
    id="mdl_019abc5d1f0e7a33c49d2011",
    kind="model",
    name="digits",
    filename="digits.pt2",
    size_bytes=104_857,
    sha256=_MODEL_SHA256,
    description={
        "format": "pt2",
        "inputs": [{"name": "x", "shape": [None, 1, 8, 8], "dtype": "float32"}],
        "outputs": 1,
        "parameters": 24_010,
    },
    created_at=_STARTED,
)
_onnx = ObjectRecord(
    **{
        **vars(_model),
        "id": "mdl_019abc5d2a0e7a33c49d2033",
        "name": "digits of others",
        "filename": "others.onnx",
        "description": {**_model.description, "format": "onnx"},
    }
)
_dataset = ObjectRecord(
    id="dst_019abc5d20c17a3391be0422",
    kind="dataset",
    name="digits, held out",
    filename="evaluation.npz",
    size_bytes=94_412,
    sha256=_DATASET_SHA256,
    description={
        "samples": 360,
        "arrays": {
            "x": {"shape": [360, 1, 8, 8], "dtype": "float32"},
            "labels": {"shape": [360], "dtype": "int64"},
        },
        "labels": True,
    },
    created_at=_STARTED + 2,
)
MODEL: dict[str, Any] = _wire(wire_object(_model))
DATASET: dict[str, Any] = _wire(wire_object(_dataset))

# --- uploads ---------------------------------------------------------------------------------------------------------

_upload = UploadRecord(
    id=UPLOAD_ID,
    kind="model",
    name="digits",
    filename="digits.pt2",
    size_bytes=_model.size_bytes,
    sha256=_MODEL_SHA256,
    part_size_bytes=65_536,
    completed=False,
    object_id=None,
    created_at=_STARTED,
    expires_at=_STARTED + 86_400,
    parts=[],
)
_part = PartRecord(number=1, size_bytes=65_536, sha256=_ARTIFACT_SHA256)

UPLOAD_REQUESTS: dict[str, Any] = {
    "model": {
        "summary": "A model of 100 kB",
        "value": {
            "kind": "model",
            "name": "digits",
            "filename": "digits.pt2",
            "size_bytes": _model.size_bytes,
            "sha256": _MODEL_SHA256,
        },
    }
}
COMPLETE_REQUESTS: dict[str, Any] = {"whole": {"summary": "The hash of the file", "value": {"sha256": _MODEL_SHA256}}}
OPEN_UPLOAD: dict[str, Any] = _wire(wire_upload(_upload))
PARTIAL_UPLOAD: dict[str, Any] = _wire(wire_upload(UploadRecord(**{**vars(_upload), "parts": [_part]})))
COMPLETE_UPLOAD: dict[str, Any] = _wire(
    wire_upload(UploadRecord(**{**vars(_upload), "completed": True, "object_id": _model.id}), _model)
)
PART: dict[str, Any] = _wire(Part(number=1, size_bytes=_part.size_bytes, sha256=_part.sha256))

# --- jobs ------------------------------------------------------------------------------------------------------------

_STATIC: dict[str, Any] = {
    "method": "static",
    "model": _model.id,
    "calibration": _dataset.id,
    "evaluation": _dataset.id,
    "name": "digits in int8",
}
_BENCHMARK: dict[str, Any] = {
    "method": "benchmark",
    "candidates": [
        {"model": _model.id, "name": "float"},
        {"job": JOB_ID, "artifact": "model_int8.onnx"},
        {"model": _onnx.id},
    ],
    "evaluation": _dataset.id,
    "benchmark": {"batch_sizes": [1, 8]},
}
JOB_REQUESTS: dict[str, Any] = {
    "dynamic": {
        "summary": "int8 weights, no data needed",
        "value": {"method": "dynamic", "model": _model.id},
    },
    "static": {
        "summary": "int8 weights and activations, calibrated; the first convolution stays in float",
        "value": {
            **_STATIC,
            "metric": "top1",
            "max_accuracy_drop": 0.01,
            "overrides": [{"layer": "conv1", "precision": "float32"}],
        },
    },
    "qat": {
        "summary": "Trained with fake quantize",
        "value": {
            "method": "qat",
            "model": _model.id,
            "training": _dataset.id,
            "evaluation": _dataset.id,
            "qat": {"epochs": 3, "learning_rate": 0.0001},
        },
    },
    "runtimes": {
        "summary": "An artifact for ONNX Runtime beside the one for torch, and none for OpenVINO",
        "value": {**_STATIC, "runtimes": ["torch", "onnxruntime"]},
    },
    "hardware": {
        "summary": "Run and measured on the hardware that it will be deployed on",
        "value": {
            "method": "dynamic",
            "model": _model.id,
            "hardware": {"isa": ["avx512_vnni"], "cpu": "AMD EPYC 9*", "labels": {"pool": "edge"}},
        },
    },
    "benchmark": {
        "summary": "A model against the int8 model that a job made of it, and against an ONNX file",
        "value": _BENCHMARK,
    },
    "measure_on": {
        "summary": "Quantized anywhere, and measured on two kinds of node",
        "value": {
            **_STATIC,
            "measure_on": [{"labels": {"pool": "edge"}}, {"isa": ["avx512_vnni"], "cpu": "AMD EPYC 9*"}],
        },
    },
    "based_on": {
        "summary": "The spec of an earlier job, with the suggestion of its report's first warning and another target",
        "value": {"based_on": JOB_ID, "apply": [0], "changes": {"max_accuracy_drop": 0.005}},
    },
}
_spec = StaticSpec.model_validate(_STATIC)


def _latency(name: str, scale: float) -> latency.LatencyStats:
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


_quality = report.Quality(
    data="evaluation",
    samples=360,
    metric=report.MetricResult(
        name="top1", float_value=0.9806, int8_value=0.9778, drop=0.0028, max_drop=0.01, met=True
    ),
    fidelity=[report.OutputFidelity(output="0", sqnr_db=31.4, cosine=0.9996, agreement=0.9972)],
)
_report = report.JobReport(
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
            quality=_quality,
            int8_operators=3,
            float_operators=0,
            labels=[],
        ),
        report.ArtifactResult(
            name="model_int8.onnx",
            runtime="onnxruntime",
            size_bytes=29_120,
            quality=_quality,
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
    quality=_quality,
    latency=[
        latency.BenchmarkResult(
            batch_size=1,
            threads=1,
            rounds=3,
            baseline="float_onnxruntime",
            int8="int8_onnxruntime",
            candidates=[
                _latency("float_eager", 2.4),
                _latency("float_frozen", 2.2),
                _latency("float_onnxruntime", 2.0),
                _latency("int8_torch", 1.25),
                _latency("int8_onnxruntime", 1.0),
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
    spec=_spec.model_dump(mode="json"),
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

_queued = JobRecord(
    id=JOB_ID,
    status=JobStatus.QUEUED,
    spec=_spec.model_dump(mode="json"),
    name=_spec.name,
    created_at=_STARTED + 5,
    started_at=None,
    finished_at=None,
    step=None,
    progress=Progress(),
    attempt=0,
    crashes=0,
    fence=0,
    worker_id=None,
    cancel_requested=False,
    sandbox_level=None,
    not_before=_STARTED + 5,
    error=None,
    artifacts=[],
    event_seq=1,
)
_succeeded = JobRecord(
    **{
        **vars(_queued),
        "status": JobStatus.SUCCEEDED,
        "started_at": _STARTED + 6,
        "finished_at": _STARTED + 13,
        "step": Step.STORE,
        "progress": Progress(fraction=1.0, eta_seconds=0.0),
        "attempt": 1,
        "sandbox_level": "landlock",
        "artifacts": [
            Artifact(
                name=name,
                kind="model",
                media_type="application/octet-stream",
                size_bytes=size_bytes,
                sha256=_ARTIFACT_SHA256,
            )
            for name, size_bytes in (("model_int8.onnx", 29_120), ("model_int8.pt", 30_310))
        ],
        "event_seq": 7,
        "report": _report.model_dump(mode="json"),
    }
)
_benchmark_spec = BenchmarkSpec.model_validate(
    {
        **_BENCHMARK,
        "candidates": [
            {"model": _model.id, "name": "float"},
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
_benchmark_report = benchmark.BenchmarkReport(
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
            source=_model.id,
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
            forms=[_form(_ours, "onnxruntime", _quality.fidelity[0], 0.9778)],
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
                _latency("float/eager", 2.4),
                _latency("float/onnxruntime", 2.0),
                _latency(f"{_ours}/onnxruntime", 1.0),
            ],
            speedups=[
                benchmark.FormSpeedup(name=name, speedup=speedup, speedup_ci95=interval, significant=True)
                for name, speedup, interval in (
                    (f"{_ours}/onnxruntime", 2.0, (1.92, 2.07)),
                    ("float/eager", 0.83, (0.8, 0.86)),
                )
            ],
            conclusion=_faster,
            cores=[1],
            noisy=False,
            doubts=[],
            sittings=[benchmark.ComparisonSitting(cores=[1], rounds=3, doubts=[], kept=True)],
        )
    ],
    spec=_benchmark_spec.model_dump(mode="json") | {"metric": "top1", "runtimes": ["torch", "onnxruntime"]},
    environment=_report.environment,
    timings={"load": 0.4, "export": 0.9, "verify": 0.8, "benchmark": 5.0},
)
_measured = JobRecord(
    **{
        **vars(_succeeded),
        "id": "job_019abc5d6f0e7a33c49d2088",
        "spec": _benchmark_spec.model_dump(mode="json"),
        "name": None,
        "artifacts": [
            Artifact(
                name="report.json",
                kind="report",
                media_type="application/json",
                size_bytes=5_210,
                sha256=_ARTIFACT_SHA256,
            )
        ],
        "report": _benchmark_report.model_dump(mode="json"),
    }
)
_cancelled = JobRecord(
    **{
        **vars(_queued),
        "status": JobStatus.CANCELLED,
        "finished_at": _STARTED + 8,
        "cancel_requested": True,
        "event_seq": 2,
    }
)
QUEUED_JOB: dict[str, Any] = _wire(wire_job(_queued))
SUCCEEDED_JOB: dict[str, Any] = _wire(wire_job(_succeeded))
BENCHMARK_JOB: dict[str, Any] = _wire(wire_job(_measured))
CANCELLED_JOB: dict[str, Any] = _wire(wire_job(_cancelled))

_events = [
    {
        "seq": 6,
        "kind": "progress",
        "created_at": "2026-11-23T13:00:12Z",
        "data": {"step": "package", "fraction": 0.93, "message": "Writing the report", "eta_seconds": 0.5},
    },
    {
        "seq": 7,
        "kind": "status",
        "created_at": "2026-11-23T13:00:13Z",
        "data": {"status": "succeeded", "attempt": 1},
    },
]
EVENT_PAGE: dict[str, Any] = _wire(
    EventPage(data=[Event.model_validate(each) for each in _events], has_more=False, next=7)
)
EVENT_STREAM = (
    "event: status\n"
    'data: {"seq":7,"kind":"status","created_at":"2026-11-23T13:00:13Z","data":{"status":"succeeded","attempt":1}}\n'
    "id: 7\n\n"
)

# --- plans -----------------------------------------------------------------------------------------------------------

PLAN_REQUESTS: dict[str, Any] = {
    "static": {
        "summary": "Before there is any data",
        "value": {"method": "static", "model": _model.id},
    },
    "data": {
        "summary": "With data, whose number of samples tells how long it will take",
        "value": {key: value for key, value in _STATIC.items() if key != "name"},
    },
}
PLAN: dict[str, Any] = _wire(
    plan.JobPlan(
        method="static",
        model=_model.id,
        conclusion="2 of 3 layers would be quantized, 94.7 % of the arithmetic.",
        worker=plan.PlanWorker(hostname="node-1", cpu_model="AMD EPYC 9354"),
        qengine="onednn",
        layers=[
            plan.PlannedLayer(
                layer="conv1",
                op="Conv2d",
                precision="int8",
                macs=9_216,
                share=0.0526,
                int8_in=["torch", "onnxruntime", "openvino"],
            ),
            plan.PlannedLayer(
                layer="conv2",
                op="Conv2d",
                precision="int8",
                macs=156_672,
                share=0.8947,
                int8_in=["torch", "onnxruntime", "openvino"],
            ),
            plan.PlannedLayer(
                layer="head",
                op="Linear",
                precision="float32",
                macs=9_216,
                share=0.0526,
                reason="overridden: layer head",
            ),
        ],
        int8_layers=2,
        float_layers=1,
        int8_share=0.9474,
        runtimes=[
            plan.PlannedRuntime(runtime=name, int8_share=0.9474) for name in ("torch", "onnxruntime", "openvino")
        ],
        instructions=plan.Instructions(
            found=["avx2", "avx512", "avx512_vnni"],
            dot_product="vnni",
            note="VNNI adds up four products of 8-bit integers at once.",
        ),
        duration=plan.Duration(
            seconds=9.0,
            low_seconds=5.4,
            high_seconds=15.3,
            steps={"load": 0.6, "prepare": 0.9, "calibrate": 1.1, "convert": 0.8, "evaluate": 0.4, "benchmark": 5.2},
            pace=plan.Pace(sample_seconds=0.000021, load_seconds=0.4, plan_seconds=0.6, layers=3),
            basis="0.021 ms a sample in float on this worker; assumed: 128 samples to calibrate with",
        ),
    )
)

# --- the service -----------------------------------------------------------------------------------------------------

HEALTH: dict[str, Any] = {"status": "ok"}
READY: dict[str, Any] = {
    "status": "ready",
    "checks": {
        "database": {"ok": True, "detail": None},
        "object_store": {"ok": True, "detail": None},
        "broker": {"ok": True, "detail": None},
        "workers": {"ok": True, "detail": "1 alive"},
    },
}
NOT_READY: dict[str, Any] = {
    "status": "unavailable",
    "checks": {**READY["checks"], "object_store": {"ok": False, "detail": "The object store does not answer."}},
}
METRICS = '# TYPE octavo_jobs gauge\noctavo_jobs{method="static",status="queued"} 3.0\n'
META: dict[str, Any] = {
    "version": "0.1.0",
    "api": "v1",
    "methods": ["dynamic", "static", "qat", "benchmark"],
    "workers": [
        {
            "id": "wrk_019abc5d0000aabbccddeeff",
            "hostname": "node-1",
            "cpu_model": "AMD EPYC 9354",
            "isa": ["avx2", "avx512", "avx512_vnni"],
            "cores": 2,
            "torch": "2.13.0",
            "sandbox_level": "landlock",
            "concurrency": 1,
            "labels": {"arch": "x86_64", "cpu.vendor": "amd", "cpu.family": "25", "cpu.model": "17", "pool": "edge"},
            "status": "idle",
            "heartbeat_at": "2026-11-23T13:00:15Z",
        }
    ],
    "limits": {
        "max_upload_bytes": 17_179_869_184,
        "part_size_bytes": 16_777_216,
        "max_json_bytes": 1_048_576,
        "upload_expire_seconds": 86_400.0,
        "wall_limit_seconds": 21_600.0,
        "max_attempts": 5,
    },
}


def _page(entry: dict[str, Any]) -> dict[str, Any]:
    return {"data": [entry], "has_more": False, "next": None}


# What answers refer to, by name.
ANSWERS: dict[str, Any] = {
    "meta": META,
    "model": MODEL,
    "models": _page(MODEL),
    "dataset": DATASET,
    "datasets": _page(DATASET),
    "open_upload": OPEN_UPLOAD,
    "partial_upload": PARTIAL_UPLOAD,
    "complete_upload": COMPLETE_UPLOAD,
    "part": PART,
    "queued_job": QUEUED_JOB,
    "succeeded_job": SUCCEEDED_JOB,
    "succeeded_benchmark": BENCHMARK_JOB,
    "cancelled_job": CANCELLED_JOB,
    "jobs": _page(QUEUED_JOB),
    "events": EVENT_PAGE,
    "plan": PLAN,
    "healthy": HEALTH,
    "ready": READY,
    "not_ready": NOT_READY,
}
