"""A neural network from scratch on TensorFlow ops: layers, loss and optimizers, in the spirit of the notebook of
"Deep Learning with Python" (Chollet, 2.5), and held against Keras' own by the tests.

Everything here is a function of values: a layer knows the shapes of its weights but does not hold them. The training
loop keeps them in variables, so that one compiled step serves every trial, one device or several.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import tensorflow as tf

Tensors = list[tf.Tensor]


class Dense:
    """`activation(inputs @ kernel + bias)`.

    The kernel starts uniform in [0, 0.1] as in the notebook, the bias at zero. All weights positive is a poor start:
    the units of a layer begin alike, and SGD needs a few thousand steps to tell them apart.
    """

    def __init__(self, input_size: int, units: int, activation: Callable[[tf.Tensor], tf.Tensor] | None = None) -> None:
        self._shape = (input_size, units)
        self._activation = activation

    def initial_weights(self, seed: Sequence[int]) -> Tensors:
        """[kernel: [input_size, units], bias: [units]], float32; `seed` is two integers."""
        kernel = tf.random.stateless_uniform(self._shape, seed, minval=0.0, maxval=0.1)
        return [kernel, tf.zeros(self._shape[1])]

    def __call__(self, weights: Tensors, inputs: tf.Tensor, product: tf.DType = tf.float32) -> tf.Tensor:
        """inputs: [batch, input_size] float32 -> [batch, units] float32. `product` is the type to multiply in."""
        kernel, bias = weights
        outputs = tf.cast(tf.matmul(tf.cast(inputs, product), tf.cast(kernel, product)), tf.float32) + bias
        return self._activation(outputs) if self._activation else outputs


class Sequential:
    """Layers in a row; their weights in a row too, two tensors a layer."""

    def __init__(self, layers: Sequence[Dense]) -> None:
        self._layers = layers

    @property
    def depth(self) -> int:
        return len(self._layers)

    def initial_weights(self, seed: int) -> Tensors:
        return [tensor for i, layer in enumerate(self._layers) for tensor in layer.initial_weights([seed, i])]

    def __call__(self, weights: Tensors, inputs: tf.Tensor, product: tf.DType = tf.float32) -> tf.Tensor:
        for i, layer in enumerate(self._layers):
            inputs = layer(weights[2 * i : 2 * i + 2], inputs, product)
        return inputs


def softmax_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """-log softmax(logits)[label], one per example.

    logits: [batch, classes] float32; labels: [batch] integers in 0..classes-1 -> [batch] float32, natural logarithm.
    From logits, not probabilities: log(softmax) of a confident mistake would be log(0).
    """
    label_logits = tf.gather(logits, tf.cast(labels, tf.int32), axis=1, batch_dims=1)
    return tf.reduce_logsumexp(logits, axis=1) - label_logits


class Optimizer(Protocol):
    """How weights follow gradients, each number for itself: the loop may hold them in other shapes than the model's."""

    def initial_slots(self, weights: Tensors) -> list[Tensors]:
        """What is remembered between steps: some lists of tensors shaped like `weights`."""
        ...

    def update(
        self, weights: Tensors, slots: list[Tensors], gradients: Tensors, learning_rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[Tensors, list[Tensors]]:
        """One step -> (weights, slots). learning_rate: [] float32; step: [] int32, how many were taken before."""
        ...


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

    Defaults, and epsilon inside the root, as in Keras.
    """

    def __init__(self, rho: float = 0.9, epsilon: float = 1e-7) -> None:
        self._rho, self._epsilon = rho, epsilon

    def initial_slots(self, weights: Tensors) -> list[Tensors]:
        return [[tf.zeros_like(w) for w in weights]]

    def update(
        self, weights: Tensors, slots: list[Tensors], gradients: Tensors, learning_rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[Tensors, list[Tensors]]:
        (velocities,) = slots
        velocities = [
            self._rho * v + (1 - self._rho) * tf.square(g) for v, g in zip(velocities, gradients, strict=True)
        ]
        weights = [
            w - learning_rate * g * tf.math.rsqrt(v + self._epsilon)
            for w, v, g in zip(weights, velocities, gradients, strict=True)
        ]
        return weights, [velocities]


class Adam:
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - learning_rate c m / (sqrt(v) + epsilon), where
    c = sqrt(1 - b2^t) / (1 - b1^t) corrects the start of m and v at 0   (Kingma and Ba, 2015).

    Defaults, and epsilon beside the uncorrected root, as in Keras.
    """

    def __init__(self, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> None:
        self._beta_1, self._beta_2, self._epsilon = beta_1, beta_2, epsilon

    def initial_slots(self, weights: Tensors) -> list[Tensors]:
        return [[tf.zeros_like(w) for w in weights], [tf.zeros_like(w) for w in weights]]

    def update(
        self, weights: Tensors, slots: list[Tensors], gradients: Tensors, learning_rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[Tensors, list[Tensors]]:
        momenta, velocities = slots
        t = tf.cast(step + 1, tf.float32)
        rate = learning_rate * tf.sqrt(1 - tf.pow(self._beta_2, t)) / (1 - tf.pow(self._beta_1, t))
        momenta = [m + (1 - self._beta_1) * (g - m) for m, g in zip(momenta, gradients, strict=True)]
        velocities = [v + (1 - self._beta_2) * (tf.square(g) - v) for v, g in zip(velocities, gradients, strict=True)]
        weights = [
            w - rate * m / (tf.sqrt(v) + self._epsilon) for w, m, v in zip(weights, momenta, velocities, strict=True)
        ]
        return weights, [momenta, velocities]


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam}
