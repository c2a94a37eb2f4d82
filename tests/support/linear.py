"""A linear model with fixed weights, which a process loads in no time: most tests of a review need no TensorFlow."""

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from mnist_lib.errors import IntegrityError
from mnist_lib.objects.protocol import Objects
from mnist_lib.pictures.likeness import Answers
from mnist_lib.spec import TrialSpec
from mnist_lib.store.contents import StoredModel
from mnist_lib.store.publishing import publish
from tests.support.store.fake_versions import DATASET, about, small_manifest

# A prelude for `tests.support.job.DRIVER`: the command predicts with this model.
LINEAR = """
from jobs.review.model_process import ModelProcess
from tests.support.linear import load_linear
ModelProcess.__init__.__defaults__ = (load_linear,)
"""
CONTENT = b"linear"


def publish_linear(objects: Objects, **more: bytes) -> None:
    """Publish keras@1, a version that only `load_linear` can load. `more`: further files"""
    dataset = {**DATASET, "name": "mnist-mini"}
    manifest = small_manifest(spec=asdict(TrialSpec.of("keras")), dataset=dataset)
    files = {"model.keras": CONTENT, "manifest.json": json.dumps(manifest).encode(), **more}
    publish(objects, "keras", "r", files, {**about(), "dataset": dataset})


def load_linear(stored: StoredModel) -> Callable[[NDArray[np.uint8]], Answers]:
    """Return a function that predicts images, [n, 28, 28, 1]; a black one is like no class.

    Raises IntegrityError for another file.
    """
    if stored.files["model.keras"] != CONTENT:
        raise IntegrityError(f"{stored.name}: expected the linear model, got another")
    weights = np.random.default_rng(0).normal(0, 0.1, (28 * 28, 10)).astype(np.float32)

    def predict(images: NDArray[np.uint8]) -> Answers:
        exponentials = np.exp(images.reshape(len(images), -1) / np.float32(255) @ weights)
        likeness = np.where(images.any(axis=(1, 2, 3)), 1.0, 0.01)
        return Answers(exponentials / exponentials.sum(axis=1, keepdims=True), likeness)

    return predict
