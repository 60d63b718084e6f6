"""The verdict's word and sentence, from figures made up for each case."""

from __future__ import annotations

import pytest

from shared.job_report import MetricResult, OutputFidelity, Quality, Size
from shared.latency_report import BenchmarkResult, Speedup
from worker.verdict import judge

SIZE = Size(float_bytes=3800, int8_bytes=1000, ratio=3.8)


def top1(float_value: float, int8_value: float, max_drop: float | None = 0.01) -> MetricResult:
    drop = float_value - int8_value
    met = None if max_drop is None else drop <= max_drop
    return MetricResult(
        name="top1", float_value=float_value, int8_value=int8_value, drop=drop, max_drop=max_drop, met=met
    )


def quality(
    metric: MetricResult | None = None, sqnr_db: float | None = 30.0, agreement: float | None = 0.99
) -> Quality:
    fidelity = [OutputFidelity(output="y", sqnr_db=sqnr_db, cosine=0.99, agreement=agreement)]
    return Quality(data="evaluation", samples=500, metric=metric, fidelity=fidelity)


def latency(speedup: float, low: float, high: float, batch_size: int = 1, threads: int = 1) -> BenchmarkResult:
    return BenchmarkResult(
        batch_size=batch_size, threads=threads, rounds=100, baseline="float_frozen", candidates=[], speedup=speedup,
        speedup_ci95=(low, high), significant=low > 1 or high < 1, speedup_vs_eager=speedup,
    )  # fmt: skip


FASTER = latency(1.92, 1.85, 1.99)
SLOWER = latency(0.5, 0.4, 0.8)
NO_DIFFERENCE = latency(1.1, 0.9, 1.2)


def test_a_noisy_measurement_is_told_in_the_sentence() -> None:
    noisy = FASTER.model_copy(update={"noisy": True})
    sentence = judge(quality(top1(0.972, 0.97)), [noisy], SIZE).sentence
    assert "model_int8.pt at batch 1, 1 thread (a noisy measurement); " in sentence


def test_quality_held_and_faster_is_recommended() -> None:
    verdict = judge(quality(top1(0.972, 0.97)), [FASTER], SIZE)
    assert (verdict.word, verdict.accuracy) == ("recommended", "met")
    assert verdict.sentence == (
        "top1 0.9720 → 0.9700 (drop 0.0020, target 0.0100 met); "
        "1.92× faster (1.85–1.99) than frozen torch float with model_int8.pt at batch 1, "
        "1 thread; 3.8× smaller."
    )


def test_quality_held_without_a_significant_difference_is_no_faster() -> None:
    verdict = judge(quality(top1(0.9, 0.9)), [NO_DIFFERENCE], SIZE)
    assert verdict.word == "no_faster"
    assert (
        "no significant difference in latency (0.90–1.20×) from frozen torch float with model_int8.pt"
        in verdict.sentence
    )


def test_quality_held_and_slower_says_slower_with_the_interval_turned_over() -> None:
    verdict = judge(quality(top1(0.9, 0.9)), [SLOWER], SIZE)
    assert verdict.word == "slower"
    assert "2.00× slower (1.25–2.50) than frozen torch float" in verdict.sentence


def test_a_missed_target_outweighs_any_speed() -> None:
    verdict = judge(quality(top1(0.972, 0.95)), [FASTER], SIZE)
    assert (verdict.word, verdict.accuracy) == ("accuracy_not_met", "not_met")
    assert "(drop 0.0220, target 0.0100 not met)" in verdict.sentence


def mse(int8_value: float, *, by_default: bool, met: bool = True) -> MetricResult:
    return MetricResult(
        name="mse", float_value=2e6, int8_value=int8_value, drop=int8_value - 2e6, max_drop=1e5, met=met,
        by_default=by_default,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("by_default", "sqnr_db", "word"),
    [(True, 30.0, "recommended"), (True, 10.0, "low_fidelity"), (False, 10.0, "recommended")],
)
def test_of_an_mse_the_target_by_default_does_not_outweigh_fidelity(
    sqnr_db: float, word: str, *, by_default: bool
) -> None:
    verdict = judge(quality(mse(2_012_345.0, by_default=by_default), sqnr_db, None), [FASTER], SIZE)
    assert (verdict.word, verdict.accuracy) == (word, "met")
    assert verdict.sentence.startswith("mse 2e+06 → 2.012e+06 (drop 1.234e+04, target 1e+05 met); ")
    assert ("SQNR 10.0 dB" in verdict.sentence) == (word == "low_fidelity")


def test_a_missed_target_by_default_is_missed() -> None:
    verdict = judge(quality(mse(3e6, by_default=True, met=False), 30.0, None), [FASTER], SIZE)
    assert (verdict.word, verdict.accuracy) == ("accuracy_not_met", "not_met")


def test_a_gain_is_told_as_a_gain() -> None:
    assert "(gain 0.0100, target 0.0100 met)" in judge(quality(top1(0.96, 0.97)), [FASTER], SIZE).sentence


@pytest.mark.parametrize(
    ("sqnr_db", "agreement", "word"),
    [
        (30.0, None, "recommended"),
        (10.0, None, "low_fidelity"),
        (19.9, None, "low_fidelity"),
        (20.0, None, "recommended"),
        (None, None, "recommended"),
        (10.0, 0.99, "recommended"),
        (30.0, 0.8, "low_fidelity"),
    ],
)
def test_without_a_metric_fidelity_decides(sqnr_db: float | None, agreement: float | None, word: str) -> None:
    verdict = judge(quality(None, sqnr_db, agreement), [FASTER], SIZE)
    assert (verdict.word, verdict.accuracy) == (word, "not_evaluated")
    assert verdict.sentence.startswith("Accuracy not evaluated; ")


def test_choices_are_told_as_such_and_judged_by_their_agreement() -> None:
    choice = OutputFidelity(output="class", discrete=True, sqnr_db=None, cosine=None, agreement=0.9)
    alone = judge(quality().model_copy(update={"fidelity": [choice]}), [FASTER], SIZE)
    assert alone.word == "low_fidelity"
    assert "; agrees with float on 90.0 % of the values on 500 evaluation samples; " in alone.sentence


def test_a_metric_without_a_target_is_told_and_not_judged() -> None:
    verdict = judge(quality(top1(0.9, 0.5, max_drop=None)), [FASTER], SIZE)
    assert (verdict.word, verdict.accuracy) == ("recommended", "not_evaluated")
    assert "(drop 0.4000, no target)" in verdict.sentence


def test_combinations_at_which_int8_is_slower_are_named() -> None:
    several = [FASTER, latency(0.8, 0.7, 0.9, 8, 2), latency(1.5, 1.4, 1.6, 8, 1)]
    assert "at batch 1, 1 thread, and slower at batch 8, 2 threads; 3.8×" in judge(quality(), several, SIZE).sentence


def test_the_artifact_and_what_it_is_held_against_are_named_in_words() -> None:
    fastest = FASTER.model_copy(update={"baseline": "float_onnxruntime", "int8": "int8_openvino"})
    told = "than ONNX Runtime float with model_int8.openvino.onnx at batch 1, 1 thread;"
    assert told in judge(quality(), [fastest], SIZE).sentence


def test_slower_elsewhere_is_said_of_the_artifact_of_the_verdict_and_not_of_the_fastest_there() -> None:
    def of(name: str, speedup: float) -> Speedup:
        return Speedup(name=name, speedup=speedup, speedup_ci95=(speedup, speedup), significant=True)

    elsewhere = latency(1.5, 1.4, 1.6, 8)
    several = [of("int8_onnxruntime", 1.5), of("int8_torch", 0.8)]
    found = elsewhere.model_copy(update={"int8": "int8_onnxruntime", "speedups": several})
    assert ", and slower at batch 8, 1 thread; " in judge(quality(), [FASTER, found], SIZE).sentence
    other = latency(0.8, 0.7, 0.9, 8).model_copy(update={"speedups": [of("int8_openvino", 0.8), of("int8_torch", 1.2)]})
    assert "slower" not in judge(quality(), [FASTER, other], SIZE).sentence
