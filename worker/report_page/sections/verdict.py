"""First of all: the outcome in a word, a sentence and four figures."""

from __future__ import annotations

from shared.job_report import ArtifactResult, JobReport, MetricResult, Quality
from shared.latency_report import BenchmarkResult
from worker.candidate_names import candidate_name, int8_in
from worker.closeness import worst_output
from worker.report_page.figures import (
    NONE,
    byte_size,
    decibels,
    decimal,
    milliseconds,
    percent,
    plural,
    significant,
    size_change,
    times,
    whole,
)
from worker.report_page.layout import Section
from worker.report_page.markup import Content, Html, element, shorten

_MAX_SENTENCE = 2000
METRIC_NAMES = {"top1": "Top-1 accuracy", "top5": "Top-5 accuracy", "mse": "Mean squared error"}
DATA_NAMES = {
    "evaluation": "evaluation data",
    "calibration": "calibration data",
    "training": "training data",
    "synthetic": "random inputs",
}

_WORDS = {
    "recommended": ("✓", "Recommended", "good"),
    "no_faster": ("≈", "No faster", "fair"),
    "slower": ("▼", "Slower", "fair"),
    "accuracy_not_met": ("✗", "Accuracy not met", "bad"),
    "low_fidelity": ("✗", "Low fidelity", "bad"),
}


def verdict(report: JobReport) -> Section:
    """The word, the sentence, and quality, speedup, size and what they were measured on."""
    mark, word, kind = _WORDS[report.verdict.word]
    body = element(
        "div",
        element("p", element("span", mark, aria_hidden="true"), " ", word, class_="word"),
        element("p", shorten(report.verdict.sentence, _MAX_SENTENCE), class_="sentence"),
        element(
            "dl",
            _quality(report.quality),
            _speedup(report.latency),
            _size(report),
            _measured_on(report),
            class_="figures",
        ),
        class_=f"verdict {kind}",
    )
    return Section("verdict", "Verdict", body)


def verdict_title(word: str) -> str:
    """`Accuracy not met` of `accuracy_not_met`."""
    return _WORDS[word][1]


def artifact_of_verdict(report: JobReport) -> ArtifactResult | None:
    """The fastest right one: what quality, size and speedup are of."""
    fastest = report.latency[0].int8 if report.latency else None
    return next((each for each in report.artifacts if int8_in(each.runtime) == fastest), None)


def metric_value(name: str, value: float | None) -> str:
    """Accuracies in percent, losses as they are."""
    return significant(value, 4) if name == "mse" else percent(value, 2)


def metric_drop(metric: MetricResult) -> str:
    """What was lost; absolute."""
    return significant(metric.drop, 3) if metric.name == "mse" else f"{decimal(100 * metric.drop, 2)} points"


def _change(metric: MetricResult) -> str:
    """`drop 2.55 points`, or `gain 0.34 points`."""
    gained = metric.drop < 0
    return f"{'gain' if gained else 'drop'} {metric_drop(metric.model_copy(update={'drop': abs(metric.drop)}))}"


def _quality(quality: Quality) -> Html:
    worst = worst_output(quality.fidelity)
    agreement = None if worst is None or worst.agreement is None else f"{percent(worst.agreement)} agreement"
    distance = None if worst is None or worst.discrete else decibels(worst.sqnr_db)
    metric = quality.metric
    if metric is None:
        if distance is None:
            return figure("Agreement", NONE if worst is None else percent(worst.agreement), "No labels: no accuracy")
        return figure("Fidelity (SQNR)", distance, agreement, "No labels: no accuracy")
    near = ", ".join(filter(None, [distance and f"SQNR {distance}", agreement])) or "nothing compared"
    target = "no target" if metric.max_drop is None else f"target {'met' if metric.met else 'not met'}"
    return figure(
        METRIC_NAMES[metric.name],
        metric_value(metric.name, metric.int8_value),
        f"float {metric_value(metric.name, metric.float_value)}, {_change(metric)}: {target}",
        near,
    )


def _speedup(latency: list[BenchmarkResult]) -> Html:
    if not latency:
        return figure("Speedup", "–", "not measured")
    first = latency[0]
    low, high = first.speedup_ci95
    medians = {each.name: each.p50_ms for each in first.candidates}
    return figure(
        "Speedup",
        times(first.speedup),
        f"95 % interval {decimal(low, 2)} to {decimal(high, 2)}{'' if first.significant else ': not significant'}"
        f"{', noisy' if first.noisy else ''}",
        f"{milliseconds(medians.get(first.baseline))} → {milliseconds(medians.get(first.int8))} at "
        f"batch {first.batch_size}, {plural(first.threads, 'thread')}",
        f"{candidate_name(first.baseline)} → {candidate_name(first.int8)}",
    )


def _size(report: JobReport) -> Html:
    size = report.size
    return figure("Size", byte_size(size.int8_bytes), f"float {byte_size(size.float_bytes)}", size_change(size.ratio))


def _measured_on(report: JobReport) -> Html:
    quality, environment = report.quality, report.environment
    return figure(
        "Measured on",
        whole(quality.samples),
        f"samples of {DATA_NAMES[quality.data]}" + (": trust it little" if quality.data == "synthetic" else ""),
        f"{environment.cpu_model}, {environment.qengine} kernels",
    )


def figure(term: str, value: str, *more: Content) -> Html:
    """A figure under its name, with what belongs to it below."""
    return element(
        "div",
        element("dt", term),
        element("dd", element("strong", value), [element("span", each) for each in more if each]),
    )
