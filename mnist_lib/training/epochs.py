"""The epochs of a trial: the state from which it continues, the epoch that is stored, and when it ends.

A lane, in `trial`, runs them and evaluates the result.
"""

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from mnist_lib.assignment import Assignment
from mnist_lib.clock import steady_time
from mnist_lib.data.batches import Plan
from mnist_lib.data.split import Split
from mnist_lib.errors import CheckpointError, DivergedError, SpecError
from mnist_lib.margins import no_sums
from mnist_lib.models.model import Model, Weights
from mnist_lib.results import (
    Accuracy,
    CheckpointTaken,
    EpochDone,
    Heartbeat,
    RungDone,
    TrialEvent,
)
from mnist_lib.spec import TrialSpec
from mnist_lib.training.checkpoint import Best, TrainingState, pack, unpack
from mnist_lib.training.deadline import Deadline
from mnist_lib.training.loop import Trainer
from mnist_lib.training.prediction import HEARTBEAT_SECONDS, accuracy_of


@dataclass(frozen=True)
class Compiled:
    """The compiled model that trials of the same shape share."""

    model: Model
    trainer: Trainer
    plan: Plan
    train: Split
    validation: Split | None
    notices: tuple[str, ...]
    fold: Split | None = None  # the images of the trial's fold
    class_sizes: NDArray[np.int64] | None = None  # [classes] of all images held out, if their score is balanced
    num_tested: int = 0  # images that are evaluated when training has ended


def epochs_so_far(state: TrainingState, plan: Plan) -> float:
    """Return the number of epochs trained so far, with the share of the running one."""
    return state.epoch + state.part.chunks / plan.chunks


def resume(compiled: Compiled, assignment: Assignment) -> tuple[TrainingState, tuple[str, ...]]:
    """Start training from the checkpoint, if there is a usable one, and return the state, and a notice if it is not."""
    trainer, plan = compiled.trainer, compiled.plan
    trainer.start(assignment.spec.seed)
    start = TrainingState(trainer.weights, margins=no_sums(plan.images))
    if assignment.checkpoint is None:
        return start, ()
    try:
        state, values = unpack(assignment.checkpoint, assignment.spec, plan, like=trainer.values)
        if assignment.until is not None and epochs_so_far(state, plan) > assignment.until:
            raise CheckpointError("its checkpoint is of a later rung")  # whose score it would have
        if assignment.until is None and state.epoch > len(assignment.epochs):
            raise CheckpointError(f"the history of the run lacks epochs before its checkpoint of epoch {state.epoch}")
    except CheckpointError as error:
        return start, (f"{error}; the trial starts from the beginning",)
    trainer.values = values
    return state, ()


def train(
    compiled: Compiled,
    assignment: Assignment,
    state: TrainingState,
    history: list[EpochDone],
    checkpoint_seconds: float,
) -> Generator[TrialEvent, None, TrainingState]:
    """Train what follows on `state`, add the epochs to `history`, and return the last state, with the epoch to store.

    That is the latest epoch whose score on the validation images is at most a standard error below the maximum: of
    epochs that differ only by chance, the longest trained is the best guess. Without validation it is the last one.
    """
    trainer, plan, spec = compiled.trainer, compiled.plan, assignment.spec
    last = min(spec.epochs, assignment.until or spec.epochs)
    is_limited = math.isfinite(assignment.deadline)
    size = trainer.predictor.batch_size(compiled.train.images.shape[1:])
    validated, tested = (-(-images // size) for images in (len(compiled.validation or ()), compiled.num_tested))
    deadline, begin = Deadline(assignment.deadline, validated + tested), steady_time()
    if is_limited:
        trainer.predictor.probabilities(trainer.weights, compiled.train.images[:size])
        deadline.note_batches(1, steady_time() - begin)
    seconds_within = checkpoint_seconds or math.inf
    heartbeat_at = checkpoint_at = time.monotonic()
    report_seconds = 0.0 if is_limited or assignment.images else min(HEARTBEAT_SECONDS, seconds_within)
    for part in trainer.train(compiled.train, plan, spec, last, state, report_seconds):
        number, ends = state.epoch + 1, False
        deadline.note_chunk(part.seconds - state.part.seconds)
        state = replace(state, part=part)
        if part.chunks < plan.chunks:
            has_enough = number == last and part.train.total >= (assignment.images or math.inf)
            ends = has_enough or (is_limited and deadline.is_near())
        done = part.done(spec.id, number) if ends or part.chunks == plan.chunks else None
        if time.monotonic() - heartbeat_at >= HEARTBEAT_SECONDS:
            yield Heartbeat(trial=spec.id, epoch=number if done else epochs_so_far(state, plan))
            heartbeat_at = time.monotonic()
        if done is not None:
            validation, begin = None, steady_time()
            if compiled.validation:
                validation = yield from _validate(compiled, compiled.validation, Heartbeat(trial=spec.id, epoch=number))
                deadline.note_batches(validated, steady_time() - begin)
            state = _after(state, done, validation, trainer.weights)
            history.append(structs.replace(done, validation=validation))
            yield history[-1]
            heartbeat_at = time.monotonic()
            ends = ends or (is_limited and deadline.is_near())
        if ends:
            break
        position, interval = epochs_so_far(state, plan), checkpoint_seconds if done else seconds_within
        if position < last and time.monotonic() - checkpoint_at >= interval:
            yield CheckpointTaken(trial=spec.id, epoch=position, content=pack(state, trainer.values, spec))
            checkpoint_at = time.monotonic()
    return state


def _after(state: TrainingState, done: EpochDone, validation: Accuracy | None, weights: Weights) -> TrainingState:
    """Return the state after another epoch with these weights."""
    scores = [accuracy for accuracy in (state.best.highest, validation) if accuracy]
    highest = max(scores, key=lambda accuracy: accuracy.score, default=None)
    # An epoch that raises the maximum is itself close to it, so an earlier one never has to be found again.
    if validation is None or highest is None or validation.is_close_to(highest):
        best = Best(done.epoch, validation, highest)
    else:
        best, weights = state.best, state.weights
    return TrainingState(weights, best, done.epoch, seconds=state.seconds + done.seconds, margins=state.margins)


def _validate(compiled: Compiled, split: Split, heartbeat: Heartbeat) -> Generator[TrialEvent, None, Accuracy]:
    trainer = compiled.trainer
    try:
        (probabilities,) = yield from trainer.predictor.evaluate(trainer.weights, split.images, heartbeat)
    except DivergedError as error:
        raise DivergedError(f"after epoch {heartbeat.epoch}, {error}") from error
    return accuracy_of(probabilities, split.labels, compiled.class_sizes)


def rung_done(compiled: Compiled, spec: TrialSpec, state: TrainingState) -> Iterator[TrialEvent]:
    """Measure the trial of a fold on its fold, and yield the score of the rung."""
    trainer, validation = compiled.trainer, state.best.validation
    if compiled.fold is not None:
        validation = yield from _validate(compiled, compiled.fold, Heartbeat(trial=spec.id, epoch=state.epoch))
    if validation is None:
        raise SpecError("validation_percent: expected images for validation, since a search compares it, got none")
    content = pack(state, trainer.values, spec) if state.epoch < spec.epochs else b""
    yield RungDone(trial=spec.id, epoch=state.epoch, validation=validation, seconds=state.seconds, content=content)
