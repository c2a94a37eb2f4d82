"""A stored version as a model that predicts: the architecture is built from this project's code, from the store come
numbers only.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.split import Split
from mnist_lib.errors import IntegrityError, MnistError
from mnist_lib.models.keras_models import KERAS_FILE
from mnist_lib.models.model import ImageShape, Model, Weights, build_model
from mnist_lib.models.scratch import SGD
from mnist_lib.results import Accuracy
from mnist_lib.spec import Resources, TrialSpec
from mnist_lib.store.contents import Predictions, StoredModel
from mnist_lib.store.objects import Objects
from mnist_lib.store.versions import Version, read_file
from mnist_lib.training.loop import EVALUATION_BATCH_SIZE, Trainer, accuracy_of
from mnist_lib.training.strategy import mirrored_strategy

SAME_PROBABILITY = 1e-3  # other machines and libraries round otherwise; other weights are further apart

MODEST = 64 << 20  # bytes that may be taken without having seen them stored

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # [n, height, width, 1], 0-255 -> [n, classes]


@dataclass(frozen=True)
class LoadedModel:
    model: Model
    weights: Weights
    image_shape: ImageShape


def load(objects: Objects, version: Version) -> Predict:
    """Nothing of what is stored is run.

    Raises:
        IntegrityError: a file is not what was committed; or it was committed, but is not of that model.
    """
    return predictor(build(StoredModel.of(objects, version)))


def predictor(loaded: LoadedModel) -> Predict:
    """Predicts as it was measured after training."""
    trainer = Trainer(loaded.model, SGD(), mirrored_strategy(Resources()))
    return lambda images: trainer.probabilities(loaded.weights, images)


def build(stored: StoredModel) -> LoadedModel:
    """Raises IntegrityError for what is not of the model that its manifest names."""
    manifest, files = stored.manifest, stored.files
    try:
        spec = TrialSpec(**manifest["spec"])
        height, width, channels = map(int, manifest["dataset"]["image_shape"])
        # Before it is built: none has a larger layer than a dense one on the pixels, whose weights are in a file.
        largest, size = 4 * height * width * channels * spec.hidden_units, sum(map(len, files.values()))
        if not 0 < largest <= max(4 * size, MODEST):
            raise IntegrityError(f"expected files as large as its largest layer, {largest:,} bytes, got {size:,}")
        image_shape = (height, width, channels)
        model = build_model(spec, image_shape)
        weights = model.read(files)
        expected, got = manifest["weights_sha256"], model.stored(weights).sha256()
    except (MnistError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise IntegrityError(f"{stored.name}: {error}") from error
    if got != expected:
        raise IntegrityError(f"{stored.name}: expected weights with sha256 {expected}, got {got}")
    return LoadedModel(model, weights, image_shape)


def load_trusted(objects: Objects, version: Version) -> Predict:
    """The stored file itself, as those will run it who do not have this project. It can do whatever it likes.

    Raises:
        IntegrityError: a file is not what was committed.
    """
    files = {name: read_file(objects, version, name) for name in version.files}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if KERAS_FILE in files:
            model = keras.saving.load_model(Path(folder, KERAS_FILE))
            return lambda images: np.asarray(model.predict(images, batch_size=EVALUATION_BATCH_SIZE, verbose=0))
        served = tf.saved_model.load(str(Path(folder, "saved_model")))
        return lambda images: np.concatenate(
            [served.serve(part).numpy() for part in np.array_split(images, -(-len(images) // EVALUATION_BATCH_SIZE))]
        )


@dataclass(frozen=True)
class Evaluation:
    """Of a version, on the images that it was tested on."""

    test: Accuracy
    matching: int  # images whose answer is the stored one
    max_difference: float  # of a probability from the stored one

    @property
    def reproduced(self) -> bool:
        return self.max_difference <= SAME_PROBABILITY


def compare_with_stored(stored: Predictions, predict: Predict, test: Split) -> Evaluation:
    """Predicts the test split again, beside what the version stored.

    Raises:
        IntegrityError: what it stored is not of these images.
    """
    if not np.array_equal(stored.labels, test.labels):
        raise IntegrityError(f"{stored.name}: predictions.npz: expected the labels of the test split")
    probabilities = predict(test.images)
    return Evaluation(
        accuracy_of(probabilities, test.labels),
        int((probabilities.argmax(axis=1) == stored.answers).sum()),
        float(np.abs(probabilities - stored.probabilities).max()),
    )
