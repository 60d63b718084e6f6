"""A planted fault is found: the first warning names the layer and the cause, and its patch recovers the quality."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from shared.job_report import JobReport
from shared.spec_patch import apply_patch
from tests.planted_faults.jobs import export_network, first_spec, run_job, told, worst_sqnr_db
from tests.planted_faults.models import FAULTS, Fault

#: What an expert's patch for the same fault gains, the report's must gain but for this much.
NEAR_THE_CURE_DB = 3.0


class Trial:
    """One fault: its broken job, and the same job with a patch applied."""

    def __init__(self, name: str, folder: Path) -> None:
        self.fault = FAULTS[name]()
        self._folder = folder
        self._program = export_network(self.fault, folder)
        self.broken = self._run(first_spec(self.fault), "broken")

    def patched(self, patch: dict[str, object], name: str) -> JobReport:
        return self._run(apply_patch(first_spec(self.fault), patch), name)

    @cache  # noqa: B019 - a trial lives as long as the module's tests
    def cured(self) -> JobReport:
        """The job as an expert would have sent it."""
        return self.patched(self.fault.cure, "cured")

    def _run(self, spec: dict[str, object], name: str) -> JobReport:
        return run_job(self.fault, self._program, spec, self._folder / name)


@pytest.fixture(scope="module")
def trial_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trial]:
    return cache(lambda name: Trial(name, tmp_path_factory.mktemp(name)))


CURABLE = [name for name, build in FAULTS.items() if build().cure]


@pytest.mark.parametrize("name", CURABLE)
def test_the_fault_is_one_of_quantization_and_can_be_cured(name: str, trial_of: Callable[[str], Trial]) -> None:
    """Otherwise nothing would be proved by finding it."""
    trial = trial_of(name)
    assert worst_sqnr_db(trial.cured()) - worst_sqnr_db(trial.broken) >= trial.fault.gain_db


@pytest.mark.parametrize("name", FAULTS)
def test_the_first_warning_names_the_layer_and_the_cause(name: str, trial_of: Callable[[str], Trial]) -> None:
    trial = trial_of(name)
    assert told(trial.broken), "the report warns of nothing"
    first = told(trial.broken)[0]
    assert first.code == trial.fault.code
    assert first.layer in trial.fault.layers
    assert first.evidence
    assert first.suggestion is not None or first.hint
    assert (first.suggestion is not None) == bool(trial.fault.cure)


@pytest.mark.parametrize("name", CURABLE)
def test_the_patch_of_the_first_warning_recovers_the_quality(name: str, trial_of: Callable[[str], Trial]) -> None:
    """As much as an expert's patch does; and what the patch was for is not the first thing to be said again."""
    trial = trial_of(name)
    assert told(trial.broken), "the report warns of nothing"
    suggestion = told(trial.broken)[0].suggestion
    assert suggestion is not None
    after = trial.patched(suggestion.patch, "patched")
    assert worst_sqnr_db(after) - worst_sqnr_db(trial.broken) >= trial.fault.gain_db
    assert worst_sqnr_db(after) >= worst_sqnr_db(trial.cured()) - NEAR_THE_CURE_DB
    assert not told(after) or _of(after) != _of(trial.broken)


def test_where_it_first_goes_wrong_is_in_the_report(trial_of: Callable[[str], Trial]) -> None:
    """What enters the layer that is rounded to zero is right."""
    broken = trial_of("zero_scale").broken
    assert broken.first_wrong is not None
    assert broken.first_wrong.layer == "tiny"


def test_an_island_becomes_int8_and_two_boundaries_go(trial_of: Callable[[str], Trial]) -> None:
    """Its fault was never the quality."""
    trial = trial_of("needless_float_island")
    warnings = told(trial.broken)
    suggestion = warnings[0].suggestion if warnings else None
    assert suggestion is not None
    after = trial.patched(suggestion.patch, "patched without boundaries")
    assert _precision(trial.broken, "4") == "float32"
    assert _precision(after, "4") == "int8"
    assert len(after.boundaries) < len(trial.broken.boundaries)


def test_most_faults_stand_with_the_default_spec() -> None:
    """Nothing was turned off to make them: the default engine does not mend them by itself."""
    faults: list[Fault] = [build() for build in FAULTS.values()]
    assert len(faults) >= 12
    assert sum(not fault.spec for fault in faults) >= 6


def _of(report: JobReport) -> tuple[str, str | None]:
    first = told(report)[0]
    return first.code, first.layer


def _precision(report: JobReport, name: str) -> str:
    (layer,) = (layer for layer in report.layers if layer.name == name)
    return layer.precision
