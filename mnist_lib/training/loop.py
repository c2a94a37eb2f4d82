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
from mnist_lib.margins import add_margins, counted_epochs
from mnist_lib.models.model import Model, Weights
from mnist_lib.models.scratch import Optimizer
from mnist_lib.results import EPOCH_START, Accuracy, EpochPart
from mnist_lib.spec import TrialSpec
from mnist_lib.training.checkpoint import TrainingState
from mnist_lib.training.prediction import Predictor
from mnist_lib.training.schedules import learning_rates
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
        spec: TrialSpec,
        last: int,
        state: TrainingState | None = None,
        report_seconds: float = math.inf,
    ) -> Iterator[EpochPart]:
        """Train the epochs that follow on a state, up to `last`. Yield each when it is done, and parts of it before.

        What the caller does meanwhile does not count as time of the epoch.

        Args:
            plan: a plan that was made for this trainer's number of replicas.
            spec: one of the shape for which this was compiled; its seed determines the order of the images.
            state: the state of training so far, by default before the first epoch. Margins are added to its sums.
            report_seconds: the minimum time between two parts of an epoch; 0: after every chunk.

        Raises:
            DivergedError: a loss is not a finite number; the message names the first such epoch and step.
        """
        first, part = (state.epoch + 1, state.part) if state else (1, EPOCH_START)
        weights = balancing_weights(split.labels) if spec.class_weights == "balanced" else None
        chunks = epochs(split, plan, spec.seed, first, last, weights, part.chunks)
        rates, frozen_epochs = learning_rates(spec, plan.steps), spec.freeze_epochs or 0
        reported_at = time.monotonic()
        for number in range(first, last + 1):
            begin, pending = time.perf_counter(), list[TrainedChunk]()
            sums = state.margins if state and number <= counted_epochs(spec.epochs) else None
            order = None if sums is None else _order(plan, spec.seed, number)
            if frozen_epochs and number - 1 == frozen_epochs and not part.chunks:
                self._start_optimizer()
            of_epoch = rates[(number - 1) * plan.steps : number * plan.steps]
            padded = np.pad(of_epoch, (0, plan.chunks * plan.steps_per_chunk - plan.steps))
            for rates_of_chunk in np.split(padded, plan.chunks)[part.chunks :]:
                pending.append(self.train_chunk(next(chunks), rates_of_chunk, frozen=number <= frozen_epochs))
                is_last = part.chunks + len(pending) == plan.chunks
                if not is_last and time.monotonic() - reported_at < report_seconds:
                    continue
                before, part = part, _with(part, [chunk.totals for chunk in pending])  # waits for the device
                self._require_finite(pending, before, part, plan, number, rates)
                if sums is not None and order is not None:
                    for chunk_number, chunk in enumerate(pending, before.chunks):
                        images = order[plan.images_in(chunk_number) : plan.images_in(chunk_number + 1)]
                        add_margins(sums, images, chunk.margins.numpy(), plan.global_batch_size)
                part = structs.replace(part, seconds=part.seconds + time.perf_counter() - begin)
                yield part
                reported_at, begin, pending = time.monotonic(), time.perf_counter(), []
            part = EPOCH_START

    def _require_finite(
        self,
        chunks: Sequence[TrainedChunk],
        before: EpochPart,
        after: EpochPart,
        plan: Plan,
        epoch: int,
        rates: NDArray[np.float32],
    ) -> None:
        """Raise DivergedError if the loss of a step between two parts of an epoch is not a finite number."""
        steps = plan.steps_in(before.chunks) + sum(chunk.totals.finite_steps.numpy().item() for chunk in chunks)
        if steps == plan.steps_in(after.chunks):
            return
        why = f"use a lower --learning-rate ({rates.max():g} is too high)"
        if self.replicas > 1 and "GPU" in self._strategy.extended.worker_devices[0]:
            why += "; or the GPUs damage what they copy to each other: run python -m jobs.doctor --gpu"
        step = f"epoch {epoch}, step {steps + 1} of {plan.steps}"
        raise DivergedError(f"the loss of {step} is not a finite number; {why}")

    def train_chunk(self, chunk: Chunk, learning_rates: NDArray[np.float32], *, frozen: bool = False) -> TrainedChunk:
        """Train the steps of a chunk at the learning rates [steps].

        Args:
            frozen: whether the given weights stay as they are, see `is_given`.
        """
        steps = self._frozen_steps if frozen and self._frozen_steps else self._steps
        self.values, *trained = steps.run(self.values, chunk, tf.constant(learning_rates))
        return TrainedChunk(*trained)


def _order(plan: Plan, seed: int, epoch: int) -> NDArray[np.int32]:
    """Return the order of the images in an epoch: [images]."""
    with tf.device("CPU:0"):  # as tf.data computes it
        order: NDArray[np.int32] = order_of(plan.images, seed, epoch).numpy()
    return order


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
