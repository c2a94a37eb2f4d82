"""What a model is: a function (spec, image shape) -> `Model`, named in `catalog.MODELS`.

A model takes raw pixels: the scaling to [0, 1] is part of it, so that whoever loads a stored one cannot forget it.
"""

import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from mnist_lib.catalog import MODELS
from mnist_lib.errors import IntegrityError
from mnist_lib.spec import TrialSpec

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


def require_file(files: Mapping[str, bytes], name: str) -> bytes:
    """Raises IntegrityError when it is not among them."""
    if name not in files:
        raise IntegrityError(f"expected a file {name}, got {', '.join(sorted(files)) or 'none'}")
    return files[name]


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file below, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
