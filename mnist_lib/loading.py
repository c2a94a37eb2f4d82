"""Load a stored version as a model that predicts, and export it to formats that run without this project.

The architecture is built from this project's code; only numbers come from the store, so that no stored code is run. The
packages of the extra `export` are imported only by the functions that need them.
"""

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.images import ImageArray, Images
from mnist_lib.data.made_up import SURFACES, is_blank
from mnist_lib.data.table import Table
from mnist_lib.documents import reading
from mnist_lib.errors import IntegrityError, ModelError, SpecError
from mnist_lib.models.building import build_model
from mnist_lib.models.model import ImageShape, Model, Weights, serving_module
from mnist_lib.models.pretrained import Pretrained
from mnist_lib.objects.output_file import atomic_output, require_absent
from mnist_lib.pictures.likeness import TINY, Answers, Likeness
from mnist_lib.results import Accuracy
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.predictions import Predictions
from mnist_lib.training.assignment import Resources
from mnist_lib.training.prediction import Predictor, accuracy_of
from mnist_lib.training.strategy import mirrored_strategy
from mnist_lib.wording import one_line

MAX_ROUNDING = 1e-3  # difference of a probability: rounding causes less, different weights cause more
PIXELS, PROBABILITIES = "pixels", "probabilities"  # of an export: its input, as in `serving_module`, and its output

Predict = Callable[[Any], NDArray[np.float32]]  # an `ImageArray`, or for an exported file an array -> [n, classes]


@dataclass(frozen=True)
class LoadedModel:
    model: Model
    weights: Weights
    image_shape: ImageShape
    classes: tuple[str, ...]
    likeness: Likeness | None = None
    rejects_blank: bool = False  # whether a picture of one colour shows none of the classes


class StoredPredictor:
    """A loaded model that predicts like the evaluation after training. It is a `Predict`."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded, self._predictor = loaded, Predictor(loaded.model, mirrored_strategy(Resources()))

    def __call__(self, images: ImageArray) -> NDArray[np.float32]:
        return self.answers(images).probabilities

    def answers(self, images: ImageArray) -> Answers:
        """Return the probabilities and the likeness of images. Raises the errors of `check_images`."""
        check_images(images, self._loaded.image_shape)
        if not len(images):
            return Answers(np.empty((0, len(self._loaded.classes)), np.float32), np.empty(0))
        likeness, parts = self._loaded.likeness, []
        for probabilities, features, logits in self._predictor.predict(self._loaded.weights, images):
            judged = np.ones(len(logits)) if likeness is None else likeness.likeness(features, logits)
            parts.append(Answers(probabilities, judged))
        answers = Answers(*map(np.concatenate, zip(*parts, strict=True)))
        if self._loaded.rejects_blank:
            answers.likeness[is_blank(images)] = TINY  # not 0: a `reject_share` of 0 rejects nothing
        return answers


def check_images(images: Any, image_shape: ImageShape) -> None:
    """Check the type and shape of images, because the model would also give an answer for wrong ones.

    Raises:
        SpecError: the images are not uint8 [n, *image_shape], as a NumPy array or as those of a dataset.
    """
    dtype = getattr(images, "dtype", type(images).__name__)
    shape = tuple(getattr(images, "shape", ()))
    if isinstance(images, np.ndarray | Images) and dtype == np.uint8 and len(shape) == 4 and shape[1:] == image_shape:
        return
    sides = ", ".join(map(str, image_shape))
    advice = "resize them, and convert numbers from 0 to 1 by (images * 255).round().astype('uint8')"
    raise SpecError(f"expected images as uint8 [n, {sides}] pixels 0-255, got {dtype} {list(shape)}; {advice}")


def build(stored: StoredModel) -> LoadedModel:
    """Return the model that the manifest describes, with the stored weights.

    Raises:
        IntegrityError: the files are damaged, or are those of another model.
        ModelError: the code of a user's model fails.
    """
    spec = stored.manifest.spec
    image_shape = stored.manifest.dataset.image_shape
    classes = stored.manifest.dataset.classes
    with reading(stored.name, "the files of its model"):
        try:
            pretrained = Pretrained.of_version(spec.weights, stored.files)
            model = build_model(spec, image_shape, len(classes), stored.source, pretrained)
            weights = model.read(stored.files)
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            raise ModelError(f"{stored.name}: expected a model that fits into memory: {one_line(error)}") from error
    likeness = stored.likeness()
    rejects_blank = likeness is not None and spec.none_class and SURFACES in stored.manifest.dataset.made_up
    return LoadedModel(model, weights, image_shape, classes, likeness, rejects_blank)


@dataclass(frozen=True)
class Evaluation:
    """New predictions of a version for the test split, compared with its stored predictions."""

    test: Accuracy
    matching: int  # images for which the predicted class is the stored one
    max_difference: float  # of a probability, between the new and the stored predictions

    @property
    def reproduced(self) -> bool:
        return self.max_difference <= MAX_ROUNDING


def compare_with_stored(stored: Predictions, predict: Predict, test: Table) -> Evaluation:
    """Predict the test split again and compare. Raises IntegrityError if the two cannot be compared."""
    probabilities = predict(test.images)
    with reading(stored.name, "a model with predictions as they are stored"):
        matching = int((probabilities.argmax(axis=1) == stored.answers).sum())
        max_difference = float(np.abs(probabilities - stored.probabilities).max())
        return Evaluation(accuracy_of(probabilities, test.labels), matching, max_difference)


@dataclass(frozen=True)
class Exported:
    path: str
    bytes: int
    tried: int  # number of images; the file and the stored version predict the same class for each
    max_difference: float  # of a probability, between the file and the stored version


def export(stored: LoadedModel, form: str, target: Path, images: ImageArray) -> Exported:
    """Write a stored version in another format: raw pixels in, probabilities out.

    The runtime of the format runs the file before it gets its final name, and it must predict the same.

    Args:
        form: one of `catalog.EXPORT_FORMATS`.
        target: a path that does not exist; it becomes a folder for saved_model, a file for the others.
        images: [n, height, width, channels] uint8, 0-255, on which the predictions are compared.

    Raises:
        IntegrityError: the exported model predicts differently from the stored version; the export is deleted.
        SpecError, OutputError: the target exists, or cannot be written.
    """
    write, run = WRITERS[form]
    images = np.asarray(images)
    expected = StoredPredictor(stored)(images)
    with atomic_output(target) as written:
        write(serving_module(stored.model, stored.weights, stored.image_shape, PROBABILITIES), written, stored.classes)
        try:
            got = run(written)(images)
        except Exception as error:  # each runtime raises its own exceptions
            raise IntegrityError(f"{target}: its own runtime cannot run it: {error}; please report this") from error
        differing = int((got.argmax(axis=1) != expected.argmax(axis=1)).sum())
        max_difference = float(np.abs(got - expected).max())
        if differing or not max_difference <= MAX_ROUNDING:
            raise IntegrityError(
                f"{target}: expected the predictions of the stored version, got another class for {differing} of"
                f" {len(images)} images, with probabilities up to {max_difference:.0e} apart; the export was deleted,"
                " please report this"
            )
        size = sum(path.stat().st_size for path in [written, *written.rglob("*")] if path.is_file())
        require_absent(target)
    return Exported(str(target), size, len(images), max_difference)


def _write_saved_model(module: tf.Module, path: Path, classes: Sequence[str]) -> None:
    """Write a SavedModel, whose function `classes` returns the names of the classes."""
    module.classes = tf.function(lambda: tf.constant(classes), input_signature=[], autograph=False)
    try:
        tf.saved_model.save(module, str(path), signatures=module.serve)
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def _run_saved_model(path: Path) -> Predict:
    loaded = tf.saved_model.load(str(path))  # the returned function must refer to it, or its variables are deleted
    return lambda images: np.asarray(loaded.serve(images)[PROBABILITIES])


def _write_litert(module: tf.Module, path: Path, classes: Sequence[str]) -> None:
    """Write a LiteRT file. Its `labels.txt`, attached as LiteRT attaches metadata, has the names of the classes."""
    concrete = module.serve.get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert())
    with zipfile.ZipFile(path, "a") as attached:
        attached.writestr(zipfile.ZipInfo("labels.txt"), "\n".join(classes))


def _run_litert(path: Path) -> Predict:
    from ai_edge_litert.interpreter import Interpreter

    serve = Interpreter(str(path)).get_signature_runner("serving_default")
    return lambda images: np.asarray(serve(**{PIXELS: images})[PROBABILITIES])


def _write_onnx(module: tf.Module, path: Path, classes: Sequence[str]) -> None:
    """Write an ONNX file with the names of the classes as JSON in its metadata."""
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(module.serve, input_signature=module.serve.input_signature)
    model.metadata_props.add(key="classes", value=json.dumps(classes))
    path.write_bytes(model.SerializeToString())


def _run_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run([PROBABILITIES], {PIXELS: images})[0])


WRITERS: dict[str, tuple[Callable[[tf.Module, Path, Sequence[str]], None], Callable[[Path], Predict]]] = {
    "saved_model": (_write_saved_model, _run_saved_model),
    "litert": (_write_litert, _run_litert),
    "onnx": (_write_onnx, _run_onnx),
}
