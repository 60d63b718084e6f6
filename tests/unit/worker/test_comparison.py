"""Any candidates against each other: whose is the baseline, and what is told."""

from __future__ import annotations

import pytest
import torch

from shared.benchmark_report import ComparisonResult, FormLabel, FormMetric, FormQuality, FormResult, FormSpeedup
from shared.job_report import OutputFidelity
from worker.comparison import compare_latency, told_speedup
from worker.conclusion import conclude

SMALL, LARGE = torch.randn(8, 8), torch.randn(700, 700)


def quick() -> torch.Tensor:
    return SMALL @ SMALL


def slow() -> torch.Tensor:
    return LARGE @ LARGE


def compared(right: set[str]) -> ComparisonResult:
    """Yours is slow, and another of its forms slower still; theirs is quick."""
    candidates = {"yours/eager": slow, "yours/frozen": lambda: [slow() for _ in range(6)], "theirs/onnxruntime": quick}
    return compare_latency(
        candidates, own={"yours/eager", "yours/frozen"}, right=right, batch_size=2, threads=1, max_seconds=0.5, seed=0
    )


def test_the_baseline_is_the_first_candidates_fastest_form_and_all_others_are_held_against_it() -> None:
    found = compared({"yours/eager", "yours/frozen", "theirs/onnxruntime"})
    assert (found.baseline, found.fastest) == ("yours/eager", "theirs/onnxruntime")
    assert [each.name for each in found.speedups] == ["theirs/onnxruntime", "yours/frozen"]
    assert all(each.significant for each in found.speedups)
    assert found.conclusion.startswith("theirs in ONNX Runtime is the fastest: ")
    assert found.conclusion.endswith(").")
    assert {each.name for each in found.candidates} == {"yours/eager", "yours/frozen", "theirs/onnxruntime"}
    assert all(len(each.samples_ms) == found.rounds for each in found.candidates)
    assert sum(each.kept for each in found.sittings) == 1


def test_what_is_wrong_is_measured_and_neither_the_fastest_nor_the_baseline() -> None:
    found = compared({"yours/frozen"})
    assert (found.baseline, found.fastest) == ("yours/frozen", "yours/frozen")
    assert {each.name for each in found.speedups} == {"yours/eager", "theirs/onnxruntime"}
    assert found.conclusion == "yours in frozen torch was measured alone."


def speedup(name: str, value: float, low: float, high: float) -> FormSpeedup:
    return FormSpeedup(name=name, speedup=value, speedup_ci95=(low, high), significant=low > 1 or high < 1)


@pytest.mark.parametrize(
    ("fastest", "speedups", "told"),
    [
        (
            "b/openvino",
            [speedup("b/openvino", 2.0, 1.9, 2.1)],
            "b in OpenVINO is the fastest: 2.00 times as fast as a in eager torch (1.90–2.10).",
        ),
        (
            "b/openvino",
            [speedup("b/openvino", 1.01, 0.98, 1.04)],
            "No significant difference between b in OpenVINO and a in eager torch (0.98–1.04×).",
        ),
        (
            "a/eager",
            [speedup("a/frozen", 0.8, 0.7, 0.9), speedup("b/openvino", 0.5, 0.4, 0.625)],
            "a in eager torch is the fastest: 2.00 times as fast as b in OpenVINO (1.60–2.50).",
        ),
        (
            "a/eager",
            [speedup("a/frozen", 0.99, 0.95, 1.03), speedup("b/openvino", 0.5, 0.4, 0.625)],
            "a in eager torch is the fastest: 2.00 times as fast as b in OpenVINO (1.60–2.50).",
        ),
        (
            "a/eager",
            [speedup("b/wrong", 3.0, 2.9, 3.1), speedup("b/openvino", 1.0, 0.8, 1.25)],
            "No significant difference between a in eager torch and b in OpenVINO (0.80–1.25×).",
        ),
        (
            "a/eager",
            [speedup("a/frozen", 0.8, 0.5, 1.25)],
            "No significant difference between a in eager torch and a in frozen torch (0.80–2.00×).",
        ),
        ("a/eager", [], "a in eager torch was measured alone."),
    ],
)
def test_by_how_much_is_told_of_what_matters(fastest: str, speedups: list[FormSpeedup], told: str) -> None:
    """Against the first candidate, or where it is that which is the fastest, against the next candidate."""
    right = {"a/eager", "a/frozen", "b/openvino"}
    found = told_speedup(fastest, "a/eager", speedups, {"a/eager", "a/frozen"}, right)
    assert found == (told, not told.startswith("No significant difference"))


def test_no_significant_difference_is_not_told_as_a_victory() -> None:
    headline = compared({"yours/eager", "yours/frozen", "theirs/onnxruntime"})
    told = "No significant difference between a and b (0.98–1.04×)."
    headline = headline.model_copy(update={"conclusion": told, "significant": False})
    results = {headline.fastest: form(headline.fastest, metric=None, fidelity=NEAR)}
    told = conclude(headline, results, "yours/eager")
    assert told.startswith("No significant difference between a and b (0.98–1.04×): the former takes ")


def form(name: str, *labels: FormLabel, metric: FormMetric | None, fidelity: OutputFidelity) -> FormResult:
    return FormResult(
        name=name, kind="eager", runtime="torch", size_bytes=1, load=None, int8_operators=0, float_operators=0,
        quality=FormQuality(metric=metric, fidelity=[fidelity]), labels=list(labels),
    )  # fmt: skip


NEAR = OutputFidelity(output="0", sqnr_db=31.2, cosine=1.0, agreement=0.992)
FAR = OutputFidelity(output="0", sqnr_db=3.1, cosine=0.5, agreement=0.4)


def test_the_conclusion_says_whether_the_answers_are_the_same() -> None:
    headline = compared({"yours/eager", "yours/frozen", "theirs/onnxruntime"})
    top1 = FormMetric(name="top1", value=0.91, reference=0.93, drop=0.02)
    near = {headline.fastest: form(headline.fastest, metric=top1, fidelity=NEAR)}
    told = conclude(headline, near, "yours/eager")
    assert " ms at batch 2, 1 thread; its answers agree with those of yours in eager torch " in told
    assert told.endswith("(top1 0.91 and 0.93, 99.2 % of the samples, SQNR 31.2 dB).")
    far = {headline.fastest: form(headline.fastest, "differs", metric=None, fidelity=FAR)}
    told = conclude(headline, far, "yours/eager")
    assert told.endswith("its answers are not those of yours in eager torch (40.0 % of the samples, SQNR 3.1 dB).")
    assert conclude(headline, near, headline.fastest).endswith(" ms at batch 2, 1 thread.")
