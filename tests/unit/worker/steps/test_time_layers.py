"""When layers are timed, when not, and that it costs the measured artifacts nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.job_report import JobReport
from tests.unit.worker.conftest import Digits, MakeFolder
from worker import recipes
from worker.layer_times import Operator, TimedFile, openvino_counters
from worker.loading_example import loading_example
from worker.runtimes import PRECISION, Session, open_session
from worker.steps import contenders, slow_models, verify
from worker.steps import time_layers as timing


def ignore(_: object) -> None:
    """Of no interest here."""


def told(report: JobReport) -> list[str]:
    return [each.message for each in report.warnings if each.code == "layers_not_timed"]


def test_where_the_time_limit_leaves_too_little_it_is_told(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_SHARE_OF_TIME_LEFT", 0.0)
    folder = make_folder(digits.program, "dynamic", {})
    limited = folder.read_inputs().model_copy(update={"wall_limit_seconds": 600.0})
    folder.create(limited)
    report = recipes.run(folder, ignore)
    assert report.layer_times == []
    [message] = told(report)
    assert message.startswith("Layers are not timed in torch: that takes ")


def test_a_profiler_that_fails_costs_only_the_times(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(timing, "open_timed", fail)
    report = recipes.run(make_folder(digits.program, "dynamic", {}), ignore)
    assert report.layer_times == []
    assert told(report) == ["Layers are not timed in torch: its profiler failed in a way that nobody foresaw."]
    assert report.latency


def test_without_the_float_model_in_the_same_runtime_there_is_nothing_to_compare_with(
    digits: Digits, make_folder: MakeFolder
) -> None:
    measured = recipes.run(make_folder(digits.program, "dynamic", {}), ignore).latency[0]
    without = measured.model_copy(
        update={"candidates": [each for each in measured.candidates if each.name != "float_frozen"]}
    )
    unread = TimedFile(Path("unread"), [])
    with pytest.raises(timing.CannotTime, match="frozen torch float was not measured"):
        timing._Timing("torch", timing.Pair("float_frozen", unread, unread), without, [], max_seconds=1)


def test_a_file_that_is_offered_in_bf16_is_measured_and_timed_and_loaded_in_bf16(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "has_bf16", lambda: True)
    monkeypatch.setattr(verify, "_share_of_time", lambda *_: 0.5)
    opened: list[dict[str, str]] = []
    monkeypatch.setattr(contenders, "open_session", _noting(opened))
    monkeypatch.setattr(openvino_counters, "OpenVinoSession", _noting(opened))
    folder = make_folder(digits.program, "static", {"calibration": {"x": digits.training_x[:64]}}, runtimes=None)
    report = recipes.run(folder, ignore)
    artifact = next(each for each in report.artifacts if each.runtime == "openvino")
    assert artifact.inference_precision == "bf16"
    assert {"PERF_COUNT": "YES", PRECISION: "bf16"} in opened
    assert {PRECISION: "bf16"} in opened
    (times,) = (each for each in report.layer_times if each.int8_candidate == "int8_openvino")
    assert times.float_candidate == ("float_openvino_bf16" if contenders.has_bf16() else "float_openvino")
    assert f'"{PRECISION}": "bf16"' in loading_example(report, artifact)


def _noting(opened: list[dict[str, str]]) -> Callable[..., Session]:
    def noting(*told: Any) -> Session:
        *_, path, settings = told
        opened.append(settings.options)
        return open_session(told[0] if len(told) > 2 else "openvino", path, settings)

    return noting


def test_what_onnx_runtimes_profiler_adds_is_found_from_both_models_together() -> None:
    operators = [Operator(str(at), "Conv", 0.012, (), ()) for at in range(10)]
    assert timing._surplus_ms("onnxruntime", ([operators], [operators]), [0.11, 0.10]) == pytest.approx(0.0015)
    assert timing._surplus_ms("onnxruntime", ([operators], [operators]), [0.2, 0.2]) == 0
    assert timing._surplus_ms("onnxruntime", ([operators], [operators]), [0.0, 0.0]) == 0.002
    assert timing._surplus_ms("openvino", ([operators], [operators]), [0.11, 0.10]) == 0


def test_of_a_slow_model_only_what_was_measured_is_timed(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_models, "_SLOW_SECONDS", 0.0)
    data = {"evaluation": {"x": digits.evaluation_x[:50]}}
    report = recipes.run(make_folder(digits.program, "dynamic", data, runtimes=["torch", "onnxruntime"]), ignore)
    assert "slow_model" in {each.code for each in report.warnings}
    [result] = report.latency
    assert {each.name for each in result.candidates} == {result.baseline, result.int8}
    assert len(report.artifacts) == 2
    beside = {"int8_torch": "float_frozen", "int8_onnxruntime": "float_onnxruntime"}[result.int8]
    timed = result.baseline == beside
    assert [each.int8_candidate for each in report.layer_times] == ([result.int8] if timed else [])
    assert len(told(report)) == (0 if timed else 1)
