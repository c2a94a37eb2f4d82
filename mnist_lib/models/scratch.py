"""A neural network from scratch on TensorFlow ops: layers, loss, optimizers, and the model built from them.

It follows the notebook of "Deep Learning with Python" (Chollet, 2.5), and the tests compare each part with Keras. All
parts are functions of values: a layer knows the shapes of its weights but does not hold them. The training loop holds
them, so that one compiled step serves every trial, on one device or several.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from mnist_lib.models.model import ImageShape, Tensors, Weights, read_files, serving_module
from mnist_lib.objects.archives import read_npz
from mnist_lib.spec import TrialSpec

NPZ_FILE = "weights.npz"
EPSILON = 1e-7  # of the optimizers, as in Keras


class Dense:
    """A dense layer: `activation(inputs @ kernel + bias)`.

    The kernel starts uniform in [0, 0.1], the bias at zero, as in the notebook. Positive weights are a poor start: the
    units of a layer are alike at first, and SGD needs a few thousand steps before they differ.
    """

    def __init__(self, input_size: int, units: int, activation: Callable[[tf.Tensor], tf.Tensor] | None = None) -> None:
        self._shape = (input_size, units)
        self._activation = activation

    def initial_weights(self, seed: Sequence[int]) -> Tensors:
        """Return [kernel, bias], float32 of the shapes [input_size, units] and [units]. `seed` is two integers."""
        kernel = tf.random.stateless_uniform(self._shape, seed, minval=0.0, maxval=0.1)
        return [kernel, tf.zeros(self._shape[1])]

    def __call__(self, weights: Tensors, inputs: tf.Tensor, product: tf.DType = tf.float32) -> tf.Tensor:
        """inputs: [batch, input_size] float32 -> [batch, units] float32. product: type of the matrix product."""
        kernel, bias = weights
        outputs = tf.cast(tf.matmul(tf.cast(inputs, product), tf.cast(kernel, product)), tf.float32) + bias
        return self._activation(outputs) if self._activation else outputs


class Sequential:
    """A chain of layers that takes pixels: it flattens them and scales them to [0, 1] first."""

    def __init__(self, layers: Sequence[Dense]) -> None:
        self.layers = layers

    def initial_weights(self, seed: int) -> dict[str, tf.Tensor]:
        return {
            f"{name}_{i}": value
            for i, layer in enumerate(self.layers)
            for name, value in zip(("kernel", "bias"), layer.initial_weights([seed, i]), strict=True)
        }

    def __call__(self, weights: dict[str, tf.Tensor], images: tf.Tensor, product: tf.DType = tf.float32) -> tf.Tensor:
        values = tf.cast(tf.reshape(images, [-1, math.prod(images.shape[1:])]), tf.float32) / 255.0
        for i, layer in enumerate(self.layers):
            values = layer([weights[f"kernel_{i}"], weights[f"bias_{i}"]], values, product)
        return values


@tf.custom_gradient
def softmax_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """Return -log softmax(logits)[label], natural logarithm: logits [batch, classes] float32, labels [batch] integers.

    It takes logits because the probability of a label can round to 0, whose logarithm is infinite. Its gradient,
    softmax(logits) - one_hot(label), is written out: with the derived one, a step takes a fifth longer to compile.
    """
    labels = tf.cast(labels, tf.int32)
    shifted = logits - tf.reduce_max(logits, axis=1, keepdims=True)  # so that no exponential overflows
    exponentials = tf.exp(shifted)
    sums = tf.reduce_sum(exponentials, axis=1)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        # With `upstream` factored out, chunks of one step and of many led to different weights in XLA.
        one_hot = tf.one_hot(labels, logits.shape[1])
        return exponentials * (upstream / sums)[:, tf.newaxis] - one_hot * upstream[:, tf.newaxis], None

    return tf.math.log(sums) - tf.gather(shifted, labels, axis=1, batch_dims=1), gradient


def sgd(
    weight: tf.Tensor, slots: Tensors, gradient: tf.Tensor, learning_rate: tf.Tensor, step: tf.Tensor, momentum: float
) -> tuple[tf.Tensor, Tensors]:
    """w <- w - learning_rate g;  with momentum: v <- momentum v - learning_rate g;  w <- w + v."""
    if not slots:
        return weight - learning_rate * gradient, []
    velocity = momentum * slots[0] - learning_rate * gradient
    return weight + velocity, [velocity]


def rmsprop(
    weight: tf.Tensor, slots: Tensors, gradient: tf.Tensor, learning_rate: tf.Tensor, step: tf.Tensor, momentum: float
) -> tuple[tf.Tensor, Tensors]:
    """v <- rho v + (1 - rho) g^2;  w <- w - learning_rate g / sqrt(v + epsilon)   (Tieleman and Hinton, 2012).

    With momentum: u <- momentum u + learning_rate g / sqrt(v + epsilon);  w <- w - u. As in Keras: the same constants,
    and epsilon inside the root.
    """
    rho, (square, *moments) = 0.9, slots
    square = rho * square + (1 - rho) * tf.square(gradient)
    move = learning_rate * gradient * tf.math.rsqrt(square + EPSILON)
    if moments:
        move = momentum * moments[0] + move
    return weight - move, [square, move][: len(slots)]


def adam(
    weight: tf.Tensor, slots: Tensors, gradient: tf.Tensor, learning_rate: tf.Tensor, step: tf.Tensor, momentum: float
) -> tuple[tf.Tensor, Tensors]:
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - learning_rate c m / (sqrt(v) + epsilon), where
    c = sqrt(1 - b2^t) / (1 - b1^t) corrects the bias of m and v towards 0   (Kingma and Ba, 2015).

    As in Keras: the same constants, and epsilon is added to sqrt(v), which is not corrected for bias.
    """
    beta_1, beta_2, (mean, square) = 0.9, 0.999, slots
    t = tf.cast(step + 1, tf.float32)
    rate = learning_rate * tf.sqrt(1 - tf.pow(beta_2, t)) / (1 - tf.pow(beta_1, t))
    mean = mean + (1 - beta_1) * (gradient - mean)
    square = square + (1 - beta_2) * (tf.square(gradient) - square)
    return weight - rate * mean / (tf.sqrt(square) + EPSILON), [mean, square]


# name -> the update of a weight, and the number of its slots without momentum, which has one more.
UPDATES = {"sgd": (sgd, 0), "rmsprop": (rmsprop, 1), "adam": (adam, 2)}


class Optimizer:
    """The update of all weights in a step. As in Keras, gradients are clipped to a norm, and weights decay before it.

    It does not depend on the shapes of the weights, so that the training loop may reshape them.
    """

    def __init__(self, spec: TrialSpec) -> None:
        self._spec = spec

    def initial_slots(self, weights: Tensors) -> list[Tensors]:
        """Return the optimizer's memory before the first step: lists of tensors shaped like `weights`."""
        count = UPDATES[self._spec.optimizer][1] + bool(self._spec.momentum)
        return [[tf.zeros_like(weight) for weight in weights] for _ in range(count)]

    def update(
        self, weights: Tensors, slots: list[Tensors], gradients: Tensors, learning_rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[Tensors, list[Tensors]]:
        """Return the weights and slots after a step.

        learning_rate: [] float32; step: [] int32, the number of earlier steps.
        """
        if self._spec.global_clipnorm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._spec.global_clipnorm)
        if self._spec.weight_decay:
            weights = [w - w * self._spec.weight_decay * learning_rate for w in weights]
        update, momentum = UPDATES[self._spec.optimizer][0], self._spec.momentum
        updated = [
            update(weight, own, gradient, learning_rate, step, momentum)
            for weight, gradient, *own in zip(weights, gradients, *slots, strict=True)
        ]
        return [weight for weight, _ in updated], [[own[i] for _, own in updated] for i in range(len(slots))]


class Network(Protocol):
    """A model from scratch: functions of named weights."""

    def initial_weights(self, seed: int) -> dict[str, tf.Tensor]:
        """Return the initial weights, float32, as a function of the seed."""

    def __call__(self, weights: dict[str, tf.Tensor], images: tf.Tensor, product: tf.DType) -> tf.Tensor:
        """Return the logits, [batch, classes] float32, of images, [batch, height, width, channels] uint8.

        product: the type in which matrices should be multiplied.
        """


def scratch_dense(image_shape: ImageShape, num_classes: int, hidden_units: int) -> Network:
    """Return the network of `keras_dense`, from scratch and with the initial weights of the notebook."""
    return Sequential([Dense(math.prod(image_shape), hidden_units, tf.nn.relu), Dense(hidden_units, num_classes)])


class ScratchModel:
    """A `Model` that wraps a network from scratch."""

    activation_bytes = 0  # unknown: a network does not report the sizes of its intermediate results

    def __init__(self, network: Network, image_shape: ImageShape, precision: str) -> None:
        self._network, self._image_shape, self._product = network, image_shape, tf.as_dtype(precision)
        initial = network.initial_weights(0)
        self._shapes = {name: tuple(value.shape) for name, value in initial.items()}
        convolves = any(len(shape) > 3 for shape in self._shapes.values())
        self.fast_in_xla_on_cpu = precision == "float32" and not convolves

    def initial_weights(self, seed: int) -> Weights:
        return Weights(list(self._network.initial_weights(seed).values()), [])

    def logits(self, weights: Weights, images: tf.Tensor) -> tf.Tensor:
        return self._logits(weights, images, tf.float32)

    def features(self, weights: Weights, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = self.logits(weights, images)
        return logits, logits

    def train_logits(
        self, weights: Weights, images: tf.Tensor, replica: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        return self._logits(weights, images, self._product), weights.state, tf.constant(0.0)

    def _logits(self, weights: Weights, images: tf.Tensor, product: tf.DType) -> tf.Tensor:
        return self._network(dict(zip(self._shapes, weights.trainable, strict=True)), images, product)

    def stored(self, weights: Weights) -> Weights:
        return weights

    def files(self, weights: Weights) -> dict[str, bytes]:
        """`weights.npz` (kernel_0, bias_0, ...) is for NumPy, `saved_model/` for `tf.saved_model.load(...).serve`."""
        served = serving_module(self, weights, self._image_shape)
        arrays = dict(zip(self._shapes, map(np.asarray, weights.trainable), strict=True))
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder, NPZ_FILE), allow_pickle=False, **arrays)
            tf.saved_model.save(served, str(Path(folder, "saved_model")), signatures=served.serve)
            return read_files(Path(folder))

    def read(self, files: Mapping[str, bytes]) -> Weights:
        arrays = read_npz(files[NPZ_FILE])
        return Weights([tf.constant(arrays[name].reshape(shape)) for name, shape in self._shapes.items()], [])
