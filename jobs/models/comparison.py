"""`jobs.models diff`: how two versions differ in their settings and in their answers for test images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.console.output import CommandResult, table
from jobs.models.options import DiffOptions
from mnist_lib.api import find_version
from mnist_lib.documents import builtins_of
from mnist_lib.objects.protocol import Objects
from mnist_lib.spec import is_unused
from mnist_lib.store.contents import read_manifest
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.versions import Version
from mnist_lib.wording import percent

MAX_IMAGES_SHOWN = 10  # without --json
COLUMNS = ("image", "label", "one", "other")  # the index of a test image of `one`, its class, and both answers


def diff(options: DiffOptions, objects: Objects) -> CommandResult:
    """Compare two versions. Raises IntegrityError if a file is damaged."""
    one = find_version(objects, options.one)
    other = find_version(objects, options.other)
    predictions = Predictions.read(objects, one)
    others = Predictions.read(objects, other)
    # For each test image of the one version, its row among those of the other; -1 if it has none.
    rows = others.rows_for(predictions) if predictions.classes == others.classes else np.full(1, -1)
    common = np.flatnonzero(rows >= 0)
    answers = zip(
        common.tolist(),
        predictions.labels[common].tolist(),
        predictions.answers[common].tolist(),
        others.answers[rows[common]].tolist(),
        strict=True,
    )
    document: dict[str, Any] = {
        "one": one.name,
        "other": other.name,
        "accuracies": (predictions.accuracy, others.accuracy),  # on the test split
        "classes": predictions.classes,
        "settings": _differing_settings(objects, one, other),
        "test_images": len(common),  # on which both were tested
        "differing": [dict(zip(COLUMNS, row, strict=True)) for row in answers if row[2] != row[3]],
    }
    return CommandResult(document, _lines(**document))


def _differing_settings(objects: Objects, one: Version, other: Version) -> dict[str, tuple[Any, Any]]:
    """Return the values of both versions for each setting in which they differ, by its name, such as "seed"."""
    settings = _settings(objects, one)
    others = _settings(objects, other)
    pairs = {name: (settings.get(name), others.get(name)) for name in sorted({*settings, *others})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _settings(objects: Objects, version: Version) -> dict[str, Any]:
    """Return the fields of a version's spec that are used, and each argument of its model by its own name."""
    settings: dict[str, Any] = builtins_of(read_manifest(objects, version).spec)
    for field in ("arguments", "weights"):
        values = settings.pop(field)
        settings |= {f"{field}.{name}": value for name, value in values.items()}
    return {name: value for name, value in settings.items() if not is_unused(name, value)}


def _lines(
    one: str,
    other: str,
    accuracies: Sequence[float],
    classes: Sequence[str],
    settings: Mapping[str, Sequence[Any]],
    test_images: int,
    differing: Sequence[Mapping[str, int]],
) -> list[str]:
    """Return the document of a comparison as text."""
    accuracy, other_accuracy = map(percent, accuracies)
    lines = [f"{one} predicts {accuracy} of the test images correctly, {other} {other_accuracy}."]
    lines += [f"  {name}: {a} -> {b}" for name, (a, b) in settings.items()] or ["  Their settings are equal."]
    if not test_images:
        return [*lines, "They were not tested on the same images."]
    gained = sum(row["other"] == row["label"] for row in differing)
    lost = sum(row["one"] == row["label"] for row in differing)
    lines.append(
        f"They predict {len(differing):,} of {test_images:,} test images differently"
        f"; on {gained:,} only {other} is correct, on {lost:,} only {one}."
    )
    shown = [[str(row["image"]), *(classes[row[name]] for name in COLUMNS[1:])] for row in differing[:MAX_IMAGES_SHOWN]]
    if shown:
        lines.append(table(("image", "label", one, other), shown))
    if len(differing) > len(shown):
        lines.append(f"... and {len(differing) - len(shown):,} more; --json prints all.")
    return lines
