"""Evaluate: the float model and int8 candidates on the same samples, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from shared.errors import LabelsUnusable, ModelFailed
from shared.job_report import DataSource, MetricResult, OutputFidelity, Quality
from shared.quantization_spec import Metric
from worker.datasets import Samples, batches
from worker.inference import Model, Reference, run_model
from worker.numerics import LabelVariance, MetricAccumulator, MetricName, ModelFidelity, accuracy_drop
from worker.progress import ProgressTracker
from worker.steps.load import JobData, LoadedModel

_DEFAULT_DROP = 0.01  #: of top-1 and top-5; of what R² is of an mse
_ROUNDING = 1e-9  # 0.98 − 0.97 is a little more than 0.01 in floating point


_FLOAT_LABELS = "For mse give one float label for each output value, in the output's order."


@dataclass(frozen=True)
class Yardstick:
    """What quality is measured on, and by which metric."""

    samples: Samples
    source: DataSource
    metric: MetricName | None
    max_drop: float | Literal["auto"] | None


@dataclass(frozen=True)
class Compared:
    """What candidates gave on the same samples as the reference."""

    fidelity: list[list[OutputFidelity]]
    """Of each candidate, one entry an output."""
    values: list[float | None]
    """The metric of each candidate; None where there is none."""
    reference_value: float | None
    label_variance: float | None
    """Where the metric is mse."""


def choose_yardstick(
    reference: Reference,
    data: JobData,
    tracker: ProgressTracker,
    *,
    metric: Metric,
    max_drop: float | Literal["auto"] | None = None,
) -> Yardstick:
    """Settle the metric, by the labels and the shape of the reference's first output.

    `auto`: top1 for integer labels of a (samples, classes) output; mse for as many float labels as output values; else
    none. Raises LabelsUnusable when the metric asked for does not fit the labels.
    """
    samples = data.evaluation
    chosen: MetricName | None = None
    if samples.has_labels:
        output = first_output(reference, samples)
        chosen = _metric_of(samples.read_labels(0, 1), output) if metric == "auto" else metric
        if chosen is not None:
            _check_labels_of(data, output, chosen)
        else:
            tracker.warn(
                "labels_unused",
                f"The labels of the {data.source} data fit no metric for an output of shape {tuple(output.shape)}.",
                "top1 takes integer labels and an output (samples, classes); mse a label for each output value.",
            )
    elif metric != "auto":
        raise LabelsUnusable(
            f"The metric {metric} was asked for, and the {data.source} data has no labels.",
            hint="Add an array `labels` to it, or leave the metric at auto.",
        )
    return Yardstick(samples, data.source, chosen, max_drop)


def evaluate(
    model: LoadedModel, candidates: Sequence[Model], yardstick: Yardstick, advance: Callable[[float, float], None]
) -> list[Quality]:
    """The quality of each candidate against the float model."""
    compared = compare(model.reference, candidates, yardstick, advance)
    target = _target(yardstick, compared.label_variance)
    return [
        Quality(
            data=yardstick.source,
            samples=yardstick.samples.count,
            metric=_metric_result(
                yardstick.metric,
                compared.reference_value,
                value,
                target,
                by_default=yardstick.max_drop == "auto",
            ),
            fidelity=fidelity,
        )
        for fidelity, value in zip(compared.fidelity, compared.values, strict=True)
    ]


def compare(
    reference: Reference,
    candidates: Sequence[Model],
    yardstick: Yardstick,
    advance: Callable[[float, float], None],
) -> Compared:
    """Run the reference and the candidates on all samples, batch by batch; raises ModelFailed when one of them does."""
    fidelity = [ModelFidelity(reference.outputs) for _ in candidates]
    metrics = [
        None if yardstick.metric is None else MetricAccumulator(yardstick.metric) for _ in range(len(candidates) + 1)
    ]
    variance = LabelVariance() if yardstick.metric == "mse" else None
    done = 0
    with torch.inference_mode():
        for batch in batches(yardstick.samples, reference.batch_size):
            expected = run_model(reference.run, batch.inputs, reference.batch)
            _update(metrics[0], expected, batch.labels)
            if variance is not None and batch.labels is not None:
                variance.update(batch.labels)
            for candidate, accumulator, metric in zip(candidates, fidelity, metrics[1:], strict=True):
                outputs = run_model(candidate, batch.inputs, reference.batch)
                accumulator.update(expected, outputs)
                _update(metric, outputs, batch.labels)
            done += batch.size
            advance(done, yardstick.samples.count)
    values = [None if metric is None else metric.value() for metric in metrics]
    return Compared(
        fidelity=[each.results() for each in fidelity],
        values=values[1:],
        reference_value=values[0],
        label_variance=None if variance is None else variance.value(),
    )


def first_output(reference: Reference, samples: Samples) -> Tensor:
    """The reference's first output for the first sample: the one that labels are compared with."""
    with torch.inference_mode():
        return run_model(reference.run, samples.read(0, 1).inputs, reference.batch)[0]


def _check_labels_of(data: JobData, output: Tensor, metric: MetricName) -> None:
    try:
        check_labels(data.evaluation, output, metric)
    except LabelsUnusable as error:
        raise LabelsUnusable(f"{data.source.capitalize()} data: {error.message}", hint=error.hint) from error


def check_labels(samples: Samples, output: Tensor, metric: MetricName) -> None:
    """Refuse labels that do not fit the metric and the output of one sample; raises LabelsUnusable."""
    labels = samples.read_labels(0, 1)
    if metric == "mse":
        if labels.numel() != output.numel():
            raise LabelsUnusable(
                f"mse compares each output value with a label: the model gives {output.numel()} values a sample, "
                f"the labels have {labels.numel()}.",
                hint=_FLOAT_LABELS,
            )
        return
    if not _has_classes(output):
        raise LabelsUnusable(
            f"{metric} needs an output of shape (samples, classes); it is {tuple(output.shape)}.", hint=_FLOAT_LABELS
        )
    classes = output.shape[1]
    if metric == "top5" and classes < 5:
        raise LabelsUnusable(f"top5 of {classes} classes is always right.", hint="Ask for top1.")
    if labels.is_floating_point() or labels.ndim != 1:
        shape = f"(N{''.join(f', {size}' for size in labels.shape[1:])})"
        kind = "float" if labels.is_floating_point() else "integer"
        raise LabelsUnusable(
            f"{metric} needs integer class labels of shape (N); these are {kind} of shape {shape}.",
            hint="Give class indices: one-hot labels become indices by labels.argmax(axis=1).",
        )
    every = samples.read_labels(0, samples.count)
    wrong = (every < 0) | (every >= classes)
    if wrong.any():
        sample = int(wrong.nonzero()[0])
        raise LabelsUnusable(
            f"{int(wrong.sum())} labels are not among the model's {classes} classes 0 to {classes - 1}; "
            f"the first is {int(every[sample])}, of sample {sample}.",
            hint="Count classes from 0, as the output does, and leave out samples without a class.",
        )


def mean_sqnr_db(fidelity: Sequence[OutputFidelity]) -> float | None:
    """The mean over the outputs that differ; None when all are equal."""
    values = [output.sqnr_db for output in fidelity if output.sqnr_db is not None]
    return sum(values) / len(values) if values else None


def _metric_of(label: Tensor, output: Tensor) -> MetricName | None:
    if not label.is_floating_point():
        return "top1" if label.ndim == 1 and _has_classes(output) else None
    return "mse" if label.numel() == output.numel() else None


def _has_classes(output: Tensor) -> bool:
    return output.ndim == 2 and output.shape[1] >= 2 and output.is_floating_point()


def _update(metric: MetricAccumulator | None, outputs: list[Tensor], labels: Tensor | None) -> None:
    if metric is not None:
        assert labels is not None
        metric.update(outputs[0], labels)


def _target(yardstick: Yardstick, label_variance: float | None) -> float | None:
    """The drop that is allowed, absolute: of an mse by default a share of what there is to explain."""
    if yardstick.max_drop != "auto":
        return yardstick.max_drop
    return _DEFAULT_DROP if label_variance is None else _DEFAULT_DROP * label_variance or None


def _metric_result(
    name: MetricName | None,
    float_value: float | None,
    int8_value: float | None,
    max_drop: float | None,
    *,
    by_default: bool,
) -> MetricResult | None:
    if name is None or float_value is None or int8_value is None:
        return None
    for which, value in (("float", float_value), ("int8", int8_value)):
        if not math.isfinite(value):
            raise ModelFailed(f"The {which} model's output is not finite on this data: {name} is {value}.")
    drop = accuracy_drop(name, float_value, int8_value)
    slack = _ROUNDING * (float_value if name == "mse" else 1)
    return MetricResult(
        name=name,
        float_value=float_value,
        int8_value=int8_value,
        drop=drop,
        max_drop=max_drop,
        met=None if max_drop is None else drop <= max_drop + slack,
        by_default=by_default and max_drop is not None,
    )
