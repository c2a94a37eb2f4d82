"""Trials that train nothing, as generators of events and of the seconds between them.

The weights of a trial are a hash of its id and of the epochs that were trained one after the other. Checkpoints carry
them, so that a trial that is resumed wrongly ends with different weights.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mnist_lib.environment import package_versions, steady_time
from mnist_lib.results import (
    Accuracy,
    CheckpointTaken,
    EpochDone,
    Evaluating,
    Heartbeat,
    LaneReady,
    RungDone,
    TrialEvent,
    TrialFailure,
    TrialStarted,
)
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Assignment
from tests.support.results import trial_result

HEARTBEAT_SECONDS = 3.0
VERSIONS = package_versions()
PROBABILITIES = np.eye(10, dtype=np.float32)[np.arange(20) % 10]  # of 20 images with the labels 0 to 9, twice


@dataclass(kw_only=True)
class Durations:
    """The parts of a trial, in virtual seconds."""

    importing: float = 5.0
    compiling: float = 1.0
    epoch: float = 1.0
    evaluating: float = 0.5
    checkpoint_every: int = 1  # epochs
    chunk: float = 0.1  # without a heartbeat
    diverges_at: Mapping[int, int] = field(default_factory=dict)  # seed -> the epoch in which the loss is not a number


def trial_script(
    given: Assignment,
    durations: Durations,
    node: str,
    now: Callable[[], float] = steady_time,
    *,
    is_compiled: bool = False,
) -> Generator[float | TrialEvent, None, None]:
    """Yield the events of a trial, and the seconds of work between them.

    Args:
        now: the time by which the deadline of the trial is judged.
        is_compiled: whether an earlier trial of the lane has compiled the model.
    """
    spec = given.spec
    yield LaneReady(trial=spec.id)
    phases = {"compile": 0.01} if is_compiled else {"import": durations.importing, "compile": durations.compiling}
    yield phases["compile"]
    done, weights = json.loads(bytes(given.checkpoint)) if given.checkpoint else (0, "")
    yield TrialStarted(trial=spec.id, pid=1, node=node, devices=("CPU:0",), gpus=(), resumed_after=done, phases=phases)
    history = [] if given.until else [*given.epochs[:done]]
    last = given.until or spec.epochs
    for epoch in range(done + 1, last + 1):
        interval = max(HEARTBEAT_SECONDS, durations.chunk)
        beats = int(durations.epoch / interval)
        for beat in range(beats):
            yield interval
            yield Heartbeat(trial=spec.id, epoch=epoch - 1 + beat / (beats + 1))
        yield durations.epoch - beats * interval
        if durations.diverges_at.get(spec.seed) == epoch:
            yield TrialFailure(trial=spec.id, code="E-NAN", message=f"epoch {epoch}: the loss is not a number")
            return
        weights = next_weights(spec, epoch, weights)
        history.append(epoch_of(spec, epoch, durations.epoch))
        yield history[-1]
        if now() + durations.epoch > given.deadline:
            break
        if epoch < last and epoch % durations.checkpoint_every == 0:
            yield CheckpointTaken(trial=spec.id, epoch=epoch, content=json.dumps([epoch, weights]).encode())
    if given.until is not None:
        content = json.dumps([last, weights]).encode() if last < spec.epochs else b""
        yield RungDone(trial=spec.id, epoch=last, validation=score_of(weights), seconds=last, content=content)
        return
    yield Evaluating(trial=spec.id)
    yield durations.evaluating
    yield trial_result(
        spec,
        test=Accuracy(spec.seed % 5, len(PROBABILITIES)),
        validation=Accuracy(spec.seed % 7, 10),
        history=tuple(history),
        node=node,
        weights_sha256=weights,
        versions=VERSIONS,
        probabilities=PROBABILITIES,
        files={"weights.npz": weights.encode()},
    )


def score_of(weights: str) -> Accuracy:
    """Return a score that depends on every epoch trained so far."""
    return Accuracy(int(weights[:4], 16), 1 << 16)


def next_weights(spec: TrialSpec, epoch: int, weights: str) -> str:
    return hashlib.sha256(f"{spec.id} {epoch} {weights}".encode()).hexdigest()


def undisturbed_weights(spec: TrialSpec, epochs: int | None = None) -> str:
    """Return the weights after that many epochs, by default after all."""
    weights = ""
    for epoch in range(1, (epochs or spec.epochs) + 1):
        weights = next_weights(spec, epoch, weights)
    return weights


def epoch_of(spec: TrialSpec, epoch: int, seconds: float = 1.0) -> EpochDone:
    validation = Accuracy(1, 2) if spec.validation_percent else None
    return EpochDone(
        trial=spec.id, epoch=epoch, loss=1.0 / epoch, train=Accuracy(1, 2), validation=validation, seconds=seconds
    )
