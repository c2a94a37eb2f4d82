"""The models that can be trained: each a function (spec, image shape) -> `Model`, named in `catalog.MODELS`.

A model takes raw pixels: the scaling to [0, 1] is part of it, so that whoever loads a stored one cannot forget it.
"""

import hashlib
import importlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from mnist_lib import scratch
from mnist_lib.archives import read_keras_weights, read_npz
from mnist_lib.catalog import MODELS, NUM_CLASSES
from mnist_lib.errors import IntegrityError
from mnist_lib.spec import TrialSpec

KERAS_FILE, NPZ_FILE = "model.keras", "weights.npz"

ImageShape = tuple[int, int, int]  # height, width, channels
Tensors = list[tf.Tensor]


class Weights(NamedTuple):
    """All that a trained model is."""

    trainable: Tensors
    state: Tensors  # what training changes without a gradient: moving averages, seed states

    def sha256(self) -> str:
        """Of every value, its type and its shape. Files are no measure: they hold the time of day."""
        digest = hashlib.sha256()
        for tensor in (*self.trainable, *self.state):
            array = np.ascontiguousarray(tensor)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()


class Model(Protocol):
    """A model as functions of its weights. Who holds the weights, on which devices, is the training loop's business."""

    fast_in_xla_on_cpu: bool  # not slower than with TensorFlow's own kernels, oneDNN's

    def initial_weights(self, seed: int) -> Weights:
        """The same for the same seed."""
        ...

    def logits(self, weights: Weights, images: tf.Tensor, *, training: bool) -> tuple[tf.Tensor, Tensors]:
        """images: [batch, height, width, 1] uint8 -> ([batch, classes] float32, the state after).

        Only training may compute in the precision of the spec: what is measured is what is stored, in float32.
        """
        ...

    def stored(self, weights: Weights) -> Weights:
        """Without the state that only training needs."""
        ...

    def files(self, weights: Weights) -> dict[str, bytes]:
        """The model as files by path, usable without this project: raw pixels in, class probabilities out."""
        ...

    def read(self, files: Mapping[str, bytes]) -> Weights:
        """What `files` took, without running any of it; the state that only training needs is new.

        Raises:
            IntegrityError: they are not of this model.
        """
        ...


def build_model(spec: TrialSpec, image_shape: ImageShape) -> Model:
    module, _, function = MODELS[spec.model].build.partition(":")
    build: Callable[[TrialSpec, ImageShape], Model] = getattr(importlib.import_module(module), function)
    return build(spec, image_shape)


def keras_dense(spec: TrialSpec, image_shape: ImageShape) -> Model:
    """The classic of the Keras notebook: 512 relu, 10."""
    return KerasModel(
        lambda: [
            keras.Input(image_shape, dtype="uint8", name="pixels"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(spec.hidden_units, activation="relu"),
            keras.layers.Dense(NUM_CLASSES),
        ],
        spec.precision,
    )


def keras_cnn(spec: TrialSpec, image_shape: ImageShape) -> Model:
    """Two convolutions, for accuracy per second: see the record in benchmarks/README.md."""

    padding = "same" if min(image_shape[:2]) < 16 else "valid"  # sklearn-digits would be worn away

    def normalized() -> list[keras.Layer]:
        # A short memory for the averages: an epoch has a few hundred steps.
        return [keras.layers.BatchNormalization(momentum=0.9), keras.layers.ReLU()]

    return KerasModel(
        lambda: [
            keras.Input(image_shape, dtype="uint8", name="pixels"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(24, 5, use_bias=False, padding=padding),
            keras.layers.MaxPooling2D(),
            *normalized(),
            keras.layers.Conv2D(32, 3, use_bias=False, padding=padding),
            keras.layers.MaxPooling2D(),
            *normalized(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(spec.hidden_units, use_bias=False),
            *normalized(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(NUM_CLASSES),
        ],
        spec.precision,
        augmentation=lambda: [RandomShift(1)],
        # XLA's convolutions on a CPU take 20 times as long as oneDNN's.
        fast_in_xla_on_cpu=False,
    )


def scratch_dense(spec: TrialSpec, image_shape: ImageShape) -> Model:
    """The same network from scratch, with the notebook's own start."""
    height, width, channels = image_shape
    pixels = height * width * channels
    layers = [scratch.Dense(pixels, spec.hidden_units, tf.nn.relu), scratch.Dense(spec.hidden_units, NUM_CLASSES)]
    return ScratchModel(scratch.Sequential(layers), image_shape, spec.precision)


class KerasModel:
    """A stack of Keras layers that ends in logits; the stored model ends in their softmax.

    Args:
        layers: makes them anew: the initial weights of a seed are those of a new stack.
        precision: of the layers in training; the weights are float32 always.
        augmentation: what changes the images of training before they come to the layers.
        fast_in_xla_on_cpu: as in `Model`, in float32.
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

    def logits(self, weights: Weights, images: tf.Tensor, *, training: bool) -> tuple[tf.Tensor, Tensors]:
        if not training:
            logits, _ = self._network.stateless_call(weights.trainable, self._state_to_predict(weights), images)
            return logits, weights.state
        logits, state = self._in_training.stateless_call(weights.trainable, weights.state, images, training=True)
        return tf.cast(logits, tf.float32), list(state)

    def stored(self, weights: Weights) -> Weights:
        """What Keras stores: no seed states."""
        held = {id(variable) for variable in self._in_training.weights}
        places = zip(self._in_training.non_trainable_variables, weights.state, strict=True)
        return weights._replace(state=[value for variable, value in places if id(variable) in held])

    def files(self, weights: Weights) -> dict[str, bytes]:
        stored = self._stored_network()
        for variable, value in zip(stored.trainable_variables, weights.trainable, strict=True):
            variable.assign(value)
        for variable, value in zip(stored.non_trainable_variables, self._state_to_predict(weights), strict=True):
            variable.assign(value)
        with tempfile.TemporaryDirectory() as folder:
            stored.save(Path(folder, KERAS_FILE))
            return _read_files(Path(folder))

    def read(self, files: Mapping[str, bytes]) -> Weights:
        stored = self._stored_network()
        layers = ["InputLayer", *(type(layer).__name__ for layer in stored.layers)]
        size = sum(int(np.prod(variable.shape)) * 4 for variable in stored.variables)
        content = read_keras_weights(_require_file(files, KERAS_FILE), KERAS_FILE, layers, size)
        with tempfile.NamedTemporaryFile(suffix=".weights.h5") as file:
            file.write(content)
            file.flush()
            try:
                stored.load_weights(file.name)
            except (ValueError, KeyError) as error:
                raise IntegrityError(f"{KERAS_FILE}: expected the weights of these layers: {error}") from error
        read, state = _values_of(stored), self.initial_weights(seed=0).state
        return read._replace(state=[*state[: len(state) - len(read.state)], *read.state])

    def training_network(self) -> keras.Sequential:
        """A new one, with the augmentation; it ends in logits."""
        first, *others = self._layers()
        return keras.Sequential([first, *self._augmentation(), *others])

    def _state_to_predict(self, weights: Weights) -> Tensors:
        """Without that of the augmentation, which comes first."""
        return weights.state[len(weights.state) - len(self._network.non_trainable_variables) :]

    def _stored_network(self) -> keras.Sequential:
        """Not compiled: its optimizer's slots would double the file, and to predict needs none."""
        return keras.Sequential([*self._layers(), keras.layers.Softmax(name="probabilities")])


class RandomShift(keras.layers.Layer):
    """In training, moves each image by up to so many pixels along each axis; what comes in at its edges is 0."""

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


class ScratchModel:
    """A network from scratch behind the scaling and flattening of pixels."""

    def __init__(self, network: scratch.Sequential, image_shape: ImageShape, precision: str) -> None:
        self.fast_in_xla_on_cpu = precision == "float32"
        self._network, self._image_shape = network, image_shape
        self._precision = tf.as_dtype(precision)

    def initial_weights(self, seed: int) -> Weights:
        return Weights(self._network.initial_weights(seed), [])

    def logits(self, weights: Weights, images: tf.Tensor, *, training: bool) -> tuple[tf.Tensor, Tensors]:
        scaled = tf.cast(tf.reshape(images, [-1, np.prod(self._image_shape)]), tf.float32) / 255.0  # [batch, pixels]
        precision = self._precision if training else tf.float32
        return self._network(weights.trainable, scaled, precision), weights.state

    def stored(self, weights: Weights) -> Weights:
        return weights

    def files(self, weights: Weights) -> dict[str, bytes]:
        """`weights.npz` (kernel_0, bias_0, ...) for NumPy, `saved_model/` for `tf.saved_model.load(...).serve`."""
        names = self._names()
        served = tf.Module()
        served.weights = [tf.Variable(value, name=name) for name, value in zip(names, weights.trainable, strict=True)]

        @tf.function(
            autograph=False, input_signature=[tf.TensorSpec([None, *self._image_shape], tf.uint8, name="pixels")]
        )
        def serve(pixels: tf.Tensor) -> tf.Tensor:
            held = Weights([tf.convert_to_tensor(variable) for variable in served.weights], [])
            return tf.nn.softmax(self.logits(held, pixels, training=False)[0])

        served.serve = serve
        with tempfile.TemporaryDirectory() as folder:
            np.savez(
                Path(folder, NPZ_FILE),
                allow_pickle=False,
                **dict(zip(names, map(np.asarray, weights.trainable), strict=True)),
            )
            tf.saved_model.save(served, str(Path(folder, "saved_model")), signatures=serve)
            return _read_files(Path(folder))

    def read(self, files: Mapping[str, bytes]) -> Weights:
        names = self._names()
        shapes = dict(zip(names, (tuple(w.shape) for w in self._network.initial_weights(seed=0)), strict=True))
        limits = {name: 4 * int(np.prod(shape)) for name, shape in shapes.items()}
        arrays = read_npz(_require_file(files, NPZ_FILE), NPZ_FILE, limits)
        for name, array in arrays.items():
            if array.shape != shapes[name] or array.dtype != np.float32:
                got = f"{array.dtype} {array.shape}"
                raise IntegrityError(f"{NPZ_FILE}: {name}: expected float32 {shapes[name]}, got {got}")
        return Weights([tf.constant(arrays[name]) for name in names], [])

    def _names(self) -> list[str]:
        return [f"{name}_{i}" for i in range(self._network.depth) for name in ("kernel", "bias")]


def _values_of(network: keras.Sequential) -> Weights:
    return Weights(
        [tf.constant(variable.numpy()) for variable in network.trainable_variables],
        [tf.constant(variable.numpy()) for variable in network.non_trainable_variables],
    )


def _require_file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise IntegrityError(f"expected a file {name}, got {', '.join(sorted(files)) or 'none'}")
    return files[name]


def _read_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
