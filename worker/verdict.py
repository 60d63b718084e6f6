"""The verdict: one word for machines and one honest sentence for people."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from shared.job_report import MetricResult, OutputFidelity, Quality, Size, Verdict, VerdictWord
from shared.latency_report import BenchmarkResult, Speedup
from worker.candidate_names import candidate_name, int8_in
from worker.closeness import is_poor
from worker.outputs import MODEL_NAMES

_FILES = {int8_in(runtime): name for runtime, name in MODEL_NAMES.items()}


def judge(quality: Quality, latency: Sequence[BenchmarkResult], size: Size) -> Verdict:
    """Weigh quality first, then speed at the first batch size and thread count that were asked for."""
    metric = quality.metric
    accuracy = "not_evaluated" if metric is None or metric.met is None else "met" if metric.met else "not_met"
    word: VerdictWord
    if accuracy == "not_met":
        word = "accuracy_not_met"
    elif is_poor(quality):
        word = "low_fidelity"
    else:
        headline = latency[0]
        word = "no_faster" if not headline.significant else "recommended" if headline.speedup > 1 else "slower"
    told = f"Accuracy not evaluated; {_told_fidelity(quality)}" if metric is None else _told_metric(metric)
    if metric is not None and word == "low_fidelity":
        told = f"{told}; {_told_fidelity(quality)}"
    sentence = f"{told}; {_told_latency(latency)}; {_told_size(size)}."
    return Verdict(word=word, sentence=sentence, accuracy=accuracy)


def _closeness(output: OutputFidelity) -> tuple[float, float]:
    agreement = 1.0 if output.agreement is None else output.agreement
    return agreement, float("inf") if output.sqnr_db is None else output.sqnr_db


def told_value(metric: str, value: float) -> str:
    """A metric's value, or a difference of two: an mse has a unit, and may be of any size."""
    return f"{value:.4g}" if metric == "mse" else f"{value:.4f}"


def _told_metric(metric: MetricResult) -> str:
    told = functools.partial(told_value, metric.name)
    change = f"drop {told(metric.drop)}" if metric.drop >= 0 else f"gain {told(-metric.drop)}"
    met = "met" if metric.met else "not met"
    target = "no target" if metric.max_drop is None else f"target {told(metric.max_drop)} {met}"
    return f"{metric.name} {told(metric.float_value)} → {told(metric.int8_value)} ({change}, {target})"


def _told_fidelity(quality: Quality) -> str:
    worst = min(quality.fidelity, key=_closeness)
    told = "equal to float" if worst.sqnr_db is None else f"SQNR {worst.sqnr_db:.1f} dB"
    if worst.agreement is not None:
        agrees = f"agrees with float on {100 * worst.agreement:.1f} % of the"
        told = f"{agrees} values" if worst.discrete else f"{agrees} samples, {told}"
    which = f"output {worst.output}: " if len(quality.fidelity) > 1 else ""
    return f"{which}{told} on {quality.samples} {quality.data} samples"


def _told_latency(latency: Sequence[BenchmarkResult]) -> str:
    headline = latency[0]
    low, high = headline.speedup_ci95
    baseline = candidate_name(headline.baseline)
    at = f"with {_FILES.get(headline.int8, headline.int8)} {_place(headline)}"
    if not headline.significant:
        told = f"no significant difference in latency ({low:.2f}–{high:.2f}×) from {baseline} {at}"
    elif headline.speedup > 1:
        told = f"{headline.speedup:.2f}× faster ({low:.2f}–{high:.2f}) than {baseline} {at}"
    else:
        told = f"{1 / headline.speedup:.2f}× slower ({1 / high:.2f}–{1 / low:.2f}) than {baseline} {at}"
    told += " (a noisy measurement)" if headline.noisy else ""
    slower = [_place(result) for result in latency[1:] if _is_slower(_of(headline.int8, result))]
    return f"{told}, and slower {', '.join(slower)}" if slower else told


def _of(candidate: str, result: BenchmarkResult) -> Speedup | BenchmarkResult:
    """The same candidate elsewhere, where another may be the fastest."""
    return next((each for each in result.speedups if each.name == candidate), result)


def _is_slower(measured: Speedup | BenchmarkResult) -> bool:
    return measured.significant and measured.speedup < 1


def _told_size(size: Size) -> str:
    # A small model grows: the code of int8 operators is longer than that of float ones.
    return f"{size.ratio:.1f}× smaller" if size.ratio >= 1 else f"{1 / size.ratio:.1f}× larger"


def _place(result: BenchmarkResult) -> str:
    return f"at batch {result.batch_size}, {result.threads} thread{'' if result.threads == 1 else 's'}"
