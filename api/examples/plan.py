"""The answer to what would be quantized."""

from __future__ import annotations

from typing import Any

from api.examples.objects import MODEL_RECORD
from api.examples.wire import wire
from shared import job_plan as plan

PLAN: dict[str, Any] = wire(
    plan.JobPlan(
        method="static",
        model=MODEL_RECORD.id,
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
