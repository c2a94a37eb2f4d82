"""Small versions for tests: a fake model, and predictions of which a given number is right."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import numpy as np

from mnist_lib.objects.archives import npz
from mnist_lib.spec import TrialSpec
from tests.support.store.summaries import successful_trial

LABELS = np.arange(200, dtype=np.uint8) % 10
IMAGE_HASHES = np.arange(2 * len(LABELS), dtype=np.uint64).reshape(-1, 2)
DATASET = {
    **{"name": "mnist", "version": "3.0.1", "fingerprint": "f", "test": len(LABELS)},
    **{"image_shape": [28, 28, 1], "classes": [*"0123456789"]},
}


def small_manifest(spec: Mapping[str, Any] = MappingProxyType({}), **fields: Any) -> dict[str, Any]:
    """Return a manifest with these fields; without them it is that of a version that was never trained.

    Args:
        spec: fields of the trial that differ from those of `keras`.
    """
    code, versions = {"sha256": "0" * 64}, {"keras": "3"}
    trial = {**asdict(TrialSpec.of("keras")), **spec}
    record = successful_trial(0, weights_sha256="0" * 64, devices=["CPU:0"], versions=versions) | {"spec": trial}
    made = {"schema": 2, "dataset": DATASET, "code": code, "record": record, "history": []}
    return {**made, **fields}


def about(fingerprint: str = "f", *, right: int = 0) -> dict[str, Any]:
    """Return the `about` of a commit record; `right`: the number of correct answers that it claims."""
    return {
        "trial": "keras-s0",
        "weights_sha256": "0" * 64,
        "dataset": {**DATASET, "fingerprint": fingerprint},
        "test": {"correct": right, "total": len(LABELS)},
    }


def files(right: int, *, finite: bool = True, images: int = 200) -> dict[str, bytes]:
    """Return the files of a version that answers the first `right` of the images correctly."""
    labels = LABELS[:images]
    answers = np.where(np.arange(images) < right, labels, (labels + 1) % 10)
    probabilities = np.eye(10, dtype=np.float32)[answers]
    if not finite:
        probabilities[0, 0] = np.nan
    predictions = {
        "probabilities": probabilities,
        "predictions": answers.astype(np.uint8),
        "labels": labels,
        "hashes": IMAGE_HASHES[:images],
    }
    manifest = small_manifest(spec={"model": "keras", "seed": right, "epochs": 5})
    return {
        "model.keras": f"model {right}".encode(),
        "predictions.npz": npz(predictions),
        "manifest.json": json.dumps(manifest).encode(),
    }
