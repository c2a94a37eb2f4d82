"""A neural network from scratch on TensorFlow ops: layers, loss, optimizers, and the model built from them.

It follows the notebook of "Deep Learning with Python" (Chollet, 2.5), and the tests compare each part with Keras. All
parts are functions of values: a layer knows the shapes of its weights but does not hold them. The training loop holds
them, so that one compiled step serves every trial, on one device or several.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from mnist_lib.archives import read_npz
from mnist_lib.errors import IntegrityError
from mnist_lib.models.model import ImageShape, Model, Tensors, Weights, read_files, require_file, serving_module
from mnist_lib.spec import TrialSpec

NPZ_FILE = "weights.npz"


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
    """A chain of layers. Its weights are those of the layers in order: two tensors for each."""

    def __init__(self, layers: Sequence[Dense]) -> None:
        self.layers = layers

    def initial_weights(self, seed: int) -> Tensors:
        return [tensor for i, layer in enumerate(self.layers) for tensor in layer.initial_weights([seed, i])]

    def __call__(self, weights: Tensors, inputs: tf.Tensor, product: tf.DType = tf.float32) -> tf.Tensor:
        for i, layer in enumerate(self.layers):
            inputs = layer(weights[2 * i : 2 * i + 2], inputs, product)
        return inputs


def softmax_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return -log softmax(logits)[label], natural logarithm: logits [batch, classes] float32, labels [batch] integers.

    It takes logits because the probability of a label can round to 0, whose logarithm is infinite.
    """
    label_logits = tf.gather(logits, tf.cast(labels, tf.int32), axis=1, batch_dims=1)
    return tf.reduce_logsumexp(logits, axis=1) - label_logits


class Optimizer(Protocol):
    """An update rule that is elementwise, so that the training loop may hold the weights in any shape."""

    def initial_slots(self, weights: Tensors) -> list[Tensors]:
        """Return the optimizer's memory before the first step: lists of tensors shaped like `weights`."""

    def update(
        self, weights: Tensors, slots: list[Tensors], gradients: Tensors, learning_rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[Tensors, list[Tensors]]:
        """Return the weights and slots after a step.

        learning_rate: [] float32; step: [] int32, the number of earlier steps.
        """


class SGD:
    """w <- w - learning_rate g."""

    def initial_slots(self, weights: Tensors) -> list[Tensors]:
        return []

    def update(
        self, weights: Tensors, slots: list[Tensors], gradients: Tensors, learning_rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[Tensors, list[Tensors]]:
        return [w - learning_rate * g for w, g in zip(weights, gradients, strict=True)], slots


class RMSprop:
    """v <- rho v + (1 - rho) g^2;  w <- w - learning_rate g / sqrt(v + epsilon)   (Tieleman and Hinton, 2012).

    Defaults and the place of epsilon, inside the root, are those of Keras.
    """

    def __init__(self, rho: float = 0.9, epsilon: float = 1e-7) -> None:
        self._rho, self._epsilon = rho, epsilon

    def initial_slots(self, weights: Tensors) -> list[Tensors]:
        return [[tf.zeros_like(w) for w in weights]]

    def update(
        self, weights: Tensors, slots: list[Tensors], gradients: Tensors, learning_rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[Tensors, list[Tensors]]:
        (squares,) = slots
        squares = [self._rho * v + (1 - self._rho) * tf.square(g) for v, g in zip(squares, gradients, strict=True)]
        weights = [
            w - learning_rate * g * tf.math.rsqrt(v + self._epsilon)
            for w, v, g in zip(weights, squares, gradients, strict=True)
        ]
        return weights, [squares]


class Adam:
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - learning_rate c m / (sqrt(v) + epsilon), where
    c = sqrt(1 - b2^t) / (1 - b1^t) corrects the bias of m and v towards 0   (Kingma and Ba, 2015).

    Defaults and the place of epsilon, beside the uncorrected root, are those of Keras.
    """

    def __init__(self, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> None:
        self._beta_1, self._beta_2, self._epsilon = beta_1, beta_2, epsilon

    def initial_slots(self, weights: Tensors) -> list[Tensors]:
        return [[tf.zeros_like(w) for w in weights], [tf.zeros_like(w) for w in weights]]

    def update(
        self, weights: Tensors, slots: list[Tensors], gradients: Tensors, learning_rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[Tensors, list[Tensors]]:
        means, squares = slots
        t = tf.cast(step + 1, tf.float32)
        rate = learning_rate * tf.sqrt(1 - tf.pow(self._beta_2, t)) / (1 - tf.pow(self._beta_1, t))
        means = [m + (1 - self._beta_1) * (g - m) for m, g in zip(means, gradients, strict=True)]
        squares = [v + (1 - self._beta_2) * (tf.square(g) - v) for v, g in zip(squares, gradients, strict=True)]
        weights = [w - rate * m / (tf.sqrt(v) + self._epsilon) for w, m, v in zip(weights, means, squares, strict=True)]
        return weights, [means, squares]


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam}


def scratch_dense(spec: TrialSpec, image_shape: ImageShape, num_classes: int) -> Model:
    """Return the network of `keras_dense`, from scratch and with the initial weights of the notebook."""
    height, width, channels = image_shape
    layers = [Dense(height * width * channels, spec.hidden_units, tf.nn.relu), Dense(spec.hidden_units, num_classes)]
    return ScratchModel(Sequential(layers), image_shape, spec.precision)


class ScratchModel:
    """A network from scratch that takes pixels: it scales and flattens them first."""

    def __init__(self, network: Sequential, image_shape: ImageShape, precision: str) -> None:
        self.fast_in_xla_on_cpu = precision == "float32"
        self._network, self._image_shape, self._precision = network, image_shape, tf.as_dtype(precision)

    def initial_weights(self, seed: int) -> Weights:
        return Weights(self._network.initial_weights(seed), [])

    def logits(self, weights: Weights, images: tf.Tensor) -> tf.Tensor:
        return self._network(weights.trainable, self._scaled(images))

    def train_logits(
        self, weights: Weights, images: tf.Tensor, replica: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        return self._network(weights.trainable, self._scaled(images), self._precision), weights.state, tf.constant(0.0)

    def _scaled(self, images: tf.Tensor) -> tf.Tensor:
        """[batch, height, width, channels] uint8 -> [batch, pixels] float32 from 0 to 1."""
        return tf.cast(tf.reshape(images, [-1, np.prod(self._image_shape)]), tf.float32) / 255.0

    def stored(self, weights: Weights) -> Weights:
        return weights

    def files(self, weights: Weights) -> dict[str, bytes]:
        """`weights.npz` (kernel_0, bias_0, ...) is for NumPy, `saved_model/` for `tf.saved_model.load(...).serve`."""
        served = serving_module(self, weights, self._image_shape)
        arrays = dict(zip(self._names(), map(np.asarray, weights.trainable), strict=True))
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder, NPZ_FILE), allow_pickle=False, **arrays)
            tf.saved_model.save(served, str(Path(folder, "saved_model")), signatures=served.serve)
            return read_files(Path(folder))

    def read(self, files: Mapping[str, bytes]) -> Weights:
        names = self._names()
        shapes = dict(zip(names, (tuple(w.shape) for w in self._network.initial_weights(seed=0)), strict=True))
        limits = {name: 4 * int(np.prod(shape)) for name, shape in shapes.items()}
        arrays = read_npz(require_file(files, NPZ_FILE), NPZ_FILE, limits)
        for name, array in arrays.items():
            if array.shape != shapes[name] or array.dtype != np.float32:
                got = f"{array.dtype} {array.shape}"
                raise IntegrityError(f"{NPZ_FILE}: {name}: expected float32 {shapes[name]}, got {got}")
        return Weights([tf.constant(arrays[name]) for name in names], [])

    def _names(self) -> list[str]:
        return [f"{name}_{i}" for i in range(len(self._network.layers)) for name in ("kernel", "bias")]
