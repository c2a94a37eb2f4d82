"""Which epoch of a trial is stored, with a trainer that trains nothing."""

import itertools
import math
from collections.abc import Generator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_lib.data.batches import Plan
from mnist_lib.data.table import Table
from mnist_lib.models.model import Weights
from mnist_lib.results import Accuracy, RungDone
from mnist_lib.spec import TrialSpec
from mnist_lib.store.margins import no_sums
from mnist_lib.training import epochs as epochs_module
from mnist_lib.training.assignment import Assignment
from mnist_lib.training.checkpoint import Best, TrainingState
from mnist_lib.training.epochs import Compiled, rung_done, train
from mnist_lib.training.steps import Totals
from mnist_lib.training.trainer import TrainedChunk

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


class Scripted:
    """A trainer whose weights are the number of the epoch, and a predictor of which given images are correct."""

    values = None
    batch_size = staticmethod(len)

    def __init__(self, correct: Sequence[NDArray[np.bool_]], labels: NDArray[np.uint8]) -> None:
        self._correct, self._labels, self.predictor = correct, labels, self  # in each epoch: [images]
        self.weights = Weights([0], [])

    def train_chunk(self, chunk: None, learning_rates: NDArray[np.float32], *, frozen: bool) -> TrainedChunk:
        (number,) = self.weights.trainable
        self.weights = Weights([number + 1], [])
        totals = Totals(*map(tf.constant, (2.0, 1, 2, 1)))
        return TrainedChunk(totals, tf.zeros((1, len(self._labels))))

    def evaluate(self, weights: Weights, *_: Any) -> Generator[Any, None, Any]:
        correct = self._correct[weights.trainable[0] - 1]
        yield from ()
        return [np.eye(2, dtype=np.float32)[np.where(correct, self._labels, 1 - self._labels)]]


def stored(correct: list[int], total: int, cut: int = 0) -> TrainingState:
    """Train in one attempt, or in two with a checkpoint after the epoch `cut`, and return what is stored."""
    return trained([np.arange(total) < count for count in correct], np.zeros(total, np.uint8), cut)


def trained(
    correct: Sequence[NDArray[np.bool_]], labels: NDArray[np.uint8], cut: int = 0, *, balanced: bool = False
) -> TrainingState:
    images = Table.of(np.zeros((len(labels), 1, 1, 1), np.uint8), labels)
    trainer: Any = Scripted(correct, labels)
    plan, sizes = Plan(len(images), len(images), 1), np.bincount(labels) if balanced else None
    compiled = Compiled(trainer, plan, images, images, (), class_sizes=sizes)
    spec = TrialSpec.of("keras", epochs=len(correct))
    state = TrainingState(Weights([], []), margins=no_sums(len(labels)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(epochs_module, "epochs", lambda *_: itertools.repeat(None))
        for last in (cut, len(correct)) if cut else (len(correct),):
            events = train(compiled, Assignment(spec, until=last), state, [], math.inf)
            while True:
                try:
                    next(events)
                except StopIteration as end:
                    state = end.value
                    break
    return state


def expected(correct: list[int], total: int) -> int:
    """Return the epoch by the definition, from the counts of all epochs."""
    highest = max(correct)
    lowest = highest - math.sqrt(highest * (total - highest) / total)
    return max(epoch for epoch, count in enumerate(correct, 1) if count >= lowest - 1e-9)


COUNTS = st.integers(1, 400).flatmap(
    lambda total: st.tuples(st.lists(st.integers(0, total), min_size=1, max_size=12), st.just(total))
)


@given(COUNTS, st.integers(0, 11))
@example(([47, 50, 50, 46, 48, 44], 50), 0)  # perfect after epoch 2: only another perfect epoch is as good
@example(([90, 100, 95, 97, 105, 96, 101], 110), 3)
def test_the_latest_epoch_within_one_standard_error_of_the_maximum_is_stored(
    counts: tuple[list[int], int], cut: int
) -> None:
    correct, total = counts
    state = stored(correct, total, cut if cut < len(correct) else 0)
    best = state.best
    assert best.epoch == expected(correct, total)
    assert state.weights.trainable == [best.epoch]
    assert best.validation == Accuracy(correct[best.epoch - 1], total)


def test_of_epochs_with_equal_validation_accuracy_the_last_is_stored() -> None:
    assert stored([40, 46, 46, 46], 50).best.epoch == 4


@pytest.mark.parametrize("cut", [0, 1, 2])
@pytest.mark.parametrize(("balanced", "epoch"), [(False, 3), (True, 1)])
def test_by_balanced_accuracy_the_epoch_that_knows_the_small_class_is_stored(
    cut: int, balanced: bool, epoch: int
) -> None:
    """380 of 400 images are of the large class. The epochs know 18, 2 and none of the other 20."""
    labels = (np.arange(400) >= 380).astype(np.uint8)
    epochs = [np.array([True] * large + [False] * (380 - large) + [True] * small + [False] * (20 - small))
              for large, small in ((340, 18), (375, 2), (380, 0))]  # fmt: skip
    best = trained(epochs, labels, cut, balanced=balanced).best
    assert best.epoch == epoch
    assert best.validation is not None
    assert best.validation.score == pytest.approx((340 / 380 + 18 / 20) / 2 if balanced else 0.95)


def test_an_epoch_far_below_the_maximum_is_not_stored() -> None:
    assert stored([500, 980, 978, 900], 1_000).best.epoch == 3


def test_a_rung_is_scored_by_the_epoch_that_would_be_stored_not_by_its_luckiest_one() -> None:
    spec = TrialSpec.of("keras", epochs=3)
    best = Best(epoch=3, validation=Accuracy(97, 100), highest=Accuracy(98, 100))
    compiled: Any = SimpleNamespace(trainer=None, fold=None)
    (rung,) = rung_done(compiled, spec, TrainingState(Weights([], []), best, 3))
    assert isinstance(rung, RungDone)
    assert (rung.validation, rung.content) == (Accuracy(97, 100), b"")
