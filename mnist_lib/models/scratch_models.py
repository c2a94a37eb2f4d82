"""Models from scratch: the layers of `scratch` behind the scaling of pixels."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from mnist_lib.archives import read_npz
from mnist_lib.catalog import NUM_CLASSES
from mnist_lib.errors import IntegrityError
from mnist_lib.models import scratch
from mnist_lib.models.model import ImageShape, Model, Tensors, Weights, read_files, require_file
from mnist_lib.spec import TrialSpec

NPZ_FILE = "weights.npz"


def scratch_dense(spec: TrialSpec, image_shape: ImageShape) -> Model:
    """The same network from scratch, with the notebook's own start."""
    height, width, channels = image_shape
    pixels = height * width * channels
    layers = [scratch.Dense(pixels, spec.hidden_units, tf.nn.relu), scratch.Dense(spec.hidden_units, NUM_CLASSES)]
    return ScratchModel(scratch.Sequential(layers), image_shape, spec.precision)


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
        return [f"{name}_{i}" for i in range(self._network.depth) for name in ("kernel", "bias")]
