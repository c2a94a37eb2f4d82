"""Checkpoints: the state of training after a chunk as bytes, from which a trial resumes with the same result.

They hold only numbers and JSON. The `Deadline` of a trial says whether another chunk can be trained, validated and
tested in time.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.batches import Plan
from mnist_lib.documents import Count, Seconds, decode, encode, reading
from mnist_lib.environment import steady_time
from mnist_lib.errors import CheckpointError, IntegrityError
from mnist_lib.models.model import Weights
from mnist_lib.objects.archives import npz, read_npz
from mnist_lib.objects.protocol import MAX_CHECKPOINT_BYTES
from mnist_lib.results import EPOCH_START, Accuracy, EpochPart
from mnist_lib.spec import TrialSpec
from mnist_lib.store.margins import Sums, no_sums
from mnist_lib.training.steps import Values


class Deadline:
    """Estimates after each chunk, from the longest durations so far, when a trial would end if it trained another.

    Args:
        at: the deadline by `steady_time`.
        batches: the number of batches that are evaluated after the last chunk.
    """

    def __init__(self, at: float, batches: int) -> None:
        self._at = at
        self._batches = batches
        self._chunk_seconds = self._batch_seconds = 0.0

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self._at)

    def note_chunk(self, seconds: float) -> None:
        self._chunk_seconds = max(self._chunk_seconds, seconds)

    def note_batches(self, count: int, seconds: float) -> None:
        self._batch_seconds = max(self._batch_seconds, seconds / count)

    def is_near(self) -> bool:
        """Return whether the trial would end after the deadline if it trained another chunk."""
        return steady_time() + self._chunk_seconds + self._batches * self._batch_seconds > self._at


@dataclass(frozen=True)
class Best:
    """The epoch that is stored if training ends now: the latest one close to the highest validation accuracy."""

    epoch: Count = 0  # 0 before the first epoch is done
    validation: Accuracy | None = None
    highest: Accuracy | None = None  # the highest validation accuracy after any epoch so far, by score


@dataclass(frozen=True)
class TrainingState:
    """Everything that an unfinished trial needs, besides the values of training, to continue after a chunk.

    Its size does not depend on the number of epochs: they are in the history of the run.
    """

    weights: Weights  # of the best epoch; before the first one is done, the initial weights
    best: Best = Best()
    epoch: int = 0  # epochs that are done
    part: EpochPart = EPOCH_START  # the chunks of the next epoch that are trained
    seconds: float = 0.0  # of the epochs that are done
    margins: Sums = field(default_factory=lambda: no_sums(0), compare=False)  # training adds to them


@dataclass(frozen=True)
class Notes:
    """What a checkpoint holds besides tensors."""

    spec: TrialSpec
    best: Best
    epoch: Count
    part: EpochPart
    seconds: Seconds


def pack(state: TrainingState, values: Values, spec: TrialSpec) -> bytes:
    notes = Notes(spec, state.best, state.epoch, state.part, state.seconds)
    arrays = _arrays((values, state.weights, state.margins))
    arrays["notes"] = np.frombuffer(encode(notes), np.uint8)
    return npz(arrays)


def unpack(content: bytes, spec: TrialSpec, plan: Plan, like: Values) -> tuple[TrainingState, Values]:
    """Return the state and the values that `pack` was given.

    Args:
        plan: the plan of the trial's epochs.
        like: values of the same trial, for their shapes and types.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another trial.
    """
    nested = like, Weights(like.trainable, like.state), no_sums(plan.images)
    try:
        with reading(f"checkpoint of {spec.id}"):
            arrays = read_npz(content, MAX_CHECKPOINT_BYTES)
            notes = decode(arrays["notes"].tobytes(), Notes, "notes")
            if notes.spec != spec:
                raise ValueError(f"its spec is {notes.spec}")
            if notes.part.train.total != plan.images_in(notes.part.chunks):  # its chunks have another size
                raise ValueError(f"it has {notes.part.train.total} images in {notes.part.chunks} chunks")
            *tensors, margins = [arrays[name].reshape(array.shape) for name, array in _arrays(nested).items()]
            values, weights = tf.nest.pack_sequence_as(nested[:2], [*map(tf.constant, tensors)])
            return TrainingState(weights, notes.best, notes.epoch, notes.part, notes.seconds, margins), values
    except IntegrityError as error:
        raise CheckpointError(f"the checkpoint of {spec.id} is damaged or belongs to another trial: {error}") from error


def _arrays(nested: Any) -> dict[str, NDArray[Any]]:
    """Return the tensors of a nested structure as arrays by name, in the order in which `tf.nest` flattens it."""
    return {f"tensor_{i}": np.asarray(tensor) for i, tensor in enumerate(tf.nest.flatten(nested))}
