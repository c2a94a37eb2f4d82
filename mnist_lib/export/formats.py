"""A stored version in a format of those who deploy it, without this project: raw pixels in, probabilities out.

What was written is run by that format's own runtime before it has its name. The packages of the extra `export` are
imported where they are needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.errors import IntegrityError
from mnist_lib.export.loading import SAME_PROBABILITY, LoadedModel, Predict, predictor
from mnist_lib.models.model import Weights
from mnist_lib.store.local import require_free, whole_at

# Names of what every exported model takes and gives.
PIXELS, PROBABILITIES = "pixels", "probabilities"


@dataclass(frozen=True)
class Exported:
    path: str
    bytes: int
    tried: int  # images, whose classes are all those of the stored version
    max_difference: float  # of a probability from the stored version's


def export(stored: LoadedModel, form: str, target: Path, images: NDArray[np.uint8]) -> Exported:
    """
    Args:
        form: of `catalog.FORMATS`.
        target: there is nothing yet; a folder for saved_model, a file for the others.
        images: [n, height, width, 1] uint8, 0-255, to try what was written.

    Raises:
        IntegrityError: what was written answers otherwise than the stored version; it is gone.
        SpecError: there is something at `target`.
        StoreError: it cannot be written.
    """
    write, run = WRITERS[form]
    expected = predictor(stored)(images)
    with whole_at(target) as written:
        write(_served(stored), written)
        try:
            got = run(written)(images)
        except Exception as error:  # of whatever kind the runtime has
            raise IntegrityError(f"{target}: its own runtime refuses it: {error}; please report this") from error
        differing = int((got.argmax(axis=1) != expected.argmax(axis=1)).sum())
        most = float(np.abs(got - expected).max())
        if differing or not most <= SAME_PROBABILITY:
            raise IntegrityError(
                f"{target}: expected the answers of the stored version, got others to {differing} of {len(images)}"
                f" images, probabilities up to {most:.0e} apart; it was removed, please report this"
            )
        size = sum(path.stat().st_size for path in [written, *written.rglob("*")] if path.is_file())
        require_free(target)
    return Exported(str(target), size, len(images), most)


def _served(stored: LoadedModel) -> tf.Module:
    """`serve`: pixels [n, height, width, 1] uint8, 0-255 -> {"probabilities": [n, classes] float32}"""
    served = tf.Module()
    served.trainable, served.state = (list(map(tf.Variable, part)) for part in stored.weights)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, *stored.image_shape], tf.uint8, name=PIXELS)])
    def serve(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        weights = Weights(*(list(map(tf.convert_to_tensor, part)) for part in (served.trainable, served.state)))
        return {PROBABILITIES: tf.nn.softmax(stored.model.logits(weights, pixels, training=False)[0])}

    served.serve = serve
    return served


def _write_saved_model(served: tf.Module, to: Path) -> None:
    try:
        tf.saved_model.save(served, str(to), signatures=served.serve)
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def _run_saved_model(path: Path) -> Predict:
    loaded = tf.saved_model.load(str(path))  # without it, its functions have no variables
    return lambda images: np.asarray(loaded.serve(images)[PROBABILITIES])


def _write_litert(served: tf.Module, to: Path) -> None:
    concrete = served.serve.get_concrete_function()
    to.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], served).convert())


def _run_litert(path: Path) -> Predict:
    from ai_edge_litert.interpreter import Interpreter

    serve = Interpreter(str(path)).get_signature_runner("serving_default")
    return lambda images: np.asarray(serve(**{PIXELS: images})[PROBABILITIES])


def _write_onnx(served: tf.Module, to: Path) -> None:
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(served.serve, input_signature=served.serve.input_signature)
    to.write_bytes(model.SerializeToString())


def _run_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run([PROBABILITIES], {PIXELS: images})[0])


WRITERS: dict[str, tuple[Callable[[tf.Module, Path], None], Callable[[Path], Predict]]] = {
    "saved_model": (_write_saved_model, _run_saved_model),
    "litert": (_write_litert, _run_litert),
    "onnx": (_write_onnx, _run_onnx),
}
