"""The conclusion of a benchmark: which is the fastest, by how much, and whether its answers are the reference's."""

from __future__ import annotations

from collections.abc import Mapping

from shared.benchmark_report import ComparisonResult, FormResult
from worker.candidate_names import form_name
from worker.closeness import worst_output


def conclude(headline: ComparisonResult, results: Mapping[str, FormResult], reference: str) -> str:
    """One sentence, of the first batch size and thread count."""
    threads = "1 thread" if headline.threads == 1 else f"{headline.threads} threads"
    p50 = next(each.p50_ms for each in headline.candidates if each.name == headline.fastest)
    at = f"{p50:.3g} ms at batch {headline.batch_size}, {threads}"
    took = at if headline.significant else f"the former takes {at}"
    return f"{headline.conclusion.removesuffix('.')}: {took}{_answers(results[headline.fastest], reference)}."


def _answers(fastest: FormResult, reference: str) -> str:
    """How its answers are beside the reference's; nothing where it is the reference."""
    if fastest.name == reference or fastest.quality is None:
        return ""
    whose = f"those of {form_name(reference)}"
    if "differs" in fastest.labels:
        return f"; its answers are not {whose}{_measured(fastest)}"
    return f"; its answers agree with {whose}{_measured(fastest)}"


def _measured(form: FormResult) -> str:
    assert form.quality is not None
    metric, worst = form.quality.metric, worst_output(form.quality.fidelity)
    told = []
    if metric is not None:
        told.append(f"{metric.name} {metric.value:.4g} and {metric.reference:.4g}")
    if worst is not None and worst.agreement is not None:
        told.append(f"{100 * worst.agreement:.1f} % of the {'values' if worst.discrete else 'samples'}")
    if worst is not None and not worst.discrete:
        told.append("equal" if worst.sqnr_db is None else f"SQNR {worst.sqnr_db:.1f} dB")
    return f" ({', '.join(told)})" if told else ""
