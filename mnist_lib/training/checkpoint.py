"""A training between two epochs as bytes: with it, a trial goes on anywhere as if it had never stopped.

It comes back from a store that anybody may write to: it is read as numbers only.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.archives import read_npz
from mnist_lib.errors import CheckpointError, IntegrityError
from mnist_lib.models.model import Weights
from mnist_lib.results import Accuracy, EpochDone
from mnist_lib.spec import TrialSpec
from mnist_lib.training.steps import Values

LARGEST_NOTES = 1 << 24  # bytes: a hundred thousand epochs


@dataclass(frozen=True)
class Best:
    """The best epoch so far."""

    epoch: int
    weights: Weights
    validation: Accuracy | None


@dataclass(frozen=True)
class TrainingState:
    """All that an unfinished trial has reached, after its newest epoch."""

    values: Values
    best: Best
    history: tuple[EpochDone, ...]

    @property
    def epoch(self) -> int:
        return self.history[-1].epoch


def pack(progress: TrainingState, spec: TrialSpec) -> bytes:
    best = progress.best
    notes = {
        "spec": asdict(spec),
        "best": {"epoch": best.epoch, "validation": asdict(best.validation) if best.validation else None},
        "history": [asdict(epoch) for epoch in progress.history],
    }
    arrays = dict(_arrays(progress.values, best.weights))
    arrays["notes"] = np.frombuffer(json.dumps(notes).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def unpack(content: bytes, spec: TrialSpec, like: Values) -> TrainingState:
    """`like`: values of the same trial, for their shapes and types.

    Raises:
        CheckpointError: it is damaged, or of another trial.
    """
    shapes = dict(_arrays(like, Weights(like.trainable, like.state)))
    try:
        limits = {name: array.nbytes for name, array in shapes.items()} | {"notes": LARGEST_NOTES}
        arrays = read_npz(content, f"checkpoint of {spec.id}", limits)
        for name, expected in shapes.items():
            if (arrays[name].shape, arrays[name].dtype) != (expected.shape, expected.dtype):
                raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}")
        notes = json.loads(arrays.pop("notes").tobytes())
        if notes["spec"] != asdict(spec):
            raise ValueError(f"it is of {notes['spec']}")
        validation = notes["best"]["validation"]
        tensors = iter([tf.constant(arrays[name]) for name in shapes])
        return TrainingState(
            _take(tensors, like),
            Best(
                notes["best"]["epoch"],
                Weights(*(_take_like(tensors, part) for part in (like.trainable, like.state))),
                Accuracy(**validation) if validation else None,
            ),
            tuple(map(EpochDone.of, notes["history"])),
        )
    except (IntegrityError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint of {spec.id} is damaged, or of another trial: {error}") from error


def _arrays(values: Values, best: Weights) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """In the order in which `_take` takes them."""
    parts = {"weight": values.trainable, "state": values.state, "step": [values.step]}
    parts |= {f"slot{i}": slot for i, slot in enumerate(values.slots)}
    parts |= {"best_weight": best.trainable, "best_state": best.state}
    for name, tensors in parts.items():
        for i, tensor in enumerate(tensors):
            yield f"{name}_{i}", np.asarray(tensor)


def _take(tensors: Iterator[tf.Tensor], like: Values) -> Values:
    trainable, state = _take_like(tensors, like.trainable), _take_like(tensors, like.state)
    step = next(tensors)
    return Values(trainable, [_take_like(tensors, slot) for slot in like.slots], state, step)


def _take_like(tensors: Iterator[tf.Tensor], like: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [next(tensors) for _ in like]
