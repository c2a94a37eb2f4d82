"""The test images whose labels the models of a run dispute: confident mistakes, and differing answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.review.data import ReviewedData, ReviewItem
from jobs.review.labels import Labels
from mnist_lib.api import require_version
from mnist_lib.data.split import text_of
from mnist_lib.errors import DataError, IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.runs import RunFolder, check_run_name
from mnist_lib.store.versions import Version

MIN_PROBABILITY = 0.9  # a wrong answer this probable disputes a label on its own


def run_versions(objects: Objects, run: str) -> list[Version]:
    """Return the versions that a run has stored, the most accurate first.

    Raises SpecError if there is no such run, or it is not complete.
    """
    check_run_name(run)
    summary = RunFolder(objects, run).summary()
    if summary is None or not summary.models:
        raise SpecError(f"run: expected a complete run with a model in {objects.where('runs')}, got {run!r}; see there")
    versions = [require_version(objects, model, row.version) for model, row in summary.models.items()]
    return sorted(versions, key=lambda version: version.facts.test.value, reverse=True)


def disputed_items(
    objects: Objects, versions: Sequence[Version], data: ReviewedData, labels: Labels
) -> list[ReviewItem]:
    """Return the disputed images of the hold-out, those with the most confident wrong answer first.

    Args:
        versions: those of a run.
        labels: those that people have given, which count instead of those of the dataset.

    Raises DataError if the versions were tested on images that are not in the dataset here.
    """
    test = data.dataset.test
    indices = {text_of(row): index for index, row in enumerate(test.hashes)}
    rows: dict[int, list[tuple[str, str, float]]] = {}  # index of an image -> version, answer, probability
    probabilities: dict[int, NDArray[np.float32]] = {}
    for version in versions:
        predictions = Predictions.read(objects, version)
        if predictions.hashes is not None:
            images = [indices.get(text_of(row)) for row in predictions.hashes]
        elif predictions.fingerprint == data.dataset.fingerprint:
            if len(predictions.labels) != len(test):
                raise IntegrityError(
                    f"{version.name}: expected predictions for the {len(test):,} test images of {data.request.name},"
                    f" got {len(predictions.labels):,}; use another run"
                )
            images = [*range(len(test))]
        else:
            images = []
        confidence = predictions.probabilities.max(axis=1)
        for row, index in enumerate(images):
            if index is not None:
                answer = predictions.classes[int(predictions.answers[row])]
                rows.setdefault(index, []).append((version.name, answer, float(confidence[row])))
                probabilities.setdefault(index, predictions.probabilities[row])
    if not rows:
        raise DataError(
            f"{versions[0].run}: expected {data.request.name} with the images that its models were tested on, got"
            " others; name the same data with --dataset, --data-dir or --data-source"
        )
    disputed = []
    for index, answers in rows.items():
        item = data.image_item("hold-out", index)
        label = labels.label(item.image) or item.label
        wrong = max((probability for _, answer, probability in answers if answer != label), default=0.0)
        if wrong >= MIN_PROBABILITY or len({answer for _, answer, _ in answers}) > 1:
            item.probabilities = np.asarray(probabilities[index])
            item.answers = ", ".join(f"{name}: {answer} ({share:.0%})" for name, answer, share in answers)
            disputed.append((wrong, item))
    return [item for _, item in sorted(disputed, key=lambda pair: -pair[0])]
