"""Checkpoints: the state of training after an epoch as bytes, from which a trial resumes with the same result.

Others may write to the store that checkpoints come from, so only numbers and JSON are read from them.
"""

import io
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import tensorflow as tf
from msgspec import Meta
from numpy.typing import NDArray

from mnist_lib.documents import Json, Number, Seconds, decode, encode
from mnist_lib.errors import CheckpointError, IntegrityError
from mnist_lib.models.model import Weights
from mnist_lib.objects.archives import read_npz
from mnist_lib.results import Accuracy
from mnist_lib.spec import MAX_EPOCHS, TrialSpec
from mnist_lib.training.steps import Values

MAX_NOTES_BYTES = 1 << 20


@dataclass(frozen=True)
class Best:
    """The epoch that is stored if training ends now: the latest one close to the highest validation accuracy."""

    epoch: Number
    validation: Accuracy | None
    highest: Accuracy | None  # the highest on validation images after any epoch so far, by score


@dataclass(frozen=True)
class TrainingState:
    """Everything that an unfinished trial needs, besides the values of training, to continue after an epoch.

    Its size does not depend on the number of epochs: they are in the history of the run.
    """

    weights: Weights  # of the best epoch
    best: Best
    epoch: int
    seconds: float  # of all epochs
    longest: float  # seconds of the longest epoch with its validation


@dataclass(frozen=True)
class Notes:
    """What a checkpoint holds besides tensors."""

    spec: dict[str, Json]
    best: Best
    epoch: Annotated[int, Meta(ge=1, le=MAX_EPOCHS)]
    seconds: Seconds
    longest: Seconds


def pack(state: TrainingState, values: Values, spec: TrialSpec) -> bytes:
    notes = Notes(asdict(spec), state.best, state.epoch, state.seconds, state.longest)
    arrays = _arrays((values, state.weights))
    arrays["notes"] = np.frombuffer(encode(notes), np.uint8)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def unpack(content: bytes, spec: TrialSpec, like: Values) -> tuple[TrainingState, Values]:
    """Return the state and the values that `pack` was given.

    Args:
        like: values of the same trial, for their shapes and types.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another trial.
    """
    nested = like, Weights(like.trainable, like.state)
    shapes = _arrays(nested)
    try:
        limits = {name: array.nbytes for name, array in shapes.items()} | {"notes": MAX_NOTES_BYTES}
        arrays = read_npz(content, f"checkpoint of {spec.id}", limits)
        for name, expected in shapes.items():
            if (arrays[name].shape, arrays[name].dtype) != (expected.shape, expected.dtype):
                raise ValueError(f"{name} has type {arrays[name].dtype} and shape {arrays[name].shape}")
        notes = decode(arrays.pop("notes").tobytes(), Notes, "notes")
        if notes.spec != asdict(spec):
            raise ValueError(f"its spec is {notes.spec}")
        values, weights = tf.nest.pack_sequence_as(nested, [tf.constant(arrays[name]) for name in shapes])
        return TrainingState(weights, notes.best, notes.epoch, notes.seconds, notes.longest), values
    except (IntegrityError, ValueError) as error:
        raise CheckpointError(f"the checkpoint of {spec.id} is damaged or belongs to another trial: {error}") from error


def _arrays(nested: Any) -> dict[str, NDArray[Any]]:
    """Return the tensors of a nested structure as arrays by name, in the order in which `tf.nest` flattens it."""
    return {f"tensor_{i}": np.asarray(tensor) for i, tensor in enumerate(tf.nest.flatten(nested))}
