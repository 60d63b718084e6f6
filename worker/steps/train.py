"""Train: a network learns epoch by epoch; its best epoch is kept, and what is left of each epoch is written down.

The same loop trains the network with fake quantize and, beside it, the float one: same data in the same order, same
optimizer, same rates. Which epoch is best is asked of samples held back from the training data, never of the
evaluation data: the best of many epochs by the evaluation data would look better there than it is. Of epochs that these
samples cannot tell apart the last is kept: it has learnt most, at the lowest rate and with everything frozen, where the
very best of many on a hundred samples is often an early one that was lucky (docs/decisions/0016).

Everything random in an epoch follows from the seed and the epoch's number, so a training that is taken up from a
checkpoint ends with the same weights, to the bit, as one that was never interrupted.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from shared.job_report import EpochResult
from shared.quantization_spec import QatSettings, QatSpec
from worker.datasets import Batch, Samples
from worker.progress import ProgressTracker
from worker.quantization import freeze_batch_norm, freeze_observers, keep_scales_positive, scale_parameters
from worker.steps.evaluate import Yardstick, evaluate, mean_sqnr_db
from worker.steps.load import LoadedModel
from worker.steps.losses import LossName, loss_of, loss_of_zeros, losses_and_hits
from worker.training_checkpoint import Checkpoint, Curve, Phase, State, fits, restore_optimizer
from worker.training_data import TrainingData, split
from worker.training_schedule import TrainingSchedule, schedule

_SGD_MOMENTUM = 0.9
_EXPLODED = 100.0
"""Times the loss of answering nothing but zeros, or of the first step, whichever is more."""
_NOISE_SAMPLES = 4
_NOISE_LOSS_SHARE = 0.01
_EPOCH_STRIDE = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Course:
    """What both networks are trained by."""

    model: LoadedModel
    data: TrainingData
    settings: QatSettings
    schedule: TrainingSchedule
    loss_name: LossName
    yardstick: Yardstick
    seed: int
    tracker: ProgressTracker


def plan_course(
    model: LoadedModel,
    training: Samples,
    spec: QatSpec,
    *,
    loss_name: LossName,
    yardstick: Yardstick,
    tracker: ProgressTracker,
) -> Course:
    """Split the training data and lay out the steps; warns of what is scarce, raises TrainingTooSmall."""
    settings = spec.qat
    data = split(training, model.batch, model.raised, settings, seed=spec.seed, tracker=tracker)
    steps = schedule(settings, samples=data.learnt.count, batch_size=data.batch_size)
    return Course(model, data, settings, steps, loss_name, yardstick, spec.seed, tracker)


@dataclass(frozen=True)
class Finished:
    """The quantized network, trained: what a checkpoint must hold too while the float one trains."""

    network: nn.Module
    curve: Curve


Keep = Callable[[Checkpoint], None]
Advance = Callable[[int, str], None]


class Training:
    """One network on its course, from the first epoch or from a checkpoint; `run` leaves the best epoch in it."""

    def __init__(
        self, course: Course, network: nn.Module, phase: Phase, best_file: Path, *, before: Finished | None = None
    ) -> None:
        self._course = course
        self._network = network
        self._phase: Phase = phase
        self._best_file = best_file
        self._before = before
        self._scales = list(scale_parameters(network))
        self._optimizer = _optimizer(network, course.settings)
        self._explodes_at = _EXPLODED * loss_of_zeros(course.model, course.data.learnt, course.loss_name)
        self._score = (0.0, 0.0)
        self.curve = Curve()

    def resume(self, checkpoint: Checkpoint) -> bool:
        """Go on from here; whether the checkpoint fits this network. If it does not, nothing has changed."""
        best = checkpoint.best
        if not fits(self._network, checkpoint.network) or not (best is None or fits(self._network, best)):
            return False
        if not restore_optimizer(self._optimizer, checkpoint.optimizer):
            self._optimizer = _optimizer(self._network, self._course.settings)
            return False
        self._network.load_state_dict(checkpoint.network)
        self.curve = checkpoint.curves[self._phase]
        torch.save(checkpoint.network if best is None else best, self._best_file)
        return True

    def take_finished(self, curve: Curve, state: State) -> None:
        """Nothing is left to train: an earlier attempt had come to the end, and this is the state it kept."""
        self.curve = curve
        torch.save(state, self._best_file)

    def run(self, epochs: int, keep: Keep, advance: Advance) -> Curve:
        """Train until this many epochs are done, or it stops early or diverges.

        `keep` is given a checkpoint after each epoch, `advance` how many steps are done. The network is left as it was
        at its best epoch; when there is none, because it diverged in the first, it is worth nothing.
        """
        patience = self._course.settings.early_stop_patience
        while len(self.curve.epochs) < epochs and self.curve.stopped == "completed":
            epoch = len(self.curve.epochs) + 1
            result = self._epoch(epoch, advance)
            if result is None:
                self.curve.stopped = "diverged"
                break
            self.curve.epochs.append(result)
            self._note_best(epoch)
            # The float network is trained for as long as the other one was.
            if self._phase == "qat" and patience is not None and self.curve.stalled >= patience:
                self.curve.stopped = "early"
            keep(self._checkpoint(epoch))
        if self.curve.best_epoch is not None:
            self._network.load_state_dict(_read_state(self._best_file))
        self._best_file.unlink(missing_ok=True)
        return self.curve

    def _epoch(self, epoch: int, advance: Advance) -> EpochResult | None:
        """Train for one epoch and measure it; None when the training diverged."""
        course, plan = self._course, self._course.schedule
        began_at = time.monotonic()
        order = torch.Generator().manual_seed(_seed_of(course.seed, epoch))
        torch.manual_seed(_seed_of(course.seed, epoch))  # for what the network itself draws
        self._network.train()
        loss_sum = 0.0
        step = (epoch - 1) * plan.steps_per_epoch
        for position, batch in enumerate(_shuffled(course.data, plan.steps_per_epoch, order)):
            self._freeze(step, first=position == 0)
            for group in self._optimizer.param_groups:
                group["lr"] = group["rate"] * plan.rate(step)
            loss = loss_of(course.model, self._network, batch, course.loss_name)
            value = loss.item()
            if self._diverged(value):
                return None
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._optimizer.step()
            keep_scales_positive(self._scales)
            loss_sum += value
            step += 1
            advance(step, f"{self._name}: epoch {epoch} of {plan.epochs}, loss {value:.4g}")
        self._optimizer.zero_grad(set_to_none=True)  # gradients are as large as the weights, and evaluation needs none
        return self._measured(epoch, loss_sum / plan.steps_per_epoch, step - 1, began_at)

    def _freeze(self, step: int, *, first: bool) -> None:
        plan = self._course.schedule
        if step == plan.observers_freeze_at:
            freeze_observers(self._network)
        # train(), at the start of an epoch, thaws batch norm.
        if step == plan.batch_norm_freezes_at or (first and step > plan.batch_norm_freezes_at):
            freeze_batch_norm(self._network)

    def _diverged(self, loss: float) -> bool:
        if self.curve.first_loss is None:
            self.curve.first_loss = loss
        return not math.isfinite(loss) or loss > max(self._explodes_at, _EXPLODED * self.curve.first_loss)

    def _measured(self, epoch: int, loss: float, last_step: int, began_at: float) -> EpochResult | None:
        course = self._course
        network = self._network
        if self._phase == "qat":
            # On a copy, whose observers are off: the ranges must not learn from held-back or evaluation data.
            network = copy.deepcopy(network)
            freeze_observers(network)
        network.eval()
        held_back_loss, hits = losses_and_hits(course.model, network, course.data.judge, course.loss_name)
        if self._diverged(held_back_loss):
            return None
        (quality,) = evaluate(course.model, [network], course.yardstick, lambda _done, _total: None)
        self._score = (hits, -held_back_loss)
        result = EpochResult(
            epoch=epoch,
            loss=loss,
            held_back_loss=held_back_loss if course.data.held_back is not None else None,
            metric=quality.metric.int8_value if quality.metric is not None else None,
            sqnr_db=mean_sqnr_db(quality.fidelity),
            seconds=time.monotonic() - began_at,
            learning_rate=course.settings.learning_rate * course.schedule.rate(last_step),
        )
        self._tell(result)
        return result

    def _tell(self, result: EpochResult) -> None:
        course, prefix = self._course, "" if self._phase == "qat" else "float_"
        course.tracker.metric(name=f"{prefix}loss", value=result.loss, epoch=result.epoch)
        if course.yardstick.metric is not None:
            course.tracker.metric(name=f"{prefix}{course.yardstick.metric}", value=result.metric, epoch=result.epoch)
        if self._phase == "qat":
            course.tracker.metric(name="sqnr_db", value=result.sqnr_db, epoch=result.epoch)

    def _note_best(self, epoch: int) -> None:
        curve = self.curve
        # Without samples held back nothing tells one epoch from another but its place: the last has learnt most.
        better = self._course.data.held_back is None or curve.best_score is None or self._score > curve.best_score
        if better:
            curve.best_score, curve.stalled = self._score, 0
        else:
            curve.stalled += 1
        if better or self._as_good_as_best():
            curve.best_epoch = epoch
            torch.save(self._network.state_dict(), self._best_file)

    def _as_good_as_best(self) -> bool:
        """Whether the samples held back are too few to call this epoch worse than the best so far.

        Classifiers are told apart by at least four samples and by one standard error of the best one's hits (Breiman et
        al. 1984, section 3.4.3), other losses by one percent.
        """
        assert self.curve.best_score is not None
        (hits, loss), (most_hits, least_loss) = self._score, self.curve.best_score
        if self._course.loss_name != "cross_entropy":
            return -loss <= -least_loss * (1 + _NOISE_LOSS_SHARE)
        count = self._course.data.judge.count
        noise = max((_NOISE_SAMPLES - 0.5) / count, math.sqrt(most_hits * (1 - most_hits) / count))
        return hits > most_hits - noise

    def _checkpoint(self, epoch: int) -> Checkpoint:
        curves: dict[Phase, Curve] = {self._phase: self.curve}
        if self._before is not None:
            curves["qat"] = self._before.curve
        return Checkpoint(
            phase=self._phase,
            curves=curves,
            network=self._network.state_dict(),
            optimizer=self._optimizer.state_dict(),
            best=None if self.curve.best_epoch == epoch else _read_state(self._best_file),
            trained=None if self._before is None else self._before.network.state_dict(),
        )

    @property
    def _name(self) -> str:
        return "Training" if self._phase == "qat" else "Training the float model for comparison"


def _read_state(path: Path) -> State:
    # Mapped, not read: the best epoch's weights cost no memory while the others train.
    state: State = torch.load(path, weights_only=True, mmap=True)
    return state


def _seed_of(seed: int, epoch: int) -> int:
    return (seed + epoch * _EPOCH_STRIDE) % 2**63


def _shuffled(data: TrainingData, steps: int, generator: torch.Generator) -> Iterator[Batch]:
    order = torch.randperm(data.learnt.count, generator=generator).tolist()
    for step in range(steps):
        yield data.learnt.take(order[step * data.batch_size : (step + 1) * data.batch_size])


def _optimizer(network: nn.Module, settings: QatSettings) -> torch.optim.Optimizer:
    """The optimizer; every group keeps the `rate` that the schedule takes its share of.

    Weights of layers decay; biases, norms and scales do not, for less of them is no simpler function. Adam forgets how
    large a gradient is, and with it LSQ's balance between scales and weights, so there each scale has a rate of its own
    that moves it, relative to its size, as fast as the weights move.
    """
    scales = list(scale_parameters(network))
    apart = {id(scale) for scale in scales}
    others = [each for each in network.parameters() if each.requires_grad and id(each) not in apart]
    weights, plain = [each for each in others if each.ndim > 1], [each for each in others if each.ndim <= 1]
    rate = settings.learning_rate
    groups: list[dict[str, object]] = [
        {"params": weights, "rate": rate, "weight_decay": settings.weight_decay},
        {"params": plain, "rate": rate, "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        groups.append({"params": scales, "rate": rate, "weight_decay": 0.0})
    else:
        size = float(torch.stack([each.detach().abs().mean() for each in weights]).mean()) if weights else 1.0
        for scale in scales:
            own = rate * float(scale.detach().mean()) / max(size, 1e-12)
            groups.append({"params": [scale], "rate": own, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=_SGD_MOMENTUM)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate)
    return torch.optim.Adam(groups, lr=rate)
