"""Building a model from its spec, with a function of this project or of a Python file of the user's."""

import functools
import importlib
import linecache
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mnist_lib.catalog import MODELS
from mnist_lib.errors import ModelError
from mnist_lib.model_file import ModelFile
from mnist_lib.models.keras_models import KerasModel
from mnist_lib.models.model import ImageShape, Model
from mnist_lib.models.scratch import ScratchModel
from mnist_lib.spec import TrialSpec

FORMS = "a keras.Model, a list of Keras layers, or an object with initial_weights and __call__"


def build_model(spec: TrialSpec, image_shape: ImageShape, num_classes: int, source: ModelFile | None = None) -> Model:
    """Return the model of a trial.

    Args:
        source: the file that defines the model, unless the model is in the catalog. Its code is run.

    Raises:
        ModelError: the code of the file fails, or returns something that is no model of these images and classes.
    """
    if spec.source_sha256 is None:
        module, _, name = MODELS[spec.model].build.partition(":")
        function = getattr(importlib.import_module(module), name)
        return _model_of(functools.partial(function, image_shape, num_classes, **spec.arguments), spec, image_shape)
    assert source is not None
    with source.blamed(spec.model):
        function = getattr(load_module(source), spec.model)
        build = functools.partial(function, image_shape, num_classes, **spec.arguments)
        _require_model(build(), source, spec.model, num_classes)
        return _model_of(build, spec, image_shape)


def load_module(source: ModelFile) -> types.ModuleType:
    """Return the file as a module, after running it once in this process."""
    name = f"mnist_jobs_model_{source.sha256[:16]}"  # the module of the file's own layers, in what Keras stores
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.__file__ = source.file
        lines = source.content.decode(errors="replace").splitlines(keepends=True)
        linecache.cache[source.file] = (len(source.content), None, lines, source.file)  # for tracebacks
        code = compile(source.content, source.file, "exec", dont_inherit=True)
        sys.modules[name] = module
        try:
            exec(code, module.__dict__)  # what a file of the user's is for
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _model_of(build: Callable[[], Any], spec: TrialSpec, image_shape: ImageShape) -> Model:
    made = build()
    if spec.source_sha256 is None and isinstance(made, list):
        return KerasModel(build, image_shape, spec.precision)
    if isinstance(made, keras.Model | list | tuple):
        return KerasModel(lambda: _layers_of(build()), image_shape, spec.precision)
    return ScratchModel(made, image_shape, spec.precision)


def _layers_of(made: keras.Model | Sequence[Any]) -> list[keras.Layer]:
    """Return a model, or a list of layers, as layers that take pixels as whole numbers."""
    model = made if isinstance(made, keras.Model) else keras.Sequential(list(made))
    return [keras.layers.Rescaling(1.0), model]


def _require_model(made: Any, source: ModelFile, function: str, num_classes: int) -> None:
    """Raise ModelError if what a function of the user's returned is not a model that ends in logits."""
    place = source.place(function)
    if isinstance(made, list | tuple) and made and all(isinstance(layer, keras.Layer) for layer in made[1:]):
        last = made[-1]
    elif isinstance(made, keras.Model):
        last = made.layers[-1] if made.layers else None
    elif callable(made) and hasattr(made, "initial_weights"):
        return
    else:
        raise ModelError(f"{place}: expected {FORMS}, got {type(made).__name__}")
    if isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) is keras.activations.softmax:
        raise ModelError(f"{place}: expected logits of the {num_classes} classes, got a softmax; leave it out")


def check_model(spec: TrialSpec, image_shape: ImageShape, num_classes: int, source: ModelFile) -> None:
    """Build a model of the user's and call it once. Raises ModelError if that fails, or gives no logits."""
    model = build_model(spec, image_shape, num_classes, source)
    with source.blamed(spec.model):
        weights, images = model.initial_weights(spec.seed), tf.zeros((2, *image_shape), tf.uint8)
        logits = model.logits(weights, images)
        shape = tuple(getattr(logits, "shape", ()))
        if shape != (2, num_classes):
            expected = f"logits of the shape (batch, {num_classes}), one for each class"
            raise ModelError(f"{source.place(spec.model)}: expected {expected}, got {shape or type(logits).__name__}")
        model.train_logits(weights, images, tf.constant(0))
