"""Export a stored version to a format that runs without this project: raw pixels in, probabilities out.

Each file is run by the runtime of its format before it gets its final name. The packages of the extra `export` are
imported only by the functions that need them.
"""

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.errors import IntegrityError
from mnist_lib.export.loading import MAX_ROUNDING, LoadedModel, Predict, predictor
from mnist_lib.models.model import serving_module
from mnist_lib.objects.output_file import atomic_output, require_absent

PIXELS, PROBABILITIES = "pixels", "probabilities"  # the names of the input, as in `serving_module`, and the output


@dataclass(frozen=True)
class Exported:
    path: str
    bytes: int
    tried: int  # number of images; the file and the stored version predict the same class for each
    max_difference: float  # of a probability, between the file and the stored version


def export(stored: LoadedModel, form: str, target: Path, images: NDArray[np.uint8]) -> Exported:
    """Write a stored version in another format, if the result predicts the same.

    Args:
        form: one of `catalog.EXPORT_FORMATS`.
        target: a path that does not exist; it becomes a folder for saved_model, a file for the others.
        images: [n, height, width, channels] uint8, 0-255, on which the predictions are compared.

    Raises:
        IntegrityError: the exported model predicts differently from the stored version; the export is deleted.
        SpecError, OutputError: the target exists, or cannot be written.
    """
    write, run = WRITERS[form]
    expected = predictor(stored)(images)
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
