"""Versions with chosen answers to chosen images: of another dataset, after a correction, with an added class."""

import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnist_lib.objects.archives import npz
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.publishing import publish
from mnist_lib.store.versions import Version
from tests.support.store.fake_versions import small_manifest

TEN = tuple("0123456789")


def answering(
    objects: Objects,
    right: Sequence[bool] | np.ndarray[Any, Any],
    *,
    dataset: str = "digits",
    images: Sequence[int] | None = None,
    labels: Sequence[int] | np.ndarray[Any, Any] | None = None,
    classes: tuple[str, ...] = TEN,
    run: str | None = None,
    model: str = "keras",
    init_from: str | None = None,
    side: int = 28,
    groups: Sequence[int] | None = None,
) -> Version:
    """Publish a version that answers each image right or with the next class.

    Args:
        images: numbers that stand for the images; their hashes are made from them. Default: 0, 1, ...
        labels: of the images; default: number of the image modulo the number of classes.
        side: of the images, in pixels.
        groups: the number of the group of each image; by default there are none.
    """
    numbers = np.arange(len(right)) if images is None else np.asarray(images)
    known = numbers % len(classes) if labels is None else np.asarray(labels)
    answers = np.where(right, known, (known + 1) % len(classes))
    one_of = np.eye(len(classes))
    predictions = {
        "probabilities": (0.6 * one_of[answers] + 0.4 * one_of[known]).astype(
            np.float32
        ),  # the right one is likely, too
        "predictions": answers.astype(np.uint8),
        "labels": known.astype(np.uint8),
        "hashes": np.stack([numbers, numbers + 1], axis=1).astype(np.uint64),
    }
    if groups is not None:
        predictions["groups"] = np.array(groups, np.int32)
    crc = zlib.crc32(np.stack([numbers, known]).tobytes())
    facts = {
        **{
            "name": dataset,
            "version": "1",
            "fingerprint": f"{dataset}{crc:x}",
            "test": len(right),
        },
        **{"image_shape": [side, side, 1], "classes": list(classes)},
    }
    files = {
        "model.keras": b"model",
        "predictions.npz": npz(predictions),
        "manifest.json": json.dumps(small_manifest(spec={"model": model}, dataset=facts)).encode(),
    }
    about = {
        "trial": f"{model}-s0",
        "weights_sha256": "0" * 64,
        "dataset": facts,
        "test": {"correct": int(np.sum(right)), "total": len(right)},
        "init_from": init_from,
    }
    count = sum(1 for _ in objects.names(f"models/{model}/claims"))
    return publish(objects, model, run or f"run-{count + 1}", files, about)


def first(count: int, of: int = 1_000) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return that the first `count` answers are right, and the others wrong."""
    return np.arange(of) < count
