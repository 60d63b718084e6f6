"""The digits network on a course of training: what the tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from shared.job import Step
from shared.quantization_spec import QatSpec
from tests.unit.worker.conftest import MODEL_ID, Digits
from worker.datasets import InMemorySamples
from worker.inference import batch_range
from worker.progress import ProgressTracker
from worker.quantization import input_specs, learn_scales, load_program, prepare_qat, raise_program
from worker.quantization.planning import choose_plan
from worker.steps.calibrate import calibrate
from worker.steps.evaluate import Yardstick
from worker.steps.load import LoadedModel
from worker.steps.train import Course, plan_course

DATASET_ID = "dst_0123456789abcdef"
SAMPLES = 144
"""16 are held back, 128 are learnt from: four steps an epoch at batch 32."""


@pytest.fixture
def model(digits: Digits) -> LoadedModel:
    program = load_program(digits.program)
    specs = tuple(input_specs(program))
    return LoadedModel(raise_program(program), specs, ("output",), batch_range(specs), 32)


@pytest.fixture
def training(digits: Digits) -> InMemorySamples:
    return InMemorySamples(
        (torch.from_numpy(digits.training_x[:SAMPLES]),), torch.from_numpy(digits.training_y[:SAMPLES])
    )


@pytest.fixture
def tracker() -> ProgressTracker:
    return ProgressTracker(lambda _: None, {Step.TRAIN: 1})


def qat_spec(**qat: Any) -> QatSpec:
    weight = qat.pop("weight", {})
    return QatSpec(method="qat", model=MODEL_ID, training=DATASET_ID, qat=qat, weight=weight)


MakeCourse = Callable[..., Course]


@pytest.fixture
def make_course(model: LoadedModel, training: InMemorySamples, tracker: ProgressTracker) -> MakeCourse:
    """A course by these settings of QAT, judged on the training data itself."""

    def make(**qat: Any) -> Course:
        yardstick = Yardstick(training, "training", "top1", None)
        return plan_course(
            model, training, qat_spec(**qat), loss_name="cross_entropy", yardstick=yardstick, tracker=tracker
        )

    return make


def prepared_for(course: Course, training: InMemorySamples, **qat: Any) -> fx.GraphModule:
    """The network with fake quantize, calibrated; its scales learn if the settings say so."""
    spec = qat_spec(**qat)
    settled = choose_plan(course.model.raised, spec)  # not tried out: that takes longer than the training
    prepared = prepare_qat(course.model.raised, settled, training.read(0, 2).inputs)
    calibrate(course.model, [prepared], training, lambda _done, _total: None, then=(training, lambda: None))
    if spec.qat.learnable_scales:
        learn_scales(prepared)
    return prepared


@pytest.fixture
def best_file(tmp_path: Path) -> Path:
    return tmp_path / "best.pt"
