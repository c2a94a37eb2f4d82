"""The epochs of one trial: start or resume it, train, choose the epoch to store, and pause after a rung of a search."""

import math
import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_lib.assignment import Assignment, Pace
from mnist_lib.clock import steady_time
from mnist_lib.data.batches import Plan
from mnist_lib.data.split import Split
from mnist_lib.errors import CheckpointError, DivergedError, SpecError
from mnist_lib.models.model import Model, Weights
from mnist_lib.results import Accuracy, CheckpointTaken, EpochDone, Heartbeat, RungDone, TrialEvent
from mnist_lib.spec import TrialSpec
from mnist_lib.training.checkpoint import Best, TrainingState, pack, unpack
from mnist_lib.training.loop import HEARTBEAT_SECONDS, Predictor, Trainer, accuracy_of, learning_rates


@dataclass(frozen=True)
class Compiled:
    """The compiled model that trials of the same shape share."""

    model: Model
    trainer: Trainer
    plan: Plan
    train: Split
    validation: Split | None
    notices: tuple[str, ...]


def start(trainer: Trainer, given: Assignment) -> tuple[TrainingState | None, tuple[str, ...]]:
    """Start training from the checkpoint if it is usable, and return its state and the notices."""
    trainer.start(given.spec.seed)
    if given.checkpoint is None:
        return None, ()
    try:
        state = unpack(given.checkpoint, given.spec, like=trainer.values)
    except CheckpointError as error:
        return None, (f"{error}; the trial starts from the beginning",)
    if given.until is not None and state.epoch > given.until:  # its score would be that of a later rung
        return None, ("its checkpoint is of a later rung; the trial starts from the beginning",)
    if given.until is None and state.epoch > len(given.epochs):
        lost = f"the history of the run lacks epochs before its checkpoint of epoch {state.epoch}"
        return None, (f"{lost}; the trial starts from the beginning",)
    trainer.values = state.values
    return state, ()


def train(
    compiled: Compiled,
    spec: TrialSpec,
    state: TrainingState | None,
    history: list[EpochDone],
    pace: Pace,
    deadline: float,
) -> Generator[TrialEvent, None, TrainingState]:
    """Return the last state, with the epoch to store.

    That is the latest epoch with at least max - sqrt(max (n - max) / n) correct predictions on the n validation images,
    one standard error below the maximum: of epochs that differ only by chance, the longest trained is the best guess.
    Without validation it is the last one.

    Args:
        history: every epoch is added to it.
        deadline: the value of `steady_time()` after which no epoch should end.
    """
    best, number = (state.best, state.epoch) if state else (None, 0)
    seconds, longest = (state.seconds, state.longest) if state else (0.0, 0.0)
    rates = rates_of(compiled, spec)
    last = min(spec.epochs, pace.max_epochs or spec.epochs)
    checkpoint_at = time.monotonic()
    for epoch in compiled.trainer.train(
        compiled.train,
        compiled.plan,
        seed=spec.seed,
        learning_rates=rates,
        first=number + 1,
        last=last,
        trial=spec.id,
    ):
        if isinstance(epoch, Heartbeat):
            yield epoch
            continue
        trained_at, number = steady_time(), epoch.epoch
        validation = (yield from _validate(compiled, spec, number)) if compiled.validation else None
        highest = max(best.highest if best else 0, validation.correct if validation else 0)
        # An epoch that raises the maximum is itself close to it, so an earlier one never has to be found again.
        if best is None or validation is None or validation.is_close_to(highest):
            best = Best(number, compiled.trainer.weights, validation, highest)
        done, seconds = epoch.with_validation(validation), seconds + epoch.seconds
        longest = max(longest, epoch.seconds + steady_time() - trained_at)
        history.append(done)
        yield done
        late = steady_time() + longest > deadline
        if math.isfinite(deadline) and compiled.trainer.any_process(late):
            break
        if number < last and time.monotonic() - checkpoint_at >= pace.checkpoint_seconds:
            content = pack(TrainingState(compiled.trainer.values, best, number, seconds, longest), spec)
            yield CheckpointTaken(trial=spec.id, epoch=number, content=content)
            checkpoint_at = time.monotonic()
    assert best is not None  # a spec has at least one epoch
    return TrainingState(compiled.trainer.values, best, number, seconds, longest)


def rung_done(spec: TrialSpec, state: TrainingState) -> RungDone:
    """Return the end of a rung. Raises SpecError if there is no validation."""
    validation = state.best.validation
    if validation is None:
        raise SpecError("validation_percent: expected images for validation, since a search compares it, got none")
    content = pack(state, spec) if state.epoch < spec.epochs else b""
    return RungDone(trial=spec.id, epoch=state.epoch, validation=validation, seconds=state.seconds, content=content)


def rates_of(compiled: Compiled, spec: TrialSpec) -> NDArray[np.float32]:
    """Return the learning rate of every step of the trial, [steps]."""
    return learning_rates(spec.schedule, spec.learning_rate, spec.epochs * compiled.plan.steps)


def _validate(compiled: Compiled, spec: TrialSpec, epoch: int) -> Generator[TrialEvent, None, Accuracy]:
    trainer, validation, heartbeat = compiled.trainer, compiled.validation, Heartbeat(trial=spec.id, epoch=epoch)
    assert validation is not None
    try:
        probabilities = yield from evaluate(trainer.predictor, trainer.weights, validation, heartbeat)
    except DivergedError as error:
        raise DivergedError(f"after epoch {epoch}, {error}") from error
    return accuracy_of(probabilities, validation.labels)


def evaluate(
    predictor: Predictor, weights: Weights, split: Split, heartbeat: TrialEvent
) -> Generator[TrialEvent, None, NDArray[np.float32]]:
    """Return the probabilities of a split, [n, classes], and yield `heartbeat` every few seconds until then."""
    parts, heartbeat_at = [], time.monotonic()
    for part in predictor.predict(weights, split.images):
        parts.append(part)
        if time.monotonic() - heartbeat_at >= HEARTBEAT_SECONDS:
            yield heartbeat
            heartbeat_at = time.monotonic()
    return np.concatenate(parts)
