"""The Keras models of the catalog, as stacks of layers."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from mnist_lib.archives import read_keras_weights
from mnist_lib.errors import IntegrityError
from mnist_lib.models.model import ImageShape, Model, Tensors, Weights, read_files, require_file
from mnist_lib.spec import TrialSpec

KERAS_FILE = "model.keras"
SEED_STATE = "seed_generator_state"  # how the path of a variable of keras.random.SeedGenerator ends


def keras_dense(spec: TrialSpec, image_shape: ImageShape, num_classes: int) -> Model:
    """Return the network of the notebook of "Deep Learning with Python": one hidden dense layer with relu."""
    return KerasModel(
        lambda: [
            keras.Input(image_shape, dtype="uint8", name="pixels"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(spec.hidden_units, activation="relu"),
            keras.layers.Dense(num_classes),
        ],
        spec.precision,
    )


def keras_cnn(spec: TrialSpec, image_shape: ImageShape, num_classes: int) -> Model:
    """Return a network of two convolutions, chosen for accuracy per second: see benchmarks/README.md."""
    padding = "same" if min(image_shape[:2]) < 16 else "valid"  # 8x8 images would shrink to nothing

    def normalized() -> list[keras.Layer]:
        # A short memory for the moving averages, since an epoch has only a few hundred steps.
        return [keras.layers.BatchNormalization(momentum=0.9), keras.layers.ReLU()]

    return KerasModel(
        lambda: [
            keras.Input(image_shape, dtype="uint8", name="pixels"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(24, 5, use_bias=False, padding=padding),
            keras.layers.MaxPooling2D(padding=padding),
            *normalized(),
            keras.layers.Conv2D(32, 3, use_bias=False, padding=padding),
            keras.layers.MaxPooling2D(padding=padding),
            *normalized(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(spec.hidden_units, use_bias=False),
            *normalized(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(num_classes),
        ],
        spec.precision,
        augmentation=lambda: [RandomShift(1)],
        # XLA's convolutions on a CPU take 20 times as long as oneDNN's.
        fast_in_xla_on_cpu=False,
    )


class KerasModel:
    """A stack of Keras layers that ends in logits; the stored model ends in their softmax.

    Args:
        layers: returns new layers at each call, since a seed determines the initial weights of new layers only.
        precision: the type in which the layers compute in training; the weights are always float32.
        augmentation: returns new layers that change the training images before the first of `layers`.
        fast_in_xla_on_cpu: as in `Model`, for float32.
    """

    def __init__(
        self,
        layers: Callable[[], list[keras.Layer]],
        precision: str,
        augmentation: Callable[[], list[keras.Layer]] = list,
        fast_in_xla_on_cpu: bool = True,
    ) -> None:
        self.fast_in_xla_on_cpu = fast_in_xla_on_cpu and precision == "float32"
        self._layers, self._augmentation = layers, augmentation
        self._network, self._in_training = keras.Sequential(layers()), self.training_network()
        if precision == "bfloat16":
            for layer in self._in_training.layers:
                layer.dtype_policy = "mixed_bfloat16"

    def initial_weights(self, seed: int) -> Weights:
        keras.utils.set_random_seed(seed)  # layers without a seed of their own draw from the global one
        return _values_of(self.training_network())

    def logits(self, weights: Weights, images: tf.Tensor) -> tf.Tensor:
        return self._network.stateless_call(weights.trainable, self._state_to_predict(weights), images)[0]

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
        """Add a number to the first half of the state of each random generator, of which Keras changes the second."""
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
        size = sum(int(np.prod(variable.shape)) * 4 for variable in stored.variables)
        content = read_keras_weights(require_file(files, KERAS_FILE), KERAS_FILE, layers, size)
        with tempfile.NamedTemporaryFile(suffix=".weights.h5") as file:
            file.write(content)
            file.flush()
            try:
                stored.load_weights(file.name)
            except (ValueError, KeyError) as error:
                raise IntegrityError(
                    f"{KERAS_FILE}: expected weights of the layers {', '.join(layers)}: {error}"
                ) from error
        read, state = _values_of(stored), self.initial_weights(seed=0).state
        return read._replace(state=[*state[: len(state) - len(read.state)], *read.state])

    def training_network(self) -> keras.Sequential:
        """Return a new network that ends in logits, with the augmentation."""
        first, *others = self._layers()
        return keras.Sequential([first, *self._augmentation(), *others])

    def _state_to_predict(self, weights: Weights) -> Tensors:
        """Return the state without that of the augmentation, which comes first."""
        return weights.state[len(weights.state) - len(self._network.non_trainable_variables) :]

    def _stored_network(self) -> keras.Sequential:
        """Return a new network as it is stored: not compiled, since the slots of an optimizer would double the file."""
        return keras.Sequential([*self._layers(), keras.layers.Softmax(name="probabilities")])


class RandomShift(keras.layers.Layer):
    """Moves each training image by at most `pixels` along each axis. The pixels that come in at an edge are 0."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self._pixels = pixels
        self._seeds = keras.random.SeedGenerator()

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """images: [batch, height, width, channels] -> the same shape and type."""
        if not training:
            return images
        height, width = images.shape[1:3]
        pad = [self._pixels, self._pixels]
        begin = keras.random.randint((tf.shape(images)[0], 2), 0, 2 * self._pixels + 1, seed=self._seeds)
        rows, columns = begin[:, :1] + tf.range(height), begin[:, 1:] + tf.range(width)
        images = tf.gather(tf.pad(images, [[0, 0], pad, pad, [0, 0]]), rows, axis=1, batch_dims=1)
        return tf.gather(images, columns, axis=2, batch_dims=1)


def _values_of(network: keras.Sequential) -> Weights:
    return Weights(
        [tf.constant(variable.numpy()) for variable in network.trainable_variables],
        [tf.constant(variable.numpy()) for variable in network.non_trainable_variables],
    )
