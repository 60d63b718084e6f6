"""What jobs and plans are asked for with."""

from __future__ import annotations

from typing import Any

from api.examples.objects import DATASET_RECORD, MODEL_RECORD, ONNX_RECORD
from api.examples.wire import JOB_ID

STATIC: dict[str, Any] = {
    "method": "static",
    "model": MODEL_RECORD.id,
    "calibration": DATASET_RECORD.id,
    "evaluation": DATASET_RECORD.id,
    "name": "digits in int8",
}
BENCHMARK: dict[str, Any] = {
    "method": "benchmark",
    "candidates": [
        {"model": MODEL_RECORD.id, "name": "float"},
        {"job": JOB_ID, "artifact": "model_int8.onnx"},
        {"model": ONNX_RECORD.id},
    ],
    "evaluation": DATASET_RECORD.id,
    "benchmark": {"batch_sizes": [1, 8]},
}
JOB_REQUESTS: dict[str, Any] = {
    "dynamic": {
        "summary": "int8 weights, no data needed",
        "value": {"method": "dynamic", "model": MODEL_RECORD.id},
    },
    "static": {
        "summary": "int8 weights and activations, calibrated; the first convolution stays in float",
        "value": {
            **STATIC,
            "metric": "top1",
            "max_accuracy_drop": 0.01,
            "overrides": [{"layer": "conv1", "precision": "float32"}],
        },
    },
    "qat": {
        "summary": "Trained with fake quantize",
        "value": {
            "method": "qat",
            "model": MODEL_RECORD.id,
            "training": DATASET_RECORD.id,
            "evaluation": DATASET_RECORD.id,
            "qat": {"epochs": 3, "learning_rate": 0.0001},
        },
    },
    "runtimes": {
        "summary": "An artifact for ONNX Runtime beside the one for torch, and none for OpenVINO",
        "value": {**STATIC, "runtimes": ["torch", "onnxruntime"]},
    },
    "hardware": {
        "summary": "Run and measured on the hardware that it will be deployed on",
        "value": {
            "method": "dynamic",
            "model": MODEL_RECORD.id,
            "hardware": {"isa": ["avx512_vnni"], "cpu": "AMD EPYC 9*", "labels": {"pool": "edge"}},
        },
    },
    "benchmark": {
        "summary": "A model against the int8 model that a job made of it, and against an ONNX file",
        "value": BENCHMARK,
    },
    "measure_on": {
        "summary": "Quantized anywhere, and measured on two kinds of node",
        "value": {
            **STATIC,
            "measure_on": [{"labels": {"pool": "edge"}}, {"isa": ["avx512_vnni"], "cpu": "AMD EPYC 9*"}],
        },
    },
    "based_on": {
        "summary": "The spec of an earlier job, with the suggestion of its report's first warning and another target",
        "value": {"based_on": JOB_ID, "apply": [0], "changes": {"max_accuracy_drop": 0.005}},
    },
}
PLAN_REQUESTS: dict[str, Any] = {
    "static": {
        "summary": "Before there is any data",
        "value": {"method": "static", "model": MODEL_RECORD.id},
    },
    "data": {
        "summary": "With data, whose number of samples tells how long it will take",
        "value": {key: value for key, value in STATIC.items() if key != "name"},
    },
}
