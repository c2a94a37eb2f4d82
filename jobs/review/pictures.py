"""The pictures to review: files, the images of a dataset, or those whose labels the models of a run dispute."""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.review.data import LearnedLabel, ReviewedData, ReviewItem
from jobs.review.labels import Labels
from mnist_lib.data.table import text_of
from mnist_lib.errors import DataError, ImageError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.pictures.reading import Layout, read_file
from mnist_lib.pictures.sandbox import Sandboxes
from mnist_lib.store.contents import margins_of
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.runs import RunFolder, check_run_name
from mnist_lib.store.versions import Version, require_version

MIN_PROBABILITY = 0.9  # a wrong answer this probable disputes a label on its own

log = logging.getLogger(__name__)

ItemAndImage = tuple[ReviewItem, NDArray[np.uint8] | None]  # None: the model does not predict it


def read_files(data: ReviewedData, paths: Sequence[Path], layout: Layout) -> Iterator[ItemAndImage | None]:
    """Read pictures in files, with None for each that cannot be read, which is logged."""
    with Sandboxes(len(paths)) as sandboxes:
        read = functools.partial(read_file, layout=layout, for_people=True)
        for path, picture in zip(paths, sandboxes.map(read, paths), strict=True):
            if isinstance(picture, ImageError):
                log.warning("left out: %s: %s", path, picture)
                yield None
                continue
            item = data.file_item(path, data.hash_of(picture))
            item.problem = picture.problem
            item.likeness = picture.likeness
            yield item, None if picture.problem else picture.image


def read_arrays(data: ReviewedData, rng: np.random.Generator) -> Iterator[ItemAndImage]:
    """Return the images of a dataset without files, in a random order."""
    items = [*data.known.values()]
    for number in rng.permutation(len(items)):
        item = items[number]
        yield item, data.images(item.split).images[item.source]


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


def learned_labels(objects: Objects, version: Version) -> dict[str, LearnedLabel]:
    """Return the labels that a version was trained on by image, with how probable training found each of them."""
    margins = margins_of(objects, version)
    if margins is None:
        return {}
    classes = version.facts.dataset.classes
    chances = np.exp(-np.logaddexp(0, -margins.means.astype(np.float64)))  # of the label, not the likeliest other class
    rows = zip(margins.hashes, margins.labels.tolist(), chances.tolist(), strict=True)
    return {text_of(image): LearnedLabel(classes[label], chance) for image, label, chance in rows}


def disputed_items(
    objects: Objects, versions: Sequence[Version], data: ReviewedData, labels: Labels
) -> list[ReviewItem]:
    """Return the images of the hold-out whose labels the models of a run dispute: confident mistakes, the most
    confident first, and differing answers.

    Args:
        versions: those of a run.
        labels: those that people have given, which count instead of those of the dataset.

    Raises DataError if the versions were tested on images that are not in the dataset here.
    """
    rows: dict[str, list[tuple[str, float]]] = {}  # image -> answer and probability of each version
    for version in versions:
        predictions = Predictions.read(objects, version)
        for row, probabilities in zip(predictions.hashes, predictions.probabilities, strict=True):
            image = text_of(row)
            if image in data.known and data.known[image].split == "hold-out":
                answer = predictions.classes[int(probabilities.argmax())]
                rows.setdefault(image, []).append((answer, float(probabilities.max())))
    if not rows:
        raise DataError(
            f"{versions[0].run}: expected {data.request.name} with the images that its models were tested on, got"
            " others; name the same data with --dataset, --data-dir or --data-source"
        )
    disputed = []
    for image, answers in rows.items():
        item = replace(data.known[image], is_disputed=True)
        label = labels.label(image) or item.label
        wrong = max((probability for answer, probability in answers if answer != label), default=0.0)
        if wrong >= MIN_PROBABILITY or len({answer for answer, _ in answers}) > 1:
            disputed.append((wrong, item))
    return [item for _, item in sorted(disputed, key=lambda pair: -pair[0])]
