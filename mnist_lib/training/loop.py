"""The training loop of every model, on any number of replicas.

A `Trainer` is compiled once for a shape of data and then trains any number of trials of that shape.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from msgspec import structs
from numpy.typing import NDArray

from mnist_lib.data.batches import (
    Chunk,
    Plan,
    balancing_weights,
    blank_chunk,
    epochs,
    order_of,
)
from mnist_lib.data.split import Split
from mnist_lib.errors import DivergedError, ModelError
from mnist_lib.margins import Sums, add_margins, counted_epochs
from mnist_lib.models.model import Model, Weights
from mnist_lib.models.scratch import Optimizer
from mnist_lib.results import EPOCH_START, Accuracy, EpochDone, EpochPart
from mnist_lib.spec import TrialSpec
from mnist_lib.training.prediction import Predictor
from mnist_lib.training.steps import (
    StepByStep,
    Totals,
    Values,
    WholeChunk,
    gradients_of,
    gradients_of_parts,
    refused_by_xla,
    steps_of,
)
from mnist_lib.wording import one_line


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
        self._model, self._spec, self._optimizer, self._strategy = model, spec, Optimizer(spec), strategy
        self._initial_weights = initial_weights or model.initial_weights
        on_gpu = "GPU" in strategy.extended.worker_devices[0]
        self._parts = 1 if on_gpu else max(1, spec.batch_parts // strategy.num_replicas_in_sync)
        self.predictor = Predictor(model, strategy, self._parts)
        self.refused_by_xla: str | None = None  # an operation of the model that XLA cannot compile
        self.is_frozen: list[bool] = []  # of each trainable weight: in the epochs of `freeze_epochs`
        self.start(seed=0)
        self._compile_steps(xla=self._xla)

    def _compile_steps(self, *, xla: bool) -> None:
        """Make the steps in which all weights are trained and, if the spec has some, those with frozen weights."""

        def steps(optimizer: Optimizer, is_frozen: Sequence[bool]) -> WholeChunk | StepByStep:
            gradients = partial(gradients_of, self._model, self._spec.label_smoothing, is_frozen)
            if self._parts > 1:
                gradients = partial(gradients_of_parts, gradients, self._parts)
            return steps_of(self._model, gradients, optimizer, self._strategy, xla=xla, compile_update=self._xla)

        self._steps, self._frozen_steps = steps(self._optimizer, [False] * len(self.values.trainable)), None
        if self._spec.freeze_epochs:
            without_decay = Optimizer(replace(self._spec, weight_decay=0.0))  # a frozen weight does not decay either
            self.is_frozen = is_given(self._initial_weights)
            self._frozen_steps = steps(without_decay, self.is_frozen)

    @property
    def replicas(self) -> int:
        return int(self._strategy.num_replicas_in_sync)

    def start(self, seed: int) -> None:
        """Reset training to its start, with the initial weights of that seed."""
        weights = self._initial_weights(seed)
        self.values = Values(weights.trainable, [], weights.state, step=tf.constant(0))
        self._start_optimizer()

    def _start_optimizer(self) -> None:
        slots = self._optimizer.initial_slots(self.values.trainable)
        self.values = self.values._replace(slots=slots, step=tf.constant(0))

    def release(self) -> None:
        """Free the memory of the values. `start` sets them again."""
        self.values = self.values._replace(trainable=[], slots=[], state=[])

    def compile(self, split: Split, plan: Plan) -> None:
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

    def _run_once(self, split: Split, plan: Plan) -> None:
        rates = np.zeros(plan.steps_per_chunk, np.float32)
        for steps in (self._steps, *([self._frozen_steps] if self._frozen_steps else [])):
            steps.run(self.values, blank_chunk(split, plan), tf.constant(rates))
        # No image of the dataset, since these may still be on their way into memory.
        pattern = np.resize(np.arange(256, dtype=np.uint8), (1, *split.images.shape[1:]))
        self.predictor.probabilities(self.weights, pattern)

    @property
    def weights(self) -> Weights:
        return Weights(self.values.trainable, self.values.state)

    def train(
        self,
        split: Split,
        plan: Plan,
        *,
        seed: int,
        learning_rates: NDArray[np.float32],
        last: int,
        first: int = 1,
        part: EpochPart = EPOCH_START,
        look_seconds: float = math.inf,
        trial: str = "",
        margins: Sums | None = None,
    ) -> Iterator[EpochDone | EpochPart]:
        """Train the epochs `first` to `last`. Yield the result of each and, between chunks, that of its part so far.

        What the caller does meanwhile does not count as time of the epoch.

        Args:
            plan: a plan that was made for this trainer's number of replicas.
            seed: determines the order of the images.
            learning_rates: [steps], one for each step from the start of epoch 1.
            part: the part of the epoch `first` that has been trained.
            look_seconds: the minimum time between two results within an epoch; 0: after every chunk.
            trial: the id of the trial.
            margins: the sums to which the margins of the part, or of the epoch, are added before it is yielded.

        Raises:
            DivergedError: a loss is not a finite number; the message names the first such epoch and step.
        """
        weights = balancing_weights(split.labels) if self._spec.class_weights == "balanced" else None
        chunks = epochs(split, plan, seed, first, last, weights, part.chunks)
        looked_at = time.monotonic()
        for number in range(first, last + 1):
            begin, pending, frozen_epochs = time.perf_counter(), list[TrainedChunk](), self._spec.freeze_epochs or 0
            is_counted = margins is not None and number <= counted_epochs(self._spec.epochs)
            with tf.device("CPU:0"):  # as tf.data computes it
                order = order_of(plan.images, seed, number).numpy() if is_counted else None
            if frozen_epochs and number - 1 == frozen_epochs and not part.chunks:
                self._start_optimizer()
            rates = learning_rates[(number - 1) * plan.steps : number * plan.steps]
            padded = np.pad(rates, (0, plan.chunks * plan.steps_per_chunk - plan.steps))
            for rates_of_chunk in np.split(padded, plan.chunks)[part.chunks :]:
                pending.append(self.train_chunk(next(chunks), rates_of_chunk, frozen=number <= frozen_epochs))
                is_last = part.chunks + len(pending) == plan.chunks
                if is_last or time.monotonic() - looked_at >= look_seconds:
                    finite_steps, first_chunk = plan.steps_in(part.chunks), part.chunks
                    part = _with(part, [chunk.totals for chunk in pending])  # waits for the device
                    finite_steps += sum(chunk.totals.finite_steps.numpy().item() for chunk in pending)
                    if finite_steps < plan.steps_in(part.chunks):
                        why = f"use a lower --learning-rate ({learning_rates.max():g} is too high)"
                        if self.replicas > 1 and "GPU" in self._strategy.extended.worker_devices[0]:
                            why += "; or the GPUs damage what they copy to each other: run python -m jobs.doctor --gpu"
                        step = f"epoch {number}, step {finite_steps + 1} of {plan.steps}"
                        raise DivergedError(f"the loss of {step} is not a finite number; {why}")
                    if margins is not None and order is not None:
                        for chunk_number, chunk in enumerate(pending, first_chunk):
                            images = order[plan.images_in(chunk_number) : plan.images_in(chunk_number + 1)]
                            add_margins(margins, images, chunk.margins.numpy(), plan.global_batch_size)
                    part = structs.replace(part, seconds=part.seconds + time.perf_counter() - begin)
                    if not is_last:
                        yield part
                        looked_at, begin, pending = time.monotonic(), time.perf_counter(), []
            yield part.done(trial, number)
            looked_at, part = time.monotonic(), EPOCH_START

    def train_chunk(self, chunk: Chunk, learning_rates: NDArray[np.float32], *, frozen: bool = False) -> TrainedChunk:
        """Train the steps of a chunk at the learning rates [steps].

        Args:
            frozen: whether the given weights stay as they are, see `is_given`.
        """
        steps = self._frozen_steps if frozen and self._frozen_steps else self._steps
        self.values, *trained = steps.run(self.values, chunk, tf.constant(learning_rates))
        return TrainedChunk(*trained)


def is_given(initial_weights: Callable[[int], Weights]) -> list[bool]:
    """Return whether each trainable weight is given, as by a file, and not drawn: two seeds make it equal.

    A weight that is one number throughout, such as a bias of zeros, counts as drawn. If all of them were given, there
    would be nothing to train, and all count as drawn: from the champion, a night has new weights only with a new class.
    """
    pairs = zip(*(initial_weights(seed).trainable for seed in (0, 1)), strict=True)
    given = [np.ptp(one) > 0 and np.array_equal(one, other) for one, other in pairs]
    return [False] * len(given) if all(given) else given


def _with(part: EpochPart, totals: Sequence[Totals]) -> EpochPart:
    """Return the part with the totals of more chunks, apart from their time.

    They are added one by one in Python, so that counts are exact, the loss is in double precision, and both do not
    depend on where an epoch was interrupted. `sum` of Python 3.12 compensates rounding errors within one call.
    """
    loss, train = part.loss, part.train
    for total in totals:
        loss += total.loss.numpy().item()
        train += Accuracy(total.correct.numpy().item(), total.seen.numpy().item())
    return structs.replace(part, chunks=part.chunks + len(totals), loss=loss, train=train)
