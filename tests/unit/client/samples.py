"""A job and its report as the server sends them."""

from __future__ import annotations

from typing import Any

JOB_ID = "job_019abc5d1f0e7a33c49d20"
CREATED_AT = "2026-11-23T13:00:00Z"


def report(**changes: Any) -> dict[str, Any]:
    return {
        "schema_version": "3.0",
        "method": "static",
        "verdict": {"word": "recommended", "sentence": "1.80 times as fast, accuracy holds.", "accuracy": "met"},
        "quality": {
            "data": "evaluation",
            "samples": 597,
            "metric": {
                "name": "top1", "float": 0.9933, "int8": 0.9916, "drop": 0.0017, "max_drop": 0.01, "met": True,
            },
            "fidelity": [{"output": "0", "sqnr_db": 31.24, "cosine": 0.9996, "agreement": 0.995}],
        },
        "latency": [
            {
                "batch_size": 1, "threads": 1, "rounds": 200, "baseline": "float_frozen",
                "candidates": [
                    _stats("float_eager", 0.9), _stats("float_frozen", 0.72), _stats("int8_torch", 0.4),
                ],
                "speedup": 1.8, "speedup_ci95": [1.74, 1.86], "significant": True, "speedup_vs_eager": 2.25,
                "note": None,
            }
        ],
        "size": {"float_bytes": 1_500_000, "int8_bytes": 400_000, "ratio": 3.75},
        "layers": [{"name": "0", "op": "Conv2d", "precision": "int8", "weight_bytes": 576, "reason": None}],
        "training": None,
        "warnings": [{"code": "few_samples", "message": "Only 20 samples.", "hint": "Use 100.", "layer": None}],
        "spec": {"method": "static", "model": "mdl_019abc5d1f0e7a33c49d20"},
        "environment": {
            "cpu_model": "a CPU", "isa": ["avx2"], "cores": 2, "torch": "2.13.0", "python": "3.11.7",
            "qengine": "x86", "octavo": "0.1.0", "sandbox_level": "landlock",
        },
        "timings": {"load": 0.1},
        **changes,
    }  # fmt: skip


def report_of_every_runtime(**changes: Any) -> dict[str, Any]:
    """Of a job for three runtimes, of whose files one is right, one wrong and one missing."""
    plain = report()
    speedup = {**{key: plain["latency"][0][key] for key in _OF_SPEEDUP}, "name": "int8_torch"}
    wrong = {
        "data": "evaluation",
        "samples": 597,
        "metric": {"name": "top1", "float": 0.9933, "int8": 0.98, "drop": 0.0133, "max_drop": 0.01, "met": False},
        "fidelity": [{"output": "0", "sqnr_db": 8.9, "cosine": 0.93, "agreement": 0.98}],
    }
    return report(
        **{
            "recommended": "model_int8.pt",
            "artifacts": [
                artifact_result("model_int8.pt", "torch", quality=plain["quality"]),
                artifact_result(
                    "model_int8.onnx", "onnxruntime", quality=wrong, size_bytes=390_000, int8_operators=0,
                    float_operators=2, labels=["wrong", "accuracy_not_met", "in_float"],
                    note="It is 22.3 dB further from float than the torch artifact.",
                ),
                artifact_result(
                    "model_int8.openvino.onnx", "openvino", size_bytes=None, int8_operators=0, labels=["missing"],
                    note="OpenVINO refuses it.",
                ),
            ],
            "latency": [{**plain["latency"][0], "speedups": [speedup]}],
            **changes,
        }
    )  # fmt: skip


def artifact_result(name: str, runtime: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "runtime": runtime, "size_bytes": 400_000, "quality": None, "int8_operators": 2,
        "float_operators": 0, "labels": [], "note": None, **changes,
    }  # fmt: skip


_OF_SPEEDUP = ("speedup", "speedup_ci95", "significant", "speedup_vs_eager")
SUGGESTION = {
    "title": "Take the range of layer4.1.conv2 by percentile",
    "patch": {"overrides": [{"layer": "layer4.1.conv2", "activation": {"observer": "percentile"}}]},
    "expected": "Its steps become 6.1 times as fine.",
}


def _time(layer: str, float_ms: float, int8_ms: float, changed: str) -> dict[str, Any]:
    return {
        "layer": layer, "precision": "int8", "float_ms": float_ms, "int8_ms": int8_ms, "ratio": float_ms / int8_ms,
        "share": int8_ms / 0.38, "noise_ms": 0.01, "changed": changed,
    }  # fmt: skip


def explained_report(**changes: Any) -> dict[str, Any]:
    """A report with advice, layers, sensitivity and the job before."""
    before = report()
    worse = {"name": "top1", "float": 0.9933, "int8": 0.95, "drop": 0.0433, "max_drop": 0.01, "met": False}
    return report(
        **{
            "layers": [
                _layer("conv1", "Conv2d", 33.1, own=33.1, arriving=None),
                _layer("layer4.1.conv2", "Conv2d", 11.2, own=12.0, arriving=24.5),
                _layer("backbone.features.denseblock4.denselayer16.conv2", "Conv2d", 21.0, own=28.4, arriving=22.9),
                {**_layer("fc", "Linear", 20.4, own=None, arriving=20.4), "precision": "float32", "reason": LEFT},
                _layer("relu", "ReLU", None, own=None, arriving=None),
            ],
            "first_wrong": {
                "layer": "layer4.1.conv2",
                "told": "The int8 model first goes wrong at layer4.1.conv2: 11.2 dB at its output, where 24.5 dB "
                "arrives and 12.0 dB is made in it.",
            },
            "sensitivity": {
                "samples": 64, "base_sqnr_db": 18.0, "base_metric": None, "budget_seconds": 10.0, "seconds": 2.0,
                "layers": [
                    {
                        "layer": "layer4.1.conv2", "alone_int8_sqnr_db": 19.0, "alone_float_sqnr_db": 26.4,
                        "gain_db": 8.4, "alone_int8_metric": None, "alone_float_metric": None,
                    },
                ],
                "not_reached": ["fc"],
            },
            "layer_times": [
                {
                    "float_candidate": "float_frozen", "int8_candidate": "int8_torch", "batch_size": 1, "threads": 1,
                    "openings": 3, "runs": 40, "float_ms": 0.7, "int8_ms": 0.38, "float_p50_ms": 0.72,
                    "int8_p50_ms": 0.4, "boundaries_ms": 0.02, "float_reorders_ms": 0.0,
                    "layers": [
                        _time("conv1", 0.1, 0.16, "slower"), _time("layer4.1.conv2", 0.5, 0.1, "faster"),
                    ],
                    "conclusion": "In torch int8 takes 0.4 ms less in layer4.1.conv2.", "method": "By moments.",
                },
            ],
            "warnings": [
                {
                    "code": "outliers", "layer": "layer4.1.conv2", "hint": None, "suggestion": SUGGESTION,
                    "message": "A few values far from the others stretch the range of the output.",
                    "evidence": "The range is 6.1 times as wide as the one that holds 99.9 % of the values.",
                },
                {"code": "few_samples", "message": "Only 20 samples.", "hint": "Use 100.", "layer": None},
                {
                    "code": "train", "message": "Ranges alone will not do.", "hint": None, "layer": None,
                    "suggestion": {"title": "Train with fake quantize", "patch": {"method": "qat"}, "expected": None},
                },
            ],
            "before": {
                "job": "job_019abc5d1f0e7a33c49d1f", "changes": {"seed": 3, "overrides": [{"layer": "conv1"}]},
                "method": "static", "size": before["size"], "latency": before["latency"],
                "verdict": {"word": "accuracy_not_met", "sentence": "It lost too much.", "accuracy": "not_met"},
                "quality": {**before["quality"], "metric": worse},
            },
            **changes,
        }
    )  # fmt: skip


def full_report(**changes: Any) -> dict[str, Any]:
    """A report with all that a job can have."""
    metric = {"name": "top1", "float": 0.9933, "int8": 0.97, "drop": 0.0233, "max_drop": 0.01, "met": False}
    name = "backbone.features.denseblock4.denselayer16"
    return explained_report(
        **{
            "boundaries": [
                _boundary("x", "conv1", "quantize", 0.06),
                _boundary(f"{name}.conv2", f"{name}.softmax", "dequantize", 0.1, removed_by={"overrides": []}),
                _boundary("fc", "output", "dequantize", None),
            ],
            "calibration": {
                "samples": 64, "duplicates": 3, "subsets": 4, "scale_spread": 0.18, "quality_spread_db": 2.4,
                "coverage": 0.91, "sufficient": False, "enough_samples": 200,
                "inputs": [
                    {"name": "x", "constant": False, "min": -1.0, "max": 1.0, "evaluation_outside": 0.0013},
                    {"name": "mask", "constant": True, "min": 1.0, "max": 1.0, "evaluation_outside": None},
                ],
            },
            "ranges": [
                {"observer": "histogram", "sqnr_db": 17.25, "chosen": True},
                {"observer": "minmax", "sqnr_db": 15.1, "chosen": False},
            ],
            "recovery": [
                _recovery("cross_layer_equalization", 15.7, 16.4),
                {**_recovery("smooth_quant", None, None), "applied": False, "note": "There is no LayerNorm."},
            ],
            "kernels": [
                {**_kernels("onednn", 17.25), "latency_ms": 5.3, "chosen": True},
                {**_kernels("fbgemm", 1.7), "saturates": True, "layers": [f"{name}.conv2"]},
            ],
            "training": {
                "loss": "cross_entropy", "best_epoch": 6, "stopped": "early", "better": "qat", "offered": "qat",
                "static_metric": metric, "static_fidelity": [], "finetuned_metric": 0.9944,
                "epochs": [
                    {"epoch": epoch, "loss": 1 / epoch, "metric": 0.98, "sqnr_db": 20.0 + epoch, "seconds": 1.0}
                    for epoch in range(1, 8)
                ],
            },
            **changes,
        }
    )  # fmt: skip


def _boundary(producer: str, consumer: str, direction: str, cost_ms: float | None, **more: Any) -> dict[str, Any]:
    return {
        "producer": producer, "consumer": consumer, "direction": direction, "elements": 9, "cost_ms": cost_ms, **more,
    }  # fmt: skip


def _recovery(name: str, without: float | None, with_: float | None) -> dict[str, Any]:
    return {
        "name": name, "asked": "auto", "applied": True, "without_sqnr_db": without, "with_sqnr_db": with_, "layers": 57,
    }  # fmt: skip


def _kernels(qengine: str, sqnr_db: float) -> dict[str, Any]:
    return {
        "qengine": qengine, "sqnr_db": sqnr_db, "reference_sqnr_db": 17.3, "latency_ms": None, "saturates": False,
        "chosen": False, "layers": [],
    }  # fmt: skip


LEFT = "the last Linear stays in float: its output is the model's"


def _layer(name: str, op: str, sqnr_db: float | None, *, own: float | None, arriving: float | None) -> dict[str, Any]:
    error = {"own_sqnr_db": own, "arriving_sqnr_db": arriving, "sqnr_db": sqnr_db, "cosine": 0.99, "mse": 0.001}
    return {"name": name, "op": op, "precision": "int8", "weight_bytes": 576, "reason": None, "error": error}


def _stats(name: str, p50_ms: float) -> dict[str, Any]:
    return {
        "name": name, "p50_ms": p50_ms, "p90_ms": p50_ms * 1.1, "p99_ms": None, "mean_ms": p50_ms,
        "throughput_per_second": 1000 / p50_ms, "samples_ms": [p50_ms] * 3,
    }  # fmt: skip


def job(status: str = "queued", **changes: Any) -> dict[str, Any]:
    return {
        "id": JOB_ID,
        "object": "job",
        "status": status,
        "step": None,
        "progress": {"fraction": 0.0, "message": "", "eta_seconds": None},
        "attempt": 1,
        "spec": {"method": "static", "model": "mdl_019abc5d1f0e7a33c49d20"},
        "report": report() if status == "succeeded" else None,
        "error": None,
        "artifacts": [],
        "sandbox_level": "landlock",
        "cancel_requested": False,
        "created_at": CREATED_AT,
        "started_at": None,
        "finished_at": None,
        "name": "digits",
        "metadata": {},
        "based_on": None,
        "changes": None,
        **changes,
    }


def event(seq: int, kind: str, **data: Any) -> dict[str, Any]:
    return {"seq": seq, "kind": kind, "created_at": CREATED_AT, "data": data}


def event_page(*events: dict[str, Any]) -> dict[str, Any]:
    return {"data": list(events), "has_more": False, "next": events[-1]["seq"] if events else None}


def model(**changes: Any) -> dict[str, Any]:
    return {
        "id": "mdl_019abc5d1f0e7a33c49d20",
        "kind": "model",
        "name": "net",
        "filename": "net.pt2",
        "size_bytes": 12,
        "sha256": "0" * 64,
        "created_at": CREATED_AT,
        "inputs": [{"name": "x", "shape": [None, 1, 8, 8], "dtype": "float32"}],
        "outputs": 1,
        "parameters": 1234,
        **changes,
    }


def dataset(**changes: Any) -> dict[str, Any]:
    return {
        "id": "dst_019abc5d20c17a3391be04",
        "kind": "dataset",
        "name": "images",
        "filename": "images.npz",
        "size_bytes": 12,
        "sha256": "1" * 64,
        "created_at": CREATED_AT,
        "samples": 4,
        "arrays": {"x": {"shape": [4, 1, 8, 8], "dtype": "float32"}},
        "labels": False,
        **changes,
    }
