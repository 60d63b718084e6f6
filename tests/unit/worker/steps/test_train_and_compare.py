"""QAT and the float model side by side: which is called better, what is offered, and where a lost attempt goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.job_report import EpochResult, MetricResult, OutputFidelity, Quality
from tests.unit.worker.steps.conftest import MakeCourse, prepared_for
from worker.datasets import InMemorySamples
from worker.job_folder import JobFolder
from worker.progress import ProgressTracker
from worker.steps.train_and_compare import Trained, compare_with_static, train_and_compare
from worker.training_checkpoint import Checkpoint

SETTINGS: dict[str, Any] = {"epochs": 3, "learning_rate": 1e-3}


class Lost(Exception):
    """The worker is lost."""


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    folder = JobFolder(tmp_path)
    for each in (folder.inputs, folder.tmp):
        each.mkdir()
    return folder


@pytest.mark.parametrize("lost_after", [1, 3, 4, 6])
def test_a_lost_attempt_goes_on_in_either_network_and_ends_the_same(
    make_course: MakeCourse,
    training: InMemorySamples,
    folder: JobFolder,
    monkeypatch: pytest.MonkeyPatch,
    lost_after: int,
) -> None:
    """Three epochs of QAT and three of float; lost after the first, the last of QAT, the first of float, the last."""

    def attempt(after: int | None) -> tuple[Trained, dict[str, torch.Tensor]]:
        course = make_course(**SETTINGS)
        prepared = prepared_for(course, training, **SETTINGS)
        written = 0
        save = Checkpoint.save

        def save_and_perhaps_die(checkpoint: Checkpoint, path: Path, fingerprint: str) -> None:
            nonlocal written
            save(checkpoint, path, fingerprint)
            written += 1
            if written == after:
                path.rename(folder.earlier_checkpoint)
                raise Lost

        with monkeypatch.context() as patched:
            patched.setattr(Checkpoint, "save", save_and_perhaps_die)
            trained = train_and_compare(course, prepared, folder, "ours", lambda _done, _total, _told=None: None)
        return trained, prepared.state_dict()

    straight, expected = attempt(None)
    assert straight.resumed_after_epoch is None
    assert not list(folder.tmp.iterdir())
    with pytest.raises(Lost):
        attempt(lost_after)
    taken_up, found = attempt(None)
    assert taken_up.resumed_after_epoch == min(lost_after, 3)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert taken_up.finetuned_metric == straight.finetuned_metric
    assert untimed(taken_up.epochs) == untimed(straight.epochs)


def untimed(epochs: list[EpochResult]) -> list[dict[str, Any]]:
    return [epoch.model_dump(exclude={"seconds"}) for epoch in epochs]


def test_a_corrupt_checkpoint_is_told_and_training_begins_anew(
    make_course: MakeCourse, training: InMemorySamples, folder: JobFolder
) -> None:
    told: list[str] = []
    course = make_course(epochs=1)
    course.tracker.log = told.append  # type: ignore[method-assign]  # what the job's history would be told
    folder.earlier_checkpoint.write_bytes(b"no checkpoint")
    prepared = prepared_for(course, training)
    trained = train_and_compare(course, prepared, folder, "ours", lambda _done, _total, _told=None: None)
    assert trained.resumed_after_epoch is None
    assert any("cannot be read: training begins anew" in line for line in told)


def quality(drop: float | None, sqnr_db: float | None, name: Any = "top1") -> Quality:
    metric = None
    if drop is not None:
        metric = MetricResult(name=name, float_value=0.9, int8_value=0.9 - drop, drop=drop, max_drop=None, met=None)
    fidelity = [OutputFidelity(output="y", sqnr_db=sqnr_db, cosine=1, agreement=None)]
    return Quality(data="evaluation", samples=1000, metric=metric, fidelity=fidelity)


@pytest.mark.parametrize(
    ("qat", "static", "better", "codes"),
    [
        (quality(0.01, 30), quality(0.02, 40), "qat", set()),
        (quality(0.02, 30), quality(0.01, 20), "static", {"qat_not_better"}),
        (quality(-0.01, 30), quality(0.01, 30), "qat", {"qat_trained_further"}),
        # Three samples of a thousand are noise, four are not; and SQNR is against a model that was not trained.
        (quality(0.010, 30), quality(0.013, 30), "same", {"qat_not_better"}),
        (quality(0.010, 30), quality(0.013, 31), "same", {"qat_not_better"}),
        (quality(0.010, 31), quality(0.013, 30), "same", {"qat_not_better"}),
        (quality(0.010, 30), quality(0.014, 31), "qat", set()),
        (quality(None, 30), quality(None, 20), "qat", set()),
        (quality(None, 30), quality(None, 30.4), "same", {"qat_not_better"}),
        (quality(None, None), quality(None, 50), "qat", set()),
        (None, quality(0.5, 1), "static", set()),
    ],
)
def test_the_metric_decides_beyond_noise_and_sqnr_within_it_and_static_is_offered_when_as_good(
    make_course: MakeCourse,
    tracker: ProgressTracker,
    *,
    qat: Quality | None,
    static: Quality,
    better: str,
    codes: set[str],
) -> None:
    trained = Trained([], 1, "completed", 0.95, None)
    result = compare_with_static(
        make_course(),
        trained,
        qat,
        static,
        simulated=None if qat is None else (qat, static),
        float_layers={"pool": "why"},
        static_float_layers={"pool": "why", "fc": "x"},
    )
    assert (result.qat_float_layers, result.static_float_layers) == ({"pool": "why"}, {"pool": "why", "fc": "x"})
    assert result.better == better
    assert result.offered == ("qat" if better == "qat" else "static")
    assert {warning.code for warning in tracker.warnings} == codes
    assert result.static_metric == static.metric
    assert result.qat_metric == (None if qat is None else qat.metric)
    assert result.held_back_samples == 16


@pytest.mark.parametrize(
    ("static_db", "why"),
    [(31, "which is nearer to the model that was sent and needs no training."), (29, "which needs no training.")],
)
def test_what_the_samples_cannot_tell_apart_is_not_called_better(
    make_course: MakeCourse, tracker: ProgressTracker, static_db: float, why: str
) -> None:
    """QAT has two hits of a thousand more, and that says nothing."""
    both = quality(0.010, 30), quality(0.012, static_db)
    compare_with_static(
        make_course(), Trained([], 1, "completed", 0.95, None), *both,
        simulated=both, float_layers={}, static_float_layers={},
    )  # fmt: skip
    (warning,) = tracker.warnings
    assert warning.message == (
        f"QAT and static quantization cannot be told apart by 1000 samples: the artifact is the static model, {why}"
    )


@pytest.mark.parametrize(("static_db", "better"), [(31, "static"), (29, "qat")])
def test_a_distilled_network_was_to_be_the_model_that_was_sent_and_sqnr_tells(
    make_course: MakeCourse, static_db: float, better: str
) -> None:
    both = quality(0.010, 30), quality(0.012, static_db)
    result = compare_with_static(
        replace(make_course(), loss_name="distillation"), Trained([], 1, "completed", 0.95, None), *both,
        simulated=both, float_layers={}, static_float_layers={},
    )  # fmt: skip
    assert result.better == better


@pytest.mark.parametrize(("asked", "suggested"), [(10.0, 1e-3), (1e-2, 1e-3), (1e-3, 1e-4), (1e-4, 1e-5)])
def test_after_an_absurd_learning_rate_a_sane_one_is_suggested(
    make_course: MakeCourse, tracker: ProgressTracker, asked: float, suggested: float
) -> None:
    epoch = EpochResult(epoch=1, loss=9.0, metric=None, sqnr_db=None, seconds=1)
    both = quality(0.5, 3), quality(0.1, 30)
    compare_with_static(
        make_course(learning_rate=asked), Trained([epoch], 1, "completed", None, None, first_loss=0.3), *both,
        simulated=both, float_layers={}, static_float_layers={},
    )  # fmt: skip
    (warning,) = tracker.warnings
    assert warning.suggestion is not None
    assert warning.suggestion.patch["qat"]["learning_rate"] == pytest.approx(suggested)


def test_int8_in_float_decides_and_not_kernels_that_the_clock_chose(
    make_course: MakeCourse, tracker: ProgressTracker
) -> None:
    """By the kernels' figures static would be as good; these and those stand in the report."""
    result = compare_with_static(
        make_course(),
        Trained([], 1, "completed", 0.95, None),
        quality(0.010, 30),
        quality(0.013, 30),
        simulated=(quality(0.010, 30), quality(0.014, 30)),
        float_layers={},
        static_float_layers={},
    )
    assert result.offered == "qat"
    assert (result.qat_metric, result.static_metric) == (quality(0.010, 30).metric, quality(0.013, 30).metric)
    assert not tracker.warnings


@pytest.mark.parametrize(("last_loss", "too_fast"), [(0.3, False), (0.59, False), (2.3, True)])
def test_a_training_that_ends_far_above_where_it_began_is_told_to_go_slower(
    make_course: MakeCourse, tracker: ProgressTracker, last_loss: float, *, too_fast: bool
) -> None:
    epoch = EpochResult(epoch=1, loss=last_loss, metric=None, sqnr_db=None, seconds=1)
    trained = Trained([epoch], 1, "completed", None, None, first_loss=0.3)
    compare_with_static(
        make_course(learning_rate=0.5),
        trained,
        quality(0.5, 3),
        quality(0.1, 30),
        simulated=(quality(0.5, 3), quality(0.1, 30)),
        float_layers={},
        static_float_layers={},
    )
    (warning,) = tracker.warnings
    assert warning.code == "qat_not_better"
    assert warning.evidence == (
        "top1: static 0.8000, QAT 0.4000; SQNR against the model as sent: static 30.0 dB, QAT 3.0 dB."
    )
    assert ("from 0.3 in its first step to 2.3" in warning.message) == too_fast
    assert (warning.suggestion is not None) == too_fast
    if warning.suggestion is not None:
        assert warning.suggestion.patch == {"qat": {"learning_rate": 0.001}}
