"""Build a model from its spec, with a function from this project or from a user's Python file.

If a trial starts from the weights of a stored version, only numbers are read from it, and none of its code is run.
"""

import importlib
import linecache
import math
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mnist_lib.augment import AUTO, PRESETS, parse_augment
from mnist_lib.catalog import MODELS, entry_of
from mnist_lib.documents import reading
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.model_file import ModelFile
from mnist_lib.models.augmentation import Augmentation, AugmentedModel, augmentations_of
from mnist_lib.models.keras_models import KerasModel, own_augmentations, restored_settings
from mnist_lib.models.model import ImageShape, Model, Tensors, Weights
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
        pretrained: the weights files whose paths the function gets.

    Raises:
        ModelError: the code of the file fails, or returns something that is not a model.
    """
    model = _plain_model(spec, image_shape, num_classes, source, pretrained)
    augmentations = augmentations_for(spec, image_shape)
    return AugmentedModel(model, augmentations) if augmentations else model


def augmentations_for(spec: TrialSpec, image_shape: ImageShape) -> list[Augmentation]:
    """Return the changes to the training images of a trial: those of its setting or, by default, those for its model.

    The default is no change for the dense networks and for users' models; PRESETS["photos"] for images in colour and
    for networks for photographs; and for grey images, the other networks' own changes.
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
    """Return the model of a trial, without changes to training images. See `build_model`."""
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
            layer.compiled = False
            layer.optimizer = None  # not used here, and would be stored with the weights
    return [keras.layers.Rescaling(1.0), model]  # whole numbers become floats, which most layers expect


def check_model(
    spec: TrialSpec, image_shape: ImageShape, num_classes: int, source: ModelFile, pretrained: Pretrained = NOTHING
) -> None:
    """Do once what a trial does with a user's model. Raises ModelError if that fails or gives no logits."""
    model = build_model(spec, image_shape, num_classes, source, pretrained)
    place = source.place(spec.model)
    with source.blamed(spec.model):
        weights = model.initial_weights(spec.seed)
        again = model.initial_weights(spec.seed)
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
            f"{error}; expected a function that also builds the network with None for {arguments}, as it does when a"
            " stored version is read: see docs/fine-tune.md"
        ) from error
    if not np.array_equal(again, logits, equal_nan=True):
        raise ModelError(
            f"{place}: expected a network that copies all numbers of its weights files into variables, since only"
            f" variables are stored, got other predictions with None for {arguments}"
        )


class WarmStart(NamedTuple):
    initial_weights: Callable[[int], Weights]  # takes a seed
    notice: str  # what is not taken from the version; "" if everything is


def warm_start(
    model: Model,
    spec: TrialSpec,
    image_shape: ImageShape,
    classes: tuple[str, ...],
    source: ModelFile | None = None,
    pretrained: Pretrained = NOTHING,
) -> WarmStart:
    """Return how a trial starts: from the weights of a stored version, or from the initial weights of its model.

    If the classes differ, the weights of the last layer, whose shapes depend on the number of classes, are drawn. So
    are values that are not floating-point numbers, such as the state of a random generator.

    Args:
        model: the model of the trial, built with the current code.
        image_shape, classes, source, pretrained: those that it was built with.

    Raises:
        ModelError: a weight of the version does not fit into the model.
    """
    if spec.init_sha256 is None:
        return WarmStart(model.initial_weights, "")
    stored = pretrained.versions[spec.init_sha256]
    try:
        with reading(stored.name, "the files of its model"):
            weights = build_model(spec, stored.image_shape, len(stored.classes), source, pretrained).read(stored.files)
    except IntegrityError as error:
        raise ModelError(
            f"{spec.model}: expected a model with the weights of {stored.name}, from which it starts, got another:"
            f" {error}; use the same code and arguments, or leave out --init-from"
        ) from error
    drawn = model.initial_weights(spec.seed)
    kinds = (drawn.trainable, weights.trainable), (drawn.state, weights.state)
    taken = [[value.dtype.is_floating for value in ours] for ours, _ in kinds]
    notice = ""
    if stored.classes != classes:
        wider = build_model(spec, image_shape, len(classes) + 1, source, pretrained).initial_weights(spec.seed)
        for take, ours, others in zip(taken, drawn, wider, strict=True):
            take[:] = [each and one.shape == other.shape for each, one, other in zip(take, ours, others, strict=True)]
        notice = (
            f"all weights of {spec.model} but those of the last layer are from {stored.name}, since the classes differ"
        )
    for take, (ours, theirs) in zip(taken, kinds, strict=True):
        _require_fit(f"{spec.model}: {stored.name}", take, ours, theirs)

    def initial_weights(seed: int) -> Weights:
        rows = zip(taken, model.initial_weights(seed), weights, strict=True)
        return Weights(*([b if take else a for take, a, b in zip(*row, strict=True)] for row in rows))

    return WarmStart(initial_weights, notice)


def _require_fit(where: str, taken: list[bool], ours: Tensors, theirs: Tensors) -> None:
    """Raise ModelError for the first weight to be taken that differs in shape or type."""
    if len(ours) != len(theirs):
        raise ModelError(f"{where}: expected {len(ours)} weights, got {len(theirs)}; leave out --init-from")
    for number, (take, one, other) in enumerate(zip(taken, ours, theirs, strict=True), start=1):
        if take and (one.shape, one.dtype) != (other.shape, other.dtype):
            expected, got = (f"{each.dtype.name} {np.shape(each)}" for each in (one, other))
            raise ModelError(
                f"{where}: weight {number}: expected {expected}, got {got}; use images of the same shape, or leave out"
                " --init-from"
            )
