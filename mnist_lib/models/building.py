"""Building a model from its spec, with a function from this project or from a user's Python file."""

import importlib
import linecache
import math
import sys
import types
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_lib.augment import AUTO, PRESETS, parse_augment
from mnist_lib.catalog import MODELS, entry_of
from mnist_lib.errors import ModelError
from mnist_lib.model_file import ModelFile
from mnist_lib.models.augmentation import Augmentation, AugmentedModel, augmentations_of
from mnist_lib.models.keras_models import KerasModel, own_augmentations, restored_settings
from mnist_lib.models.model import ImageShape, Model
from mnist_lib.models.pretrained import NOTHING, Pretrained
from mnist_lib.models.scratch import ScratchModel
from mnist_lib.objects.protocol import MAX_FILE_BYTES
from mnist_lib.spec import TrialSpec

FORMS = "a keras.Model, a list of Keras layers, or an object with initial_weights and __call__"


def build_model(
    spec: TrialSpec,
    image_shape: ImageShape,
    num_classes: int,
    source: ModelFile | None = None,
    pretrained: Pretrained = NOTHING,
) -> Model:
    """Return the model of a trial.

    Args:
        source: the file that defines the model, unless the model is in the catalog. Its code is run.
        pretrained: has the weights files of which the function gets the paths.

    Raises:
        ModelError: the code of the file fails, or returns something that is not a model.
    """
    model = _plain_model(spec, image_shape, num_classes, source, pretrained)
    augmentations = augmentations_for(spec, image_shape)
    return AugmentedModel(model, augmentations) if augmentations else model


def augmentations_for(spec: TrialSpec, image_shape: ImageShape) -> list[Augmentation]:
    """Return what changes the training images of a trial: what its setting says or, by default, what suits its model.

    That is nothing for the dense networks and for users' models; PRESETS["photos"] for images in colour and for
    networks for photographs; and for grey images what the other networks were chosen with.
    """
    changes = parse_augment(spec.augment)
    if changes is not None:
        return augmentations_of(changes, image_shape)
    entry = entry_of(spec.model)
    if spec.source_sha256 is not None or not entry.suits_pictures:
        return []
    if spec.augment == AUTO and (image_shape[2] > 1 or entry.weights):
        return augmentations_of(PRESETS["photos"], image_shape)
    return own_augmentations(spec.model, image_shape, spec.arguments)


def _plain_model(
    spec: TrialSpec, image_shape: ImageShape, num_classes: int, source: ModelFile | None, pretrained: Pretrained
) -> KerasModel | ScratchModel:
    """Return the model of a trial, whose training images are not changed. See `build_model`."""
    if spec.source_sha256 is None:
        _require_weights(spec.model, 4 * largest_layer(spec, math.prod(image_shape)))
        module, _, name = MODELS[spec.model].build.partition(":")
        function = getattr(importlib.import_module(module), name)

        def build() -> Any:
            with pretrained.paths(spec.weights) as paths:
                return function(image_shape, num_classes, **spec.arguments, **paths)

        built = build()
        if isinstance(built, list):
            return KerasModel(built, build, image_shape, spec.precision)
        return ScratchModel(built, image_shape, spec.precision)
    if source is None:
        raise ModelError(f"{spec.model}: expected the file that defines it, got none")
    source.require_function(spec.model)

    def call() -> Any:
        with restored_settings(), pretrained.paths(spec.weights) as paths:
            return getattr(load_module(source), spec.model)(image_shape, num_classes, **spec.arguments, **paths)

    with source.blamed(spec.model):
        built = call()
        if isinstance(built, keras.Model | list | tuple):
            return KerasModel(_layers_of(built), lambda: _layers_of(call()), image_shape, spec.precision)
        if callable(built) and hasattr(built, "initial_weights"):
            return ScratchModel(built, image_shape, spec.precision)
    raise ModelError(f"{source.place(spec.model)}: expected {FORMS}, got {type(built).__name__}")


def largest_layer(spec: TrialSpec, pixels: int) -> int:
    """Return the number of weights in the largest layer: a dense one on all pixels, or a late convolution.

    It is 0 for a user's model, of which nothing is known.
    """
    if spec.source_sha256 is not None:
        return 0
    return max(pixels * spec.arguments.get("hidden_units", 1), 9 * (4 * spec.arguments.get("width", 1)) ** 2)


def _require_weights(place: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ModelError(
            f"{place}: expected weights of up to {MAX_FILE_BYTES:,} bytes, got {size:,}; use a smaller model"
        )


def load_module(source: ModelFile) -> types.ModuleType:
    """Return the file as a module. It is run only by the first call in this process."""
    name = f"mnist_jobs_model_{source.sha256[:16]}"  # Keras stores this as the module of the file's own layers
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.__file__ = source.traceback_name
        lines = source.content.decode(errors="replace").splitlines(keepends=True)
        linecache.cache[source.traceback_name] = (len(source.content), None, lines, source.traceback_name)
        code = compile(source.content, source.traceback_name, "exec", dont_inherit=True)
        sys.modules[name] = module
        keras.utils.set_random_seed(0)  # initializers that the file creates are the same in all processes
        try:
            with restored_settings():
                exec(code, module.__dict__)  # the caller has checked that the user trusts this file
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _layers_of(built: keras.Model | Sequence[Any]) -> list[keras.Layer]:
    """Return a user's model, or list of layers, as layers that take pixels as whole numbers."""
    model = built if isinstance(built, keras.Model) else keras.Sequential(list(built))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Model) and layer.compiled:
            layer.compiled, layer.optimizer = False, None  # not used here, and would be stored with the weights
    return [keras.layers.Rescaling(1.0), model]  # whole numbers become floats, which most layers expect


def check_model(
    spec: TrialSpec, image_shape: ImageShape, num_classes: int, source: ModelFile, pretrained: Pretrained = NOTHING
) -> None:
    """Do once what a trial does with a user's model. Raises ModelError if that fails or gives no logits."""
    model, place = build_model(spec, image_shape, num_classes, source, pretrained), source.place(spec.model)
    with source.blamed(spec.model):
        weights, again = model.initial_weights(spec.seed), model.initial_weights(spec.seed)
        _require_weights(place, sum(4 * math.prod(weight.shape) for weight in weights.trainable))
        images = tf.cast(tf.random.stateless_uniform((2, *image_shape), [0, 0], 0, 256, tf.int32), tf.uint8)
        _, logits = model.features(weights, images)
        got = (str(getattr(logits, "dtype", type(logits).__name__)), tuple(getattr(logits, "shape", ())))
        if got != ("<dtype: 'float32'>", (2, num_classes)):
            expected = f"logits of the shape (batch, {num_classes}) and the type float32"
            raise ModelError(f"{place}: expected {expected}, got {got[1] or ''} {got[0]}".replace("  ", " "))
        if any(weight.dtype != tf.float32 for weight in weights.trainable):
            raise ModelError(f"{place}: expected weights of the type float32, got another type")
        if np.allclose(tf.reduce_sum(logits, axis=1), 1, atol=1e-3) and np.min(logits) >= 0:
            raise ModelError(f"{place}: expected logits of the {num_classes} classes, got a softmax; leave it out")
        if weights.sha256() != again.sha256():
            raise ModelError(f"{place}: expected the same initial weights for the same seed, got different ones")
        train = tf.function(model.train_logits, autograph=False)
        state = train(weights, images, tf.constant(0))[1]
        model.train_logits(weights._replace(state=state), images, tf.constant(0))
        files = model.files(weights)
        model.read(files)
    if not spec.weights:
        return
    arguments = ", ".join(spec.weights)
    try:
        stored = build_model(spec, image_shape, num_classes, source, Pretrained.of_version(spec.weights))
        with source.blamed(spec.model):
            again = stored.logits(stored.read(files), images)
    except ModelError as error:
        raise ModelError(
            f"{error}; expected a network that is built without weights files, too, as from the storage, with None for"
            f" {arguments}: see docs/fine-tune.md"
        ) from error
    if not np.array_equal(again, logits, equal_nan=True):
        raise ModelError(
            f"{place}: expected a network whose variables have all numbers that it takes from its weights files, since"
            f" a stored version has no others, got other predictions with None for {arguments}"
        )
