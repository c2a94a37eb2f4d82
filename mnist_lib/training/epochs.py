"""The epochs of a trial, chunk by chunk: what is counted, validated, reported and stored, and when training ends.

A lane, in `trial`, runs them and evaluates the result.
"""

import functools
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from msgspec import structs
from numpy.typing import NDArray

from mnist_lib.data.batches import Plan, balancing_weights, epochs, order_of
from mnist_lib.data.table import Table
from mnist_lib.environment import steady_time
from mnist_lib.errors import CheckpointError, DivergedError, SpecError
from mnist_lib.models.model import Weights
from mnist_lib.results import (
    Accuracy,
    CheckpointTaken,
    EpochDone,
    Heartbeat,
    RungDone,
    TrialEvent,
)
from mnist_lib.spec import TrialSpec
from mnist_lib.store.margins import add_margins, counted_epochs, no_sums
from mnist_lib.training.assignment import Assignment
from mnist_lib.training.checkpoint import Best, Deadline, TrainingState, pack, unpack
from mnist_lib.training.prediction import HEARTBEAT_SECONDS, accuracy_of
from mnist_lib.training.trainer import TrainedChunk, Trainer, learning_rates


@dataclass(frozen=True)
class Compiled:
    """The compiled model that trials of the same compile group share."""

    trainer: Trainer
    plan: Plan
    train: Table
    validation: Table | None = None
    notices: tuple[str, ...] = ()
    fold: Table | None = None  # the images of the trial's fold
    class_sizes: NDArray[np.int64] | None = None  # [classes] numbers of images held out, if the score is balanced
    num_tested: int = 0  # images that are evaluated when training has ended

    def batches(self, num_images: int) -> int:
        """Return the number of batches in which this number of images is evaluated."""
        return -(-num_images // self.trainer.predictor.batch_size(self.train.images.shape[1:]))


def epochs_so_far(state: TrainingState, plan: Plan) -> float:
    """Return the number of epochs trained so far, including the trained share of the current one."""
    return state.epoch + state.part.chunks / plan.chunks


def resume(compiled: Compiled, assignment: Assignment) -> tuple[TrainingState, tuple[str, ...]]:
    """Start from the checkpoint if it is usable, else anew. Return the state, and a notice about an unusable one."""
    trainer = compiled.trainer
    plan = compiled.plan
    trainer.start(assignment.spec.seed)
    start = TrainingState(trainer.weights, margins=no_sums(plan.images))
    if assignment.checkpoint is None:
        return start, ()
    try:
        state, values = unpack(assignment.checkpoint, assignment.spec, plan, like=trainer.values)
        if assignment.until is not None and epochs_so_far(state, plan) > assignment.until:
            raise CheckpointError("its checkpoint is of a later rung")  # whose score this rung would get
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
    """Continue training from `state`, add the epochs to `history`, and return the last state, with the epoch to store.

    Each turn of the loop trains a chunk. When it is time to report, it counts what has been trained, sends a heartbeat,
    validates and reports an epoch that is complete, decides whether training is over, and takes a checkpoint.

    The epoch to store is the latest one whose score on the validation images is at most a standard error below the
    maximum: among epochs that differ only by chance, the latest is the best guess. Without validation it is the
    last one.
    """
    trainer = compiled.trainer
    plan = compiled.plan
    spec = assignment.spec
    last = min(spec.epochs, assignment.until or spec.epochs)
    num_enough = assignment.images or math.inf
    deadline = _deadline(compiled, assignment)
    seconds_within = checkpoint_seconds or math.inf
    report_seconds = 0.0 if deadline.is_finite or assignment.images else min(HEARTBEAT_SECONDS, seconds_within)
    image_weights = balancing_weights(compiled.train.labels) if spec.class_weights == "balanced" else None
    first_chunk = state.part.chunks
    chunks = epochs(compiled.train, plan, spec.seed, state.epoch + 1, last, image_weights, first_chunk)
    rates = learning_rates(spec, plan.steps)
    pending = list[TrainedChunk]()  # chunks that are not counted yet, since counting waits for the device
    begin = time.perf_counter()
    reported_at = heartbeat_at = checkpoint_at = time.monotonic()
    is_over = state.epoch == last
    while not is_over:
        number = state.epoch + 1
        chunk = state.part.chunks + len(pending)
        if chunk == 0 and state.epoch == spec.freeze_epochs:
            trainer.start_optimizer()
        frozen = number <= (spec.freeze_epochs or 0)
        rates_of_chunk = _rates_of_chunk(rates, plan, state.epoch, chunk)
        pending.append(trainer.train_chunk(next(chunks), rates_of_chunk, frozen=frozen))
        is_complete = chunk + 1 == plan.chunks
        if not is_complete and time.monotonic() - reported_at < report_seconds:
            continue
        for trained in pending:
            state = _with_chunk(compiled, spec, state, trained)
        pending.clear()
        seconds = time.perf_counter() - begin
        deadline.note_chunk(seconds)
        state = replace(state, part=structs.replace(state.part, seconds=state.part.seconds + seconds))
        if time.monotonic() - heartbeat_at >= HEARTBEAT_SECONDS:
            yield Heartbeat(trial=spec.id, epoch=epochs_so_far(state, plan))
            heartbeat_at = time.monotonic()
        if is_complete:
            state = yield from _end_epoch(compiled, spec, state, history, deadline)
            heartbeat_at = time.monotonic()
        has_enough = number == last and state.part.train.total >= num_enough
        is_over = state.epoch == last or has_enough or deadline.is_near()
        interval = checkpoint_seconds if is_complete else seconds_within
        if not is_over and time.monotonic() - checkpoint_at >= interval:
            content = pack(state, trainer.values, spec)
            yield CheckpointTaken(trial=spec.id, epoch=epochs_so_far(state, plan), content=content)
            checkpoint_at = time.monotonic()
        reported_at = time.monotonic()
        begin = time.perf_counter()  # what the caller does meanwhile does not count as time of the epoch
    if state.part.chunks:
        state = yield from _end_epoch(compiled, spec, state, history, deadline)
    return state


def _deadline(compiled: Compiled, assignment: Assignment) -> Deadline:
    """Return the deadline of a trial. If it has one, a batch is evaluated to measure how long that takes."""
    images = len(compiled.validation or ()), compiled.num_tested
    deadline = Deadline(assignment.deadline, sum(map(compiled.batches, images)))
    if deadline.is_finite:
        predictor = compiled.trainer.predictor
        begin = steady_time()
        batch_size = predictor.batch_size(compiled.train.images.shape[1:])
        predictor.probabilities(compiled.trainer.weights, compiled.train.images[:batch_size])
        deadline.note_batches(1, steady_time() - begin)
    return deadline


def _rates_of_chunk(rates: NDArray[np.float32], plan: Plan, epoch: int, chunk: int) -> NDArray[np.float32]:
    """Return the learning rates of a chunk, [steps per chunk]; 0 for steps that the last chunk does not have.

    Args:
        rates: those of all steps of the trial.
        epoch, chunk: counted from 0.
    """
    begin, end = (epoch * plan.steps + plan.steps_in(chunks) for chunks in (chunk, chunk + 1))
    return np.pad(rates[begin:end], (0, plan.steps_per_chunk - (end - begin)))


def _with_chunk(compiled: Compiled, spec: TrialSpec, state: TrainingState, chunk: TrainedChunk) -> TrainingState:
    """Return the state after another chunk, apart from its time, and add the chunk's margins to those of the state.

    Totals are added one by one in Python, so that counts are exact, the loss is in double precision, and neither
    depends on where an epoch was interrupted. A `sum` would: in Python 3.12, it compensates rounding within one call.

    Raises:
        DivergedError: a loss is not a finite number; the message names the first such epoch and step.
    """
    plan = compiled.plan
    before = state.part
    loss, correct, seen, finite_steps = (total.numpy().item() for total in chunk.totals)
    part = structs.replace(
        before, chunks=before.chunks + 1, loss=before.loss + loss, train=before.train + Accuracy(correct, seen)
    )
    steps = plan.steps_in(before.chunks) + finite_steps
    if steps < plan.steps_in(part.chunks):
        why = f"use a lower --learning-rate ({learning_rates(spec, plan.steps).max():g} is too high)"
        if sum("GPU" in device for device in compiled.trainer.devices) > 1:
            why += "; or the GPUs damage what they copy to each other: run python -m jobs.doctor --gpu"
        step = f"epoch {state.epoch + 1}, step {steps + 1} of {plan.steps}"
        raise DivergedError(f"the loss of {step} is not a finite number; {why}")
    if state.epoch < counted_epochs(spec.epochs):
        order = _order(plan.images, spec.seed, state.epoch + 1)
        images = order[plan.images_in(before.chunks) : plan.images_in(part.chunks)]
        add_margins(state.margins, images, chunk.margins.numpy(), plan.global_batch_size)
    return replace(state, part=part)


@functools.lru_cache(maxsize=1)  # every chunk of an epoch needs it
def _order(images: int, seed: int, epoch: int) -> NDArray[np.int32]:
    """Return the order of the images in an epoch: [images]."""
    with tf.device("CPU:0"):  # where tf.data computes the order, too
        order: NDArray[np.int32] = order_of(images, seed, epoch).numpy()
    return order


def _end_epoch(
    compiled: Compiled, spec: TrialSpec, state: TrainingState, history: list[EpochDone], deadline: Deadline
) -> Generator[TrialEvent, None, TrainingState]:
    """Validate and report an epoch that is complete or ends early, and return the state after it."""
    done = state.part.done(spec.id, state.epoch + 1)
    if compiled.validation:
        begin = steady_time()
        validation = yield from _validate(compiled, compiled.validation, Heartbeat(trial=spec.id, epoch=done.epoch))
        deadline.note_batches(compiled.batches(len(compiled.validation)), steady_time() - begin)
        done = structs.replace(done, validation=validation)
    history.append(done)
    yield done
    return _after(state, done, compiled.trainer.weights)


def _after(state: TrainingState, done: EpochDone, weights: Weights) -> TrainingState:
    """Return the state after another epoch with these weights."""
    validation = done.validation
    scores = [accuracy for accuracy in (state.best.highest, validation) if accuracy]
    highest = max(scores, key=lambda accuracy: accuracy.score, default=None)
    # An epoch that raises the maximum is close to it and so becomes the best: no earlier one has to be found again.
    if validation is None or highest is None or validation.is_close_to(highest):
        best = Best(done.epoch, validation, highest)
    else:
        best = state.best
        weights = state.weights
    return TrainingState(weights, best, done.epoch, seconds=state.seconds + done.seconds, margins=state.margins)


def _validate(compiled: Compiled, split: Table, heartbeat: Heartbeat) -> Generator[TrialEvent, None, Accuracy]:
    trainer = compiled.trainer
    try:
        (probabilities,) = yield from trainer.predictor.evaluate(trainer.weights, split.images, heartbeat)
    except DivergedError as error:
        raise DivergedError(f"after epoch {heartbeat.epoch}, {error}") from error
    return accuracy_of(probabilities, split.labels, compiled.class_sizes)


def rung_done(compiled: Compiled, spec: TrialSpec, state: TrainingState) -> Iterator[TrialEvent]:
    """Yield the score of the rung; with folds, evaluate the trial on the images of its fold first."""
    trainer = compiled.trainer
    validation = state.best.validation
    if compiled.fold is not None:
        validation = yield from _validate(compiled, compiled.fold, Heartbeat(trial=spec.id, epoch=state.epoch))
    if validation is None:
        raise SpecError("validation_percent: expected images for validation, on which a search compares, got none")
    content = pack(state, trainer.values, spec) if state.epoch < spec.epochs else b""
    yield RungDone(trial=spec.id, epoch=state.epoch, validation=validation, seconds=state.seconds, content=content)
