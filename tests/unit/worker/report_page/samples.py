"""Reports such as jobs make: by static quantization, for every runtime, by QAT, a bare dynamic one, a huge one."""

from __future__ import annotations

import math
import random
from typing import Any

from shared.job_report import (
    ArtifactLabel,
    ArtifactResult,
    Before,
    CalibrationResult,
    EpochResult,
    InputCheck,
    JobReport,
    KernelTrial,
    MetricResult,
    OutputFidelity,
    Quality,
    RangeTrial,
    RecoveryResult,
    ReportWarning,
    Size,
    Suggestion,
    TrainingResult,
    Verdict,
)
from shared.latency_report import BenchmarkResult, Environment, LatencyStats, Load, Speedup
from shared.layer_report import (
    ChannelSpread,
    Clipping,
    Fusion,
    GraphNode,
    Graphs,
    Histogram,
    LayerError,
    LayerSensitivity,
    LayerSummary,
    Qparams,
    QuantBoundary,
    Sensitivity,
)
from shared.layer_times import BoundaryTime, LayerTime, LayerTimes, OtherTime
from shared.quantization_spec import Runtime
from worker.findings.first_wrong import first_wrong
from worker.outputs import MODEL_NAMES

WRONG_LAYER = "layer3.1.conv2"

ENVIRONMENT = Environment(
    cpu_model="AMD EPYC 9R14",
    isa=["avx2", "avx512", "avx512_vnni"],
    cores=8,
    torch="2.13.0+cpu",
    python="3.11.9",
    qengine="onednn",
    octavo="0.1.0",
    sandbox_level="landlock+seccomp",
    versions={"onnxruntime": "1.2.3+local", "openvino": "4.5.6"},
)


def bare_dynamic() -> JobReport:
    """A dynamic job without data: next to everything is absent."""
    return JobReport(
        method="dynamic",
        verdict=Verdict(
            word="no_faster", sentence="int8 is near float (38.1 dB); no faster.", accuracy="not_evaluated"
        ),
        quality=Quality(
            data="synthetic",
            samples=32,
            metric=None,
            fidelity=[OutputFidelity(output="output", sqnr_db=38.1, cosine=0.99993, agreement=None)],
        ),
        latency=[benchmark(1, 0.42, 0.41, seed=1)],
        size=Size(float_bytes=1_204_000, int8_bytes=331_000, ratio=3.64),
        layers=[LayerSummary(name="lstm", op="LSTM", precision="int8", weight_bytes=262_144)],
        spec={"method": "dynamic", "model": "mdl_019abc5d1f0e7a33c49d20"},
        environment=ENVIRONMENT,
        timings={"load": 0.31, "convert": 0.12, "benchmark": 5.01},
    )


def residual_cnn(blocks: int = 14, *, seed: int = 0) -> JobReport:
    """Static quantization of a ResNet of `4 × blocks + 4` layers, one of them outlying, with all there is to tell."""
    chance = random.Random(seed)
    names = _resnet_names(blocks)
    layers = _layers(names, chance)
    quality = Quality(
        data="evaluation",
        samples=2000,
        metric=MetricResult(name="top1", float_value=0.934, int8_value=0.9085, drop=0.0255, max_drop=0.01, met=False),
        fidelity=[OutputFidelity(output="logits", sqnr_db=16.4, cosine=0.98871, agreement=0.9505)],
    )
    return JobReport(
        method="static",
        verdict=Verdict(
            word="accuracy_not_met",
            sentence="Top-1 falls from 93.40 % to 90.85 %: 2.55 points where 1.00 is allowed. int8 is 2.31× faster.",
            accuracy="not_met",
        ),
        artifacts=[artifact("torch", 11_402_120, quality, labels=["accuracy_not_met"])],
        quality=quality,
        latency=[benchmark(1, 12.3, 5.3, seed=2), benchmark(8, 88.1, 41.7, seed=3)],
        size=Size(float_bytes=44_712_300, int8_bytes=11_402_120, ratio=3.92),
        layers=layers,
        layer_times=[layer_times(layers, "int8_torch", seed=6)],
        first_wrong=first_wrong(layers),
        sensitivity=_sensitivity(names, chance),
        boundaries=[
            QuantBoundary(
                producer="x",
                consumer="stem.conv",
                direction="quantize",
                elements=150_528,
                cost_ms=0.061,
            ),
            QuantBoundary(
                producer="layer4.0.add",
                consumer="gate.softplus",
                direction="dequantize",
                elements=25_088,
                cost_ms=0.018,
                removed_by={"overrides": [{"layer": "gate.*", "precision": "float32"}]},
            ),
            QuantBoundary(producer="fc", consumer="output", direction="dequantize", elements=1000, cost_ms=None),
        ],
        fusions=[
            *(
                Fusion(
                    layers=[f"{name}.conv1", f"{name}.bn1", f"{name}.relu"],
                    pattern="Conv2d + BatchNorm2d + ReLU",
                    fused=True,
                )
                for name in ("layer1.0", "layer1.1", "layer2.0")
            ),
            Fusion(
                layers=["neck.conv", "neck.act"],
                pattern="Conv2d + Hardswish",
                fused=False,
                reason="onednn has no kernel for this pair.",
            ),
        ],
        graphs=Graphs(float_nodes=_resnet_graph(blocks, int8=False), int8_nodes=_resnet_graph(blocks, int8=True)),
        histograms=[
            _histogram(name, role, chance) for name in [WRONG_LAYER, *names[:4]] for role in ("output", "weight")
        ],
        calibration=CalibrationResult(
            samples=64,
            duplicates=3,
            inputs=[InputCheck(name="x", constant=False, min=-2.12, max=2.64, evaluation_outside=0.0013)],
            subsets=4,
            scale_spread=0.18,
            quality_spread_db=2.4,
            coverage=0.91,
            sufficient=False,
            enough_samples=200,
        ),
        ranges=[
            RangeTrial(observer="histogram", sqnr_db=16.4, chosen=True),
            RangeTrial(observer="minmax", sqnr_db=15.1, chosen=False),
            RangeTrial(observer="percentile 99.99", sqnr_db=16.2, chosen=False),
        ],
        recovery=[
            RecoveryResult(
                name="bias_correction", asked="auto", applied=True, without_sqnr_db=15.7, with_sqnr_db=16.4, layers=57
            ),
            RecoveryResult(
                name="smooth_quant",
                asked="auto",
                applied=False,
                without_sqnr_db=None,
                with_sqnr_db=None,
                layers=0,
                note="The model has no LayerNorm before a Linear.",
            ),
        ],
        kernels=[
            KernelTrial(
                qengine="onednn", sqnr_db=16.4, reference_sqnr_db=16.5, latency_ms=5.3, saturates=False, chosen=True
            ),
            KernelTrial(
                qengine="fbgemm",
                sqnr_db=1.7,
                reference_sqnr_db=16.5,
                latency_ms=None,
                saturates=True,
                chosen=False,
                layers=["layer2.0.conv1"],
            ),
        ],
        before=_before(),
        weights_sha256="9f2c" * 16,
        warnings=_warnings(),
        spec=_spec("static"),
        environment=ENVIRONMENT,
        timings={"fetch": 0.12, "load": 1.4, "calibrate": 3.9, "analyse": 12.8, "benchmark": 10.2, "package": 0.9},
    )


def trained(epochs: int = 8) -> JobReport:
    """QAT that beats static quantization, beside the float model trained for as long."""
    report = residual_cnn(4, seed=5)
    metric = MetricResult(name="top1", float_value=0.934, int8_value=0.9331, drop=0.0009, max_drop=0.01, met=True)
    progress = [1 - math.exp(-0.6 * epoch) for epoch in range(1, epochs + 1)]
    return report.model_copy(
        update={
            "method": "qat",
            "verdict": Verdict(
                word="recommended",
                sentence="Top-1 stays within 0.09 points of float (93.31 %); int8 is 2.31× faster and 3.9× smaller.",
                accuracy="met",
            ),
            "quality": report.quality.model_copy(update={"metric": metric}),
            "training": TrainingResult(
                loss="cross_entropy",
                epochs=[
                    EpochResult(
                        epoch=number,
                        loss=0.62 - 0.4 * share,
                        held_back_loss=0.66 - 0.35 * share,
                        metric=0.905 + 0.0281 * share,
                        sqnr_db=17 + 8 * share,
                        seconds=41.2,
                        learning_rate=1e-4 * (1 - share),
                        float_metric=0.934 + 0.004 * share,
                    )
                    for number, share in enumerate(progress, start=1)
                ],
                best_epoch=epochs,
                held_back_samples=120,
                resumed_after_epoch=3,
                static_metric=metric.model_copy(update={"int8_value": 0.9085, "drop": 0.0255, "met": False}),
                qat_metric=metric,
                qat_fidelity=[OutputFidelity(output="logits", sqnr_db=24.9, cosine=0.9983, agreement=0.988)],
                static_fidelity=report.quality.fidelity,
                static_float_layers={"fc": "in int8 it cost the output 1.4 dB, and it is 0.1 % of the arithmetic"},
                finetuned_metric=0.938,
                better="qat",
            ),
            "warnings": [],
            "before": None,
        }
    )


def very_large() -> JobReport:
    """A model of 400 layers, each graph of 1500 nodes."""
    report = residual_cnn(99, seed=7)
    nodes = [_padded(nodes, 1500) for nodes in (_resnet_graph(99, int8=False), _resnet_graph(99, int8=True))]
    return report.model_copy(update={"graphs": Graphs(float_nodes=nodes[0], int8_nodes=nodes[1])})


def enormous(layers: int, nodes: int, *, suffix: str = "") -> JobReport:
    """Of every list that grows with a model so many entries, or a node; names end in `suffix`."""
    report = trained()
    few, graphs, sensitivity, training = report.layers, report.graphs, report.sensitivity, report.training
    assert graphs is not None
    assert sensitivity is not None
    assert training is not None
    assert report.calibration is not None

    def many(entries: list[Any], count: int, *texts: str) -> list[Any]:
        """The entries over and over, each time by another name."""
        found = []
        for index in range(count):
            entry = entries[index % len(entries)]
            named = {text: f"{getattr(entry, text)}_{index}{suffix}" for text in texts}
            found.append(entry.model_copy(update=named))
        return found

    names = [f"{name}_{index}{suffix}" for index, name in enumerate(_resnet_names(layers // 4))]
    advised = _warnings()[0]
    override = {"layer": names[0], "activation": {"observer": "percentile", "percentile": 99.9}}
    patch = {"overrides": [override] * 50}
    return report.model_copy(
        update={
            "layers": many([*few, few[-2]], layers, "name", "reason"),
            "sensitivity": sensitivity.model_copy(
                update={"layers": many(sensitivity.layers, layers, "layer"), "not_reached": names}
            ),
            "boundaries": many(report.boundaries, layers, "producer", "consumer"),
            "fusions": [
                each.model_copy(update={"layers": names[:3]}) for each in many(report.fusions, layers, "reason")
            ],
            "graphs": Graphs(
                float_nodes=many(_padded(graphs.float_nodes, nodes), nodes, "args", "layer"),
                int8_nodes=many(_padded(graphs.int8_nodes, nodes), nodes, "args", "layer"),
            ),
            "histograms": many(report.histograms, 2 * layers, "layer"),
            "calibration": report.calibration.model_copy(
                update={"inputs": many(report.calibration.inputs, layers, "name")}
            ),
            "quality": report.quality.model_copy(update={"fidelity": many(report.quality.fidelity, layers, "output")}),
            "training": training.model_copy(
                update={
                    "epochs": many(training.epochs, layers),
                    "qat_fidelity": many(training.qat_fidelity, layers, "output"),
                    "static_fidelity": many(training.static_fidelity, layers, "output"),
                    "static_float_layers": dict.fromkeys(names, "it costs the output much"),
                }
            ),
            "warnings": [
                advised.model_copy(
                    update={
                        "message": f"{advised.message} {', '.join(names)}",
                        "suggestion": Suggestion(title="leave out the rarest values", patch=patch),
                    }
                )
                for _ in range(layers)
            ],
            "before": _before().model_copy(update={"changes": patch}),
            "spec": {**report.spec, **patch, "name": suffix},
        }
    )


def layer_times(layers: list[LayerSummary], int8_candidate: str, *, seed: int) -> LayerTimes:
    """A time for each layer, the stem's greater in int8; the sum of a block is within its second convolution."""
    chance = random.Random(seed)
    rows = []
    for layer in layers[:12]:
        float_ms = chance.uniform(0.05, 0.5)
        int8_ms = float_ms * (1.6 if layer.name == "stem.conv" else chance.uniform(0.2, 0.6))
        rows.append(
            LayerTime(
                layer=layer.name,
                together=[f"{layer.name}.add"] if layer.name.endswith("conv2") else [],
                precision=layer.precision,
                float_ms=float_ms,
                int8_ms=int8_ms,
                ratio=float_ms / int8_ms,
                share=int8_ms / 2.9,
                noise_ms=0.004,
                changed="faster" if int8_ms < float_ms else "slower",
            )
        )
    return LayerTimes(
        float_candidate=int8_candidate.replace("int8", "float"),
        int8_candidate=int8_candidate,
        batch_size=1,
        threads=1,
        cores=[1],
        openings=3,
        runs=40,
        layers=rows,
        boundaries=[
            BoundaryTime(kind="quantize", producer="input", consumer="stem.conv", ms=0.011),
            BoundaryTime(kind="dequantize", producer="layer4.0.add", consumer="gate.softplus", ms=0.021),
        ],
        others=[OtherTime(op="Reshape", float_ms=0.01, int8_ms=0.012)],
        float_ms=8.4,
        int8_ms=2.8,
        float_p50_ms=8.6,
        int8_p50_ms=2.9,
        subtracted_ms=0.0,
        boundaries_ms=0.032,
        float_reorders_ms=0.004,
        conclusion="In OpenVINO int8 takes 5.6 ms less in 17 layers, most in layer1.0.conv1.",
        method="By OpenVINO's performance counters.",
    )


def every_runtime() -> JobReport:
    """A file for each runtime, OpenVINO's the best, among all the candidates that there can be."""
    report = residual_cnn(4, seed=5)
    metric = MetricResult(name="top1", float_value=0.934, int8_value=0.9315, drop=0.0025, max_drop=0.01, met=True)
    fidelity = [OutputFidelity(output="logits", sqnr_db=31.2, cosine=0.99962, agreement=0.9915)]
    quality = report.quality.model_copy(update={"metric": metric, "fidelity": fidelity})
    further = [OutputFidelity(output="logits", sqnr_db=30.4, cosine=0.99951, agreement=0.9900)]
    noted = "The runtime computes 3 of 18 operators with weights in float, and torch 1."
    float_ms = {
        "float_eager": 15.1,
        "float_frozen": 12.8,
        "float_channels_last": 11.2,
        "float_onnxruntime": 9.4,
        "float_openvino": 8.6,
        "float_openvino_bf16": 8.9,
    }
    int8_ms = {"int8_torch": 5.3, "int8_onnxruntime": 4.4, "int8_openvino": 2.9}
    latency = [
        benchmark_of(float_ms, int8_ms, batch_size=1, seed=2),
        benchmark_of(
            {name: 7.4 * median for name, median in float_ms.items()},
            {name: 7.9 * median for name, median in int8_ms.items()},
            batch_size=8,
            seed=3,
        ),
    ]
    return report.model_copy(
        update={
            "verdict": Verdict(
                word="recommended",
                sentence=(
                    "top1 0.9340 → 0.9315 (drop 0.0025, target 0.0100 met); 2.96× faster (2.90–3.02) than OpenVINO "
                    "float with model_int8.openvino.onnx at batch 1, 1 thread; 3.9× smaller."
                ),
                accuracy="met",
            ),
            "layer_times": [
                layer_times(report.layers, "int8_openvino", seed=6),
                layer_times(report.layers, "int8_onnxruntime", seed=7),
            ],
            "recommended": "model_int8.openvino.onnx",
            "artifacts": [
                artifact("torch", 11_402_120, quality, operators=(17, 1)),
                artifact("onnxruntime", 11_310_004, quality, operators=(15, 3), note=noted),
                artifact("openvino", 11_298_440, quality.model_copy(update={"fidelity": further}), operators=(17, 1)),
            ],
            "quality": quality.model_copy(update={"fidelity": further}),
            "latency": latency,
            "size": Size(float_bytes=44_712_300, int8_bytes=11_298_440, ratio=3.957),
            "before": None,
        }
    )


def none_recommended() -> JobReport:
    """A file for each runtime, of which none is worth it: slower, wrong, not made."""
    report = every_runtime()
    torch, onnxruntime, _ = report.artifacts
    assert torch.quality is not None
    wrong = [OutputFidelity(output="logits", sqnr_db=8.9, cosine=0.93, agreement=0.71)]
    missed = MetricResult(name="top1", float_value=0.934, int8_value=0.702, drop=0.232, max_drop=0.01, met=False)
    latency = benchmark_of({"float_eager": 5.1, "float_openvino": 3.2}, {"int8_torch": 4.1}, batch_size=1, seed=4)
    return report.model_copy(
        update={
            "verdict": Verdict(word="slower", sentence="1.28× slower than OpenVINO float.", accuracy="met"),
            "recommended": None,
            "artifacts": [
                torch.model_copy(
                    update={"labels": ["slower"], "note": "It takes 1.28 times as long as float_openvino."}
                ),
                onnxruntime.model_copy(
                    update={
                        "quality": torch.quality.model_copy(update={"metric": missed, "fidelity": wrong}),
                        "labels": ["wrong", "accuracy_not_met", "in_float"],
                        "int8_operators": 0,
                        "float_operators": 18,
                        "note": "It is 22.3 dB further from float than the torch artifact. The runtime computes all of "
                        "its operators with weights in float.",
                    }
                ),
                ArtifactResult(
                    name=MODEL_NAMES["openvino"],
                    runtime="openvino",
                    size_bytes=None,
                    quality=None,
                    int8_operators=0,
                    float_operators=0,
                    labels=["missing"],
                    note="OpenVINO has no kernels that find ranges at run time: it would dequantize the weights first.",
                ),
            ],
            "quality": torch.quality,
            "latency": [latency],
            "size": Size(float_bytes=44_712_300, int8_bytes=11_402_120, ratio=3.92),
        }
    )


def artifact(
    runtime: Runtime,
    size_bytes: int,
    quality: Quality,
    *,
    operators: tuple[int, int] = (57, 1),
    labels: list[ArtifactLabel] | None = None,
    note: str | None = None,
) -> ArtifactResult:
    """A file that is there; `operators` in int8 and in float."""
    return ArtifactResult(
        name=MODEL_NAMES[runtime],
        runtime=runtime,
        size_bytes=size_bytes,
        quality=quality,
        int8_operators=operators[0],
        float_operators=operators[1],
        labels=labels or [],
        load=Load(cold_ms=412.0, warm_ms=38.5, resident_bytes=2 * size_bytes, peak_bytes=3 * size_bytes),
        note=note,
    )


def benchmark(batch_size: int, float_ms: float, int8_ms: float, *, seed: int) -> BenchmarkResult:
    """Two float candidates and int8, in torch alone."""
    of_float = {"float_eager": float_ms * 1.18, "float_frozen": float_ms}
    return benchmark_of(of_float, {"int8_torch": int8_ms}, batch_size=batch_size, seed=seed)


def benchmark_of(
    float_ms: dict[str, float], int8_ms: dict[str, float], *, batch_size: int, seed: int
) -> BenchmarkResult:
    """Candidates by their medians, log-normally spread."""
    chance = random.Random(seed)
    candidates = []
    for name, median in (float_ms | int8_ms).items():
        samples = [
            median * math.exp(chance.gauss(0, 0.035)) * (1.6 if chance.random() < 0.01 else 1) for _ in range(400)
        ]
        ranked = sorted(samples)
        candidates.append(
            LatencyStats(
                name=name,
                p50_ms=ranked[200],
                p90_ms=ranked[360],
                p99_ms=ranked[396],
                mean_ms=sum(samples) / 400,
                throughput_per_second=1000 * batch_size / ranked[200],
                samples_ms=samples,
            )
        )
    p50_ms = {each.name: each.p50_ms for each in candidates}
    baseline = min(float_ms, key=p50_ms.__getitem__)
    speedups = []
    for name in sorted(int8_ms, key=p50_ms.__getitem__):
        speedup = p50_ms[baseline] / p50_ms[name]
        speedups.append(
            Speedup(
                name=name,
                speedup=speedup,
                speedup_ci95=(speedup * 0.98, speedup * 1.02),
                significant=abs(speedup - 1) > 0.02,
                speedup_vs_eager=p50_ms["float_eager"] / p50_ms[name],
            )
        )
    fastest = speedups[0]
    return BenchmarkResult(
        batch_size=batch_size,
        threads=1,
        rounds=400,
        baseline=baseline,
        int8=fastest.name,
        candidates=candidates,
        speedup=fastest.speedup,
        speedup_ci95=fastest.speedup_ci95,
        significant=fastest.significant,
        speedup_vs_eager=fastest.speedup_vs_eager,
        speedups=speedups,
    )


def _resnet_names(blocks: int) -> list[str]:
    """Conv, conv, shortcut and add of every block, between a stem and a head."""
    stages = [1 + 4 * block // blocks for block in range(blocks)]
    inside = [
        f"layer{stage}.{block - stages.index(stage)}.{part}"
        for block, stage in enumerate(stages)
        for part in ("conv1", "conv2", "shortcut", "add")
    ]
    return ["stem.conv", *inside, "pool", "gate.softplus", "fc"]


def _layers(names: list[str], chance: random.Random) -> list[LayerSummary]:
    layers = []
    arriving: float | None = None
    for index, name in enumerate(names):
        wrong = name == WRONG_LAYER
        in_float = name == "gate.softplus"
        own = None if in_float else 13.5 if wrong else 38 + chance.uniform(-6, 6)
        noise = sum(10 ** (-each / 10) for each in (own, arriving) if each is not None)
        total = None if noise == 0 else -10 * math.log10(noise * 0.93)
        weighted = "conv" in name or "shortcut" in name or name == "fc"
        layers.append(
            LayerSummary(
                name=name,
                op="Softplus" if in_float else "Linear" if name == "fc" else "Conv2d" if weighted else "add",
                precision="float32" if in_float else "int8",
                weight_bytes=0 if not weighted else 36_864 * (1 + index // 16),
                reason="FX has no int8 kernel for Softplus." if in_float else None,
                fused=[name, name.replace("conv", "bn")] if weighted and name != "fc" else [],
                macs=0 if not weighted else 115_605_504 // (1 + index // 20),
                qparams=[] if in_float else _qparams(wrong=wrong, weighted=weighted, chance=chance),
                error=LayerError(own_sqnr_db=own, arriving_sqnr_db=arriving, sqnr_db=total, cosine=0.99, mse=1.3e-4),
            )
        )
        arriving = total
    return layers


def _qparams(*, wrong: bool, weighted: bool, chance: random.Random) -> list[Qparams]:
    high = 214.0 if wrong else chance.uniform(2, 9)
    output = Qparams(
        role="output",
        tensor="output",
        dtype="quint8",
        qscheme="per_tensor_affine",
        observer="HistogramObserver",
        quant_min=0,
        quant_max=255,
        min=-0.4,
        max=high,
        scale=(high + 0.4) / 255,
        zero_point=3,
        stretch=31.0 if wrong else 1.2,
        clipping=Clipping(rate=0.0004, below=0.0, above=0.0004),
        flags=["outliers"] if wrong else [],
    )
    weight = Qparams(
        role="weight",
        tensor="weight",
        dtype="qint8",
        qscheme="per_channel_symmetric",
        observer="PerChannelMinMaxObserver",
        quant_min=-128,
        quant_max=127,
        min=-0.31,
        max=0.28,
        scale=0.00213,
        zero_point=0,
        channels=ChannelSpread(axis=0, count=64, scale_min=0.0004, scale_median=0.00213, scale_max=0.0061, dead=[7]),
        flags=["dead_channels"] if wrong else [],
    )
    given = output.model_copy(update={"role": "input", "tensor": "quantize_per_tensor_1", "flags": []})
    return [given, weight, output] if weighted else [given, output]


def _sensitivity(names: list[str], chance: random.Random) -> Sensitivity:
    reached = [WRONG_LAYER, *(name for name in names[: 3 * len(names) // 4] if name != WRONG_LAYER)]
    gains = sorted((chance.expovariate(2.5) for _ in reached), reverse=True)
    gains[0] = 9.8
    return Sensitivity(
        samples=64,
        base_sqnr_db=16.4,
        base_metric=0.9085,
        budget_seconds=10.0,
        seconds=10.02,
        layers=[
            LayerSensitivity(
                layer=name,
                alone_int8_sqnr_db=16.9 + 4 * index**0.5,
                alone_float_sqnr_db=16.4 + gain,
                gain_db=gain,
                alone_int8_metric=0.911,
                alone_float_metric=0.909,
            )
            for index, (name, gain) in enumerate(zip(reached, gains, strict=True))
        ],
        not_reached=[name for name in names if name not in reached],
    )


def _histogram(layer: str, role: Any, chance: random.Random) -> Histogram:
    wide = layer == WRONG_LAYER and role == "output"
    low, high = (-0.4, 214.0) if wide else (-2.0, 2.0)
    counts = [0] * 128
    for _ in range(6000):
        value = chance.gauss(0.0, 0.5) if not wide else max(-0.4, chance.gauss(1.5, 2.0))
        counts[min(127, max(0, int((value - low) / (high - low) * 128)))] += 1
    if wide:
        counts[126] = 3
    return Histogram(
        layer=layer,
        role=role,
        low=low,
        high=high,
        counts=counts,
        range_min=-0.4 if wide else -1.5,
        range_max=high if wide else 1.6,
    )


def _resnet_graph(blocks: int, *, int8: bool) -> list[GraphNode]:
    nodes: list[GraphNode] = []

    def add(name: str, op: str, target: str, inputs: list[str], precision: Any, *, layer: str | None = None) -> str:
        nodes.append(
            GraphNode(
                name=name,
                op=op,
                target=target,
                args=f"({', '.join(inputs)},)",
                inputs=inputs,
                layer=layer,
                precision=precision,
                shape=[None, 64, 56, 56],
            )
        )
        return name

    inside = "int8" if int8 else "float32"
    current = add("x", "placeholder", "x", [], "float32")
    if int8:
        constants = [
            add(f"stem_input_{each}_0", "get_attr", f"stem_input_{each}_0", [], "other")
            for each in ("scale", "zero_point")
        ]
        current = add("quantize_per_tensor", "call_function", "quantize_per_tensor", [current, *constants], "boundary")
    current = add("stem_conv", "call_module", "stem.conv: ConvReLU2d", [current], inside, layer="stem.conv")
    names = _resnet_names(blocks)[1:-3]
    for start in range(0, len(names), 4):
        conv1, conv2, shortcut, total = names[start : start + 4]
        left = add(conv1.replace(".", "_"), "call_module", f"{conv1}: ConvReLU2d", [current], inside, layer=conv1)
        left = add(conv2.replace(".", "_"), "call_module", f"{conv2}: Conv2d", [left], inside, layer=conv2)
        right = add(shortcut.replace(".", "_"), "call_module", f"{shortcut}: Conv2d", [current], inside, layer=shortcut)
        current = add(total.replace(".", "_"), "call_function", "add_relu", [left, right], inside, layer=total)
    current = add("pool", "call_function", "adaptive_avg_pool2d", [current], inside, layer="pool")
    if int8:
        current = add("dequantize", "call_method", "dequantize", [current], "boundary")
    current = add("softplus", "call_function", "softplus", [current], "float32", layer="gate.softplus")
    if int8:
        current = add("quantize_per_tensor_1", "call_function", "quantize_per_tensor", [current], "boundary")
    current = add("fc", "call_module", "fc: Linear", [current], inside, layer="fc")
    add("output", "output", "output", [current], "other")
    return nodes


def _padded(nodes: list[GraphNode], count: int) -> list[GraphNode]:
    """As many nodes as are wanted: further functions follow, each with arguments of the usual length."""
    more = [
        GraphNode(
            name=f"reshape_{index}",
            op="call_function",
            target="torch.ops.aten.reshape.default",
            args=f"(reshape_{index - 1}, [-1, 64, 56, 56]), memory_format=torch.contiguous_format",
            inputs=[f"reshape_{index - 1}" if index else nodes[-2].name],
            layer=f"encoder.layers.encoder_layer_{index % 24}.self_attention",
            precision="float32" if index % 7 else "int8",
            shape=[None, 64, 56, 56],
        )
        for index in range(count - len(nodes))
    ]
    return [*nodes, *more]


def _warnings() -> list[ReportWarning]:
    return [
        ReportWarning(
            code="outlier_stretches_range",
            message="A few values stretch the range of the output by 31 times: most int8 levels are never used.",
            layer=WRONG_LAYER,
            evidence="99.9 % of the values lie below 6.9, the greatest is 214; the layer's own SQNR is 13.5 dB.",
            suggestion=Suggestion(
                title="take the range from the 99.9th percentile",
                patch={
                    "overrides": [{"layer": WRONG_LAYER, "activation": {"observer": "percentile", "percentile": 99.9}}]
                },
                expected="About 9.8 dB more at the output: what it gains when the layer stays in float.",
            ),
        ),
        ReportWarning(
            code="calibration_too_small",
            message="The scales still change with the subset of the calibration data.",
            hint="Send about 200 samples.",
            evidence="Over 4 subsets the median scale varies by 18 %.",
        ),
    ]


def _before() -> Before:
    return Before(
        job="job_019abc5d1f0e7a33c49d1f",
        changes={"activation": {"observer": "histogram"}},
        method="static",
        verdict=Verdict(word="accuracy_not_met", sentence="Top-1 falls by 4.1 points.", accuracy="not_met"),
        quality=Quality(
            data="evaluation",
            samples=2000,
            metric=MetricResult(name="top1", float_value=0.934, int8_value=0.893, drop=0.041, max_drop=0.01, met=False),
            fidelity=[OutputFidelity(output="logits", sqnr_db=14.2, cosine=0.981, agreement=0.931)],
        ),
        latency=[benchmark(1, 12.4, 5.4, seed=9)],
        size=Size(float_bytes=44_712_300, int8_bytes=11_402_120, ratio=3.92),
    )


def _spec(method: str) -> dict[str, Any]:
    return {
        "method": method,
        "model": "mdl_019abc5d1f0e7a33c49d20",
        "calibration": "dst_019abc5d20c17a3391be04",
        "evaluation": "dst_019abc5d20c17a3391be05",
        "metric": "top1",
        "max_accuracy_drop": 0.01,
        "qengine": "onednn",
        "activation": {"observer": "histogram", "qscheme": "per_tensor_affine", "reduce_range": False},
        "weight": {"observer": "per_channel_minmax", "qscheme": "per_channel_symmetric"},
        "overrides": [],
        "seed": 0,
        "name": "resnet60 on pets",
    }
