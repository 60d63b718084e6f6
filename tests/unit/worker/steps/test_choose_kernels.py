"""Choosing the kernels of a static job, on a network really trained."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.worker.conftest import Digits, MakeFolder
from worker import recipes
from worker.steps import choose_kernels

KERNELS = {"onednn", "x86", "fbgemm"}


def run(digits: Digits, make_folder: MakeFolder, **more: Any) -> tuple[str, list[str]]:
    data = {"calibration": {"x": digits.training_x[:64]}, "evaluation": {"x": digits.evaluation_x}}
    folder = make_folder(digits.program, "static", data, benchmark={"max_seconds": 0.05}, **more)
    report = recipes.run(folder, lambda _: None)
    assert report.environment.qengine == report.spec["qengine"]
    assert f'QENGINE = "{report.spec["qengine"]}"' in (folder.outputs / "load_example.py").read_text()
    return report.spec["qengine"], report.spec["plan"]["kernels_tried"]


def test_kernels_that_the_spec_names_are_taken_untried(digits: Digits, make_folder: MakeFolder) -> None:
    assert run(digits, make_folder, qengine="onednn") == ("onednn", [])


def test_auto_measures_all_and_takes_the_fastest_right_ones(digits: Digits, make_folder: MakeFolder) -> None:
    """Each is told with its latency; none is much faster than the one chosen."""
    chosen, tried = run(digits, make_folder)
    told = dict(line.split(": ") for line in tried)
    assert set(told) == KERNELS
    latency_ms = {name: float(text.removesuffix(" ms")) for name, text in told.items()}
    assert latency_ms[chosen] <= choose_kernels._MIN_GAIN * min(latency_ms.values()) * 1.01


def test_kernels_that_saturate_are_not_taken_however_fast(
    digits: Digits, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPUs with VNNI may saturate nowhere, so that two of the kernels are made to look as if they did."""
    measured = choose_kernels._closeness_db

    def saturating(*arguments: Any) -> dict[str, float]:
        found = measured(*arguments)
        assert set(found) == KERNELS
        assert max(found.values()) - min(found.values()) < 1.0, "they agree on this network"
        return found | {"x86": found["x86"] - 10, "fbgemm": found["fbgemm"] - 20}

    monkeypatch.setattr(choose_kernels, "_closeness_db", saturating)
    chosen, tried = run(digits, make_folder)
    if chosen == "onednn":  # on a CPU without VNNI x86 is the plan's own, and the others are held against it
        assert [line.partition(":")[0] for line in tried if "saturates" in line] == ["x86", "fbgemm"]
    else:
        assert chosen == "x86"
        assert [line.partition(":")[0] for line in tried if "saturates" in line] == ["fbgemm"]
