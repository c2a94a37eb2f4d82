"""Keras layers as a model, and the Keras models of the catalog."""

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from mnist_lib.archives import read_keras_weights
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.models.layers import (
    AveragedOverAngles,
    FusedBatchNormalization,
    RandomDistortion,
    RandomShift,
    RandomStroke,
    to_predict,
)
from mnist_lib.models.model import ImageShape, Tensors, Weights, read_files, require_file
from mnist_lib.wording import one_line

KERAS_FILE = "model.keras"
SEED_STATE = "seed_generator_state"  # the end of the path of every variable of a keras.random.SeedGenerator


def keras_dense(image_shape: ImageShape, num_classes: int, hidden_units: int) -> list[keras.Layer]:
    """Return the network of the notebook of "Deep Learning with Python": one hidden dense layer with relu."""
    return [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Flatten(),
        keras.layers.Dense(hidden_units, activation="relu"),
        keras.layers.Dense(num_classes),
    ]


def keras_cnn(image_shape: ImageShape, num_classes: int, hidden_units: int) -> list[keras.Layer]:
    """Return a network of two convolutions, chosen for accuracy per second: see benchmarks/README.md."""
    padding = _padding(image_shape)
    layers = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(24, 5, use_bias=False, padding=padding),
        keras.layers.MaxPooling2D(padding=padding),
        *_normalized_relu(),
        keras.layers.Conv2D(32, 3, use_bias=False, padding=padding),
        keras.layers.MaxPooling2D(padding=padding),
        *_normalized_relu(),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(hidden_units, use_bias=False),
        *_normalized_relu(),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(num_classes),
    ]
    return [RandomShift(1), *layers]


def keras_fast(image_shape: ImageShape, num_classes: int, hidden_units: int) -> list[keras.Layer]:
    """Return a network that is accurate after seconds of training: see benchmarks/README.md.

    Its first convolution takes large steps, so that the others have a quarter of the positions to compute.
    """
    padding = _padding(image_shape)
    return [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(32, 6, strides=2, use_bias=False, padding=padding),
        *_normalized_relu(),
        keras.layers.Conv2D(32, 3, use_bias=False, padding=padding),
        keras.layers.MaxPooling2D(padding=padding),
        *_normalized_relu(),
        keras.layers.Flatten(),
        keras.layers.Dense(hidden_units, use_bias=False),
        *_normalized_relu(),
        keras.layers.Dense(num_classes),
    ]


def keras_best(image_shape: ImageShape, num_classes: int, width: int) -> list[keras.Layer]:
    """Return a network of five convolutions, `width` channels at first, with distorted training images.

    Its prediction is the average over the image as it is and turned by 7 degrees in each direction: see
    benchmarks/README.md.
    """
    layers = [keras.layers.Conv2D(width, 5, use_bias=False, padding=_padding(image_shape))]
    layers += [keras.layers.MaxPooling2D(padding="same"), *_normalized_relu()]
    for channels in (2 * width, 4 * width):
        for _ in range(2):
            layers += [keras.layers.Conv2D(channels, 3, use_bias=False, padding="same"), *_normalized_relu()]
        layers += [keras.layers.MaxPooling2D(padding="same")]
    layers += [keras.layers.Flatten(), keras.layers.Dropout(0.3), keras.layers.Dense(num_classes)]
    network = keras.Sequential([keras.Input(image_shape), *layers])
    angles = [math.radians(degrees) for degrees in (0, -7, 7)]
    augmentation = [RandomStroke(), RandomDistortion()]
    return [*augmentation, keras.layers.Rescaling(1 / 255), AveragedOverAngles(network, angles)]


def keras_resnet(image_shape: ImageShape, num_classes: int, width: int, blocks: int) -> list[keras.Layer]:
    """Return a small residual network (He et al., 2016): three stages of `blocks` blocks, `width` channels at first."""
    images = features = keras.Input(image_shape)
    features = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(features)
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            features = _residual_block(features, width * 2**stage, stride)
    for layer in _normalized_relu():
        features = layer(features)
    features = keras.layers.GlobalAveragePooling2D()(features)
    logits = keras.layers.Dense(num_classes)(features)
    return [RandomShift(1), keras.layers.Rescaling(1 / 255), keras.Model(images, logits)]


def _padding(image_shape: ImageShape) -> str:
    return "same" if min(image_shape[:2]) < 16 else "valid"  # 8x8 images would shrink to nothing


def _residual_block(inputs: keras.KerasTensor, channels: int, stride: int) -> keras.KerasTensor:
    """Normalise, activate and convolve twice, then add the inputs (He et al., 2016, "Identity Mappings")."""
    features = inputs
    for step in (stride, 1):
        for layer in _normalized_relu():
            features = layer(features)
        features = keras.layers.Conv2D(channels, 3, strides=step, padding="same", use_bias=False)(features)
    if inputs.shape[-1] != channels:
        inputs = keras.layers.Conv2D(channels, 1, strides=stride, use_bias=False)(inputs)
    return keras.layers.Add()([inputs, features])


def _normalized_relu() -> list[keras.Layer]:
    # A short memory for the moving averages, since an epoch has only a few hundred steps.
    return [FusedBatchNormalization(momentum=0.9), keras.layers.ReLU()]


class KerasModel:
    """Keras layers that end in logits; the stored model ends in their softmax.

    Args:
        layers: returns new layers at each call, since a seed determines the initial weights of new layers only. Layers
            with an attribute `only_in_training` are left out of the stored model.
        precision: the type in which the layers compute in training; the weights are always float32.
    """

    def __init__(self, layers: Callable[[], list[keras.Layer]], image_shape: ImageShape, precision: str) -> None:
        self._layers, self._image_shape = layers, image_shape
        self._network = self._network_of(self._layers_to_predict())
        self.activation_bytes = 2 * 4 * max(_output_sizes(self._network), default=0)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else before)
        try:
            self._in_training = self._network_of(layers())
        finally:
            keras.config.set_dtype_policy(before)
        if {id(variable) for variable in self._network.variables} & {id(v) for v in self._in_training.variables}:
            raise ModelError("expected new layers at each call of the function, got the same; create them inside it")
        left_out = [layer for layer in self._in_training.layers if hasattr(layer, "only_in_training")]
        ids = {id(variable) for layer in left_out for variable in layer.non_trainable_variables}
        self._predicts = [id(variable) not in ids for variable in self._in_training.non_trainable_variables]
        # On a CPU, XLA takes 20 times as long for convolutions, whose kernels have four axes, and 30 times as long for
        # random numbers.
        convolves = any(len(variable.shape) > 3 for variable in self._network.variables)
        draws = any(variable.path.endswith(SEED_STATE) for variable in self._in_training.non_trainable_variables)
        self.fast_in_xla_on_cpu = precision == "float32" and not convolves and not draws

    def initial_weights(self, seed: int) -> Weights:
        keras.utils.set_random_seed(seed)  # layers without a seed of their own draw from the global one
        return _values_of(self.training_network())

    def logits(self, weights: Weights, images: tf.Tensor) -> tf.Tensor:
        # Keras' own augmentation acts unless `training` is False; None is not enough.
        return self._network.stateless_call(weights.trainable, self._state_to_predict(weights), images, training=False)[
            0
        ]

    def train_logits(
        self, weights: Weights, images: tf.Tensor, replica: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        own = self._shift_seeds(weights.state, replica)
        logits, state, losses = self._in_training.stateless_call(
            weights.trainable, own, images, training=True, return_losses=True
        )
        loss = tf.add_n([tf.cast(loss, tf.float32) for loss in losses]) if losses else tf.constant(0.0)
        return tf.cast(logits, tf.float32), self._shift_seeds(state, -replica), loss

    def _shift_seeds(self, state: Tensors, by: tf.Tensor) -> Tensors:
        """Add a number to the first half of each random generator's state; Keras changes only the second half."""
        variables, shift = self._in_training.non_trainable_variables, tf.stack([by, 0])
        return [
            value + tf.cast(shift, value.dtype) if variable.path.endswith(SEED_STATE) else value
            for variable, value in zip(variables, state, strict=True)
        ]

    def stored(self, weights: Weights) -> Weights:
        """Return the weights without seed states, which Keras does not store."""
        stored = {id(variable) for variable in self._in_training.weights}
        pairs = zip(self._in_training.non_trainable_variables, weights.state, strict=True)
        return weights._replace(state=[value for variable, value in pairs if id(variable) in stored])

    def files(self, weights: Weights) -> dict[str, bytes]:
        stored = self._stored_network()
        for variable, value in zip(stored.trainable_variables, weights.trainable, strict=True):
            variable.assign(value)
        for variable, value in zip(stored.non_trainable_variables, self._state_to_predict(weights), strict=True):
            variable.assign(value)
        with tempfile.TemporaryDirectory() as folder:
            stored.save(Path(folder, KERAS_FILE))
            return read_files(Path(folder))

    def read(self, files: Mapping[str, bytes]) -> Weights:
        stored = self._stored_network()
        layers = ["InputLayer", *(type(layer).__name__ for layer in stored.layers)]
        sizes = [int(np.prod(variable.shape)) * tf.as_dtype(variable.dtype).size for variable in stored.variables]
        content = read_keras_weights(require_file(files, KERAS_FILE), KERAS_FILE, layers, sizes)
        with tempfile.NamedTemporaryFile(suffix=".weights.h5") as file:
            file.write(content)
            file.flush()
            try:
                stored.load_weights(file.name)
            except (MemoryError, tf.errors.ResourceExhaustedError):
                raise
            except Exception as error:  # h5py and Keras raise many kinds, depending on the byte that is damaged
                expected = f"weights of the layers {', '.join(layers)}"
                raise IntegrityError(f"{KERAS_FILE}: expected {expected}: {one_line(error)}") from error
        weights = _values_of(stored)
        read, initial = iter(weights.state), self.initial_weights(seed=0).state
        return weights._replace(
            state=[next(read) if kept else value for value, kept in zip(initial, self._predicts, strict=True)]
        )

    def training_network(self) -> keras.Sequential:
        """Return a new network that ends in logits, with the layers that are only for training."""
        return self._network_of(self._layers())

    def _state_to_predict(self, weights: Weights) -> Tensors:
        """Return the state without the state of the layers that are only for training."""
        return [value for value, kept in zip(weights.state, self._predicts, strict=True) if kept]

    def _layers_to_predict(self) -> list[keras.Layer]:
        return [to_predict(layer) for layer in self._layers() if not hasattr(layer, "only_in_training")]

    def _stored_network(self) -> keras.Sequential:
        """Return a new network as it is stored: not compiled, since an optimizer would double the size of the file."""
        return self._network_of([*self._layers_to_predict(), keras.layers.Softmax(name="probabilities")])

    def _network_of(self, layers: list[keras.Layer]) -> keras.Sequential:
        return keras.Sequential([keras.Input(self._image_shape, dtype="uint8", name="pixels"), *layers])


def _output_sizes(layer: keras.Layer) -> Iterator[int]:
    """Yield how many numbers each layer returns for an image, if Keras knows this before the layer is called."""
    with contextlib.suppress(AttributeError, TypeError, ValueError):  # no output: the layer is in no graph
        yield math.prod(layer.output.shape[1:])
    for inner in getattr(layer, "layers", []):
        yield from _output_sizes(inner)


def _values_of(network: keras.Sequential) -> Weights:
    return Weights(
        [tf.constant(variable.numpy()) for variable in network.trainable_variables],
        [tf.constant(variable.numpy()) for variable in network.non_trainable_variables],
    )
