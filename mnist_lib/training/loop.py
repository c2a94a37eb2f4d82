"""The training loop and the evaluation of every model, on any number of replicas.

A `Trainer` is compiled once for a shape of data and then trains any number of trials of that shape.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

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
    evaluation_batch_size,
    order_of,
)
from mnist_lib.data.images import ImageArray
from mnist_lib.data.split import Labels, Split
from mnist_lib.errors import DivergedError, ModelError
from mnist_lib.margins import Sums, add_margins, counted_epochs
from mnist_lib.models.model import Model, Weights
from mnist_lib.models.scratch import Optimizer
from mnist_lib.results import EPOCH_START, Accuracy, Balanced, EpochDone, EpochPart, TrialEvent
from mnist_lib.spec import TrialSpec
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

HEARTBEAT_SECONDS = 3.0  # minimum time between two heartbeats within an epoch or an evaluation


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


class Outputs(NamedTuple):
    """What a model computes for some images."""

    probabilities: NDArray[np.float32]  # [n, classes]
    features: NDArray[np.float32]  # [n, features], see `Model.features`
    logits: NDArray[np.float32]  # [n, classes]


class Predictor:
    """A model that predicts on the devices of a strategy. It is compiled once, for any number of images of a shape.

    Args:
        parts: the parts of a batch that each device computes side by side.
    """

    def __init__(self, model: Model, strategy: tf.distribute.Strategy, parts: int = 1) -> None:
        self._model, self._strategy, self._parts = model, strategy, parts
        self._compiled: Callable[..., list[tuple[tf.Tensor, ...]]] | None = None

    def probabilities(self, weights: Weights, images: ImageArray) -> NDArray[np.float32]:
        """Return the probabilities that `predict` yields as one array."""
        return np.concatenate([outputs.probabilities for outputs in self.predict(weights, images)])

    def evaluate(
        self,
        weights: Weights,
        images: ImageArray,
        heartbeat: TrialEvent,
        kept: Callable[[Outputs], Sequence[NDArray[Any]]] = lambda outputs: outputs[:1],
    ) -> Generator[TrialEvent, None, list[NDArray[Any]]]:
        """Return the arrays for all images, and yield `heartbeat` every few seconds until then.

        Args:
            kept: returns the arrays for a part of the images; by default, only the probabilities.
        """
        parts, heartbeat_at = [], time.monotonic()
        for outputs in self.predict(weights, images):
            parts.append(kept(outputs))
            if time.monotonic() - heartbeat_at >= HEARTBEAT_SECONDS:
                yield heartbeat
                heartbeat_at = time.monotonic()
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def batch_size(self, image_shape: Sequence[int]) -> int:
        """Return the number of images that all replicas evaluate at a time."""
        replicas = len(self._strategy.extended.worker_devices)
        return evaluation_batch_size(image_shape, self._model.activation_bytes) * replicas

    def predict(self, weights: Weights, images: ImageArray) -> Iterator[Outputs]:
        """Yield the outputs for images, [n, height, width, channels] uint8, 0-255, in parts.

        Raises:
            DivergedError: a probability is not a finite number.
        """
        devices, batch_size = len(self._strategy.extended.worker_devices), self.batch_size(images.shape[1:])
        for begin in range(0, len(images), batch_size):
            batch = np.asarray(images[begin : begin + batch_size])
            padded = np.pad(batch, [(0, -len(batch) % (devices * self._parts)), (0, 0), (0, 0), (0, 0)])
            predicted = zip(*self._predict(weights, tf.split(padded, devices)), strict=True)
            outputs = Outputs(*(np.concatenate(arrays)[: len(batch)] for arrays in predicted))
            if not np.isfinite(outputs.probabilities).all():
                raise DivergedError("the probabilities are not finite numbers; train with a lower --learning-rate")
            yield outputs

    def _predict(self, weights: Weights, images: list[tf.Tensor]) -> list[tuple[tf.Tensor, ...]]:
        """Return the outputs for each device's images, [batch, height, width, channels] each."""
        if self._compiled is None:
            any_number = [tf.TensorSpec([None, *share.shape[1:]], share.dtype) for share in images]
            function = tf.function(self._outputs, autograph=False)
            self._compiled = function.get_concrete_function(weights, any_number)
        return self._compiled(weights, images)

    def _outputs(self, weights: Weights, images: list[tf.Tensor]) -> list[tuple[tf.Tensor, ...]]:
        """Do what `_predict` does, without XLA, which is no faster here and cannot compile every user's model."""
        shares = self._strategy.experimental_distribute_values_from_function(
            lambda context: images[context.replica_id_in_sync_group]
        )

        def outputs(weights: Weights, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
            predicted = [self._model.features(weights, part) for part in tf.split(images, self._parts)]
            features, logits = (tf.concat(values, axis=0) for values in zip(*predicted, strict=True))
            return tf.nn.softmax(logits), features, logits

        by_output = map(self._strategy.experimental_local_results, self._strategy.run(outputs, args=(weights, shares)))
        return [*zip(*by_output, strict=True)]


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


def accuracy_of(
    probabilities: NDArray[np.float32], labels: Labels, class_sizes: NDArray[np.integer[Any]] | None = None
) -> Accuracy:
    """Return the accuracy of probabilities, [n, classes], on labels, [n]. In a tie, the lower class is predicted.

    Args:
        class_sizes: [classes] the number of images of each class, among all that are compared together, for balanced
            counts; by default without these.
    """
    correct = probabilities.argmax(axis=1) == labels
    balanced = None
    if class_sizes is not None:
        sizes = np.maximum(class_sizes, 1)
        right, images = (np.bincount(of, minlength=len(sizes)) for of in (labels[correct], labels))
        balanced = Balanced(math.fsum(right / sizes), math.fsum(images / sizes), math.fsum(images / sizes**2))
    return Accuracy(int(correct.sum()), len(labels), balanced)
