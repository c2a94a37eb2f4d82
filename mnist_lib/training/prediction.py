"""The evaluation of every model, on any number of replicas."""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.batches import evaluation_batch_size
from mnist_lib.data.images import ImageArray
from mnist_lib.data.table import Labels
from mnist_lib.errors import DivergedError
from mnist_lib.models.model import Model, Weights
from mnist_lib.results import Accuracy, Balanced, TrialEvent

HEARTBEAT_SECONDS = 3.0  # minimum time between two heartbeats within an epoch or an evaluation


class Outputs(NamedTuple):
    """What a model computes for some images."""

    probabilities: NDArray[np.float32]  # [n, classes]
    features: NDArray[np.float32]  # [n, features], see `Model.features`
    logits: NDArray[np.float32]  # [n, classes]


class Predictor:
    """A model that predicts on the devices of a strategy. It is compiled once, for any number of images of a shape.

    Args:
        microbatches: number of microbatches that each device computes at the same time.
    """

    def __init__(self, model: Model, strategy: tf.distribute.Strategy, microbatches: int = 1) -> None:
        self._model = model
        self._strategy = strategy
        self._microbatches = microbatches
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
        parts = []
        heartbeat_at = time.monotonic()
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
        devices = len(self._strategy.extended.worker_devices)
        batch_size = self.batch_size(images.shape[1:])
        for begin in range(0, len(images), batch_size):
            batch = np.asarray(images[begin : begin + batch_size])
            padded = np.pad(batch, [(0, -len(batch) % (devices * self._microbatches)), (0, 0), (0, 0), (0, 0)])
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
            predicted = [self._model.features(weights, part) for part in tf.split(images, self._microbatches)]
            features, logits = (tf.concat(values, axis=0) for values in zip(*predicted, strict=True))
            return tf.nn.softmax(logits), features, logits

        by_output = map(self._strategy.experimental_local_results, self._strategy.run(outputs, args=(weights, shares)))
        return [*zip(*by_output, strict=True)]


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
