"""A model and an optimizer on any number of replicas, which train one chunk after the other.

A `Trainer` is compiled once for a compile group, see `TrialSpec`, and then trains any number of its trials. It knows
neither epochs nor time, see `mnist_lib.training.epochs`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.batches import Chunk, Plan, blank_chunk
from mnist_lib.data.table import Table
from mnist_lib.errors import ModelError
from mnist_lib.models.model import Model, Weights
from mnist_lib.models.scratch import Optimizer
from mnist_lib.spec import TrialSpec
from mnist_lib.training.prediction import Predictor
from mnist_lib.training.steps import (
    Steps,
    Totals,
    Values,
    gradients_of,
    gradients_of_microbatches,
    refused_by_xla,
    steps_of,
)
from mnist_lib.training.strategy import devices_of
from mnist_lib.wording import one_line

WARM_UP = 0.25  # the share of the steps in which the rate of one-cycle rises
UNFROZEN_RATE = 0.5  # the share of the learning rate after the epochs of `freeze_epochs`, as in fastai's fine_tune


def learning_rates(spec: TrialSpec, steps_per_epoch: int) -> NDArray[np.float32]:
    """Return the learning rate of each step of a trial, [steps].

    "constant" is always the peak; "one-cycle" rises linearly to the peak, then falls linearly to 0 (Smith, 2018). After
    the epochs of `freeze_epochs`, the schedule begins anew, at a lower peak.
    """
    frozen = min(spec.freeze_epochs or 0, spec.epochs)
    parts = (frozen, spec.learning_rate), (spec.epochs - frozen, spec.learning_rate * (UNFROZEN_RATE if frozen else 1))
    return np.concatenate([_schedule(spec.schedule, peak, epochs * steps_per_epoch) for epochs, peak in parts])


def _schedule(schedule: str, peak: float, steps: int) -> NDArray[np.float32]:
    if schedule == "constant":
        return np.full(steps, peak, np.float32)
    done = np.arange(1, steps + 1) / (steps + 1)  # excludes 0 and 1, where the rate would be 0
    return (peak * np.minimum(done / WARM_UP, (1 - done) / (1 - WARM_UP))).astype(np.float32)


class TrainedChunk(NamedTuple):
    """What training a chunk yields besides the values after it."""

    totals: Totals  # over steps and replicas
    margins: tf.Tensor  # [steps, images of all replicas]


class Trainer:
    """A model and the optimizer of a trial on the devices of a strategy, and the current `values` of training.

    Args:
        initial_weights: returns the weights that training with a seed starts from; by default those of the model.
        xla: whether XLA works on the devices. A deterministic trial does without it.
    """

    def __init__(
        self,
        model: Model,
        spec: TrialSpec,
        strategy: tf.distribute.Strategy,
        initial_weights: Callable[[int], Weights] | None = None,
        *,
        xla: bool = True,
    ) -> None:
        if spec.deterministic:
            tf.config.experimental.enable_op_determinism()  # for this process: all trials of a run have the setting
        self._xla = xla and not spec.deterministic
        self.model = model
        self._spec = spec
        self._optimizer = Optimizer(spec)
        self._strategy = strategy
        self._initial_weights = initial_weights or model.initial_weights
        self._microbatches = max(1, spec.microbatches // strategy.num_replicas_in_sync)  # of each replica
        self.predictor = Predictor(model, strategy, self._microbatches)
        self.refused_by_xla: str | None = None  # an operation of the model that XLA cannot compile
        self.is_frozen: list[bool] = []  # whether each trainable weight is frozen in the first `freeze_epochs`
        self.start(seed=0)
        self._compile_steps(xla=self._xla)

    def _compile_steps(self, *, xla: bool) -> None:
        """Make the steps that train all weights and, if the spec has `freeze_epochs`, those with frozen weights."""

        def steps(optimizer: Optimizer, is_frozen: Sequence[bool]) -> Steps:
            gradients = partial(gradients_of, self.model, self._spec.label_smoothing, is_frozen)
            if self._microbatches > 1:
                gradients = partial(gradients_of_microbatches, gradients, self._microbatches)
            return steps_of(self.model, gradients, optimizer, self._strategy, xla=xla, compile_update=self._xla)

        self._steps = {False: steps(self._optimizer, [False] * len(self.values.trainable))}  # by `frozen`
        if self._spec.freeze_epochs:
            without_decay = Optimizer(replace(self._spec, weight_decay=0.0))  # a frozen weight does not decay either
            self.is_frozen = is_given(self._initial_weights)
            self._steps[True] = steps(without_decay, self.is_frozen)

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each replica."""
        return devices_of(self._strategy)

    def start(self, seed: int) -> None:
        """Reset training to its start, with the initial weights of that seed."""
        weights = self._initial_weights(seed)
        self.values = Values(weights.trainable, [], weights.state, step=tf.constant(0))
        self.start_optimizer()

    def start_optimizer(self) -> None:
        """Reset the optimizer and the number of steps, and leave the weights as they are."""
        slots = self._optimizer.initial_slots(self.values.trainable)
        self.values = self.values._replace(slots=slots, step=tf.constant(0))

    def release(self) -> None:
        """Free the memory of the values. `start` sets them again."""
        self.values = self.values._replace(trainable=[], slots=[], state=[])

    def compile(self, split: Table, plan: Plan) -> None:
        """Compile by running one step and one evaluation, so that the time of an epoch excludes compilation.

        XLA cannot compile every operation of a user's model; the model is then run without XLA.

        Raises:
            ModelError: the trial is deterministic, and an operation of the model has no deterministic kernel.
        """
        try:
            self._run_once(split, plan)
        except tf.errors.OpError as error:
            has_no_kernel = isinstance(error, tf.errors.UnimplementedError) and "determinis" in str(error).lower()
            if self._spec.deterministic and has_no_kernel:
                raise ModelError(
                    f"{self._spec.model}: expected operations with deterministic kernels, since --deterministic is"
                    f" given, got {one_line(error)}; use another operation, or leave out --deterministic"
                ) from error
            self.refused_by_xla = refused_by_xla(error)
            if self.refused_by_xla is None:
                raise
            self._compile_steps(xla=False)
            self._run_once(split, plan)

    def _run_once(self, split: Table, plan: Plan) -> None:
        rates = np.zeros(plan.steps_per_chunk, np.float32)
        for steps in self._steps.values():
            steps.run(self.values, blank_chunk(split, plan), tf.constant(rates))
        # No image of the dataset, since these may still be on their way into memory.
        pattern = np.resize(np.arange(256, dtype=np.uint8), (1, *split.images.shape[1:]))
        self.predictor.probabilities(self.weights, pattern)

    @property
    def weights(self) -> Weights:
        return Weights(self.values.trainable, self.values.state)

    def train_chunk(self, chunk: Chunk, learning_rates: NDArray[np.float32], *, frozen: bool = False) -> TrainedChunk:
        """Train the steps of a chunk at the learning rates [steps].

        Args:
            frozen: whether the given weights stay as they are, see `is_given`; only if the spec has `freeze_epochs`.
        """
        self.values, *trained = self._steps[frozen].run(self.values, chunk, tf.constant(learning_rates))
        return TrainedChunk(*trained)


def is_given(initial_weights: Callable[[int], Weights]) -> list[bool]:
    """Return for each trainable weight whether it is given, as by a file, and not drawn: it is equal for two seeds.

    A weight that is one number throughout, such as a bias of zeros, counts as drawn. If all weights are given, all
    count as drawn, since nothing would be trained otherwise. So a run that starts from the champion freezes weights
    only if the dataset has a new class.
    """
    pairs = zip(*(initial_weights(seed).trainable for seed in (0, 1)), strict=True)
    given = [np.ptp(one) > 0 and np.array_equal(one, other) for one, other in pairs]
    return [False] * len(given) if all(given) else given
