"""`jobs.models diff`: how two versions differ in their settings and in their answers for test images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class DifferingAnswer:
    """A test image that two versions answer differently."""

    image: int  # index in the test split of `one`
    label: int
    one: int
    other: int


@dataclass(frozen=True)
class Comparison:
    one: str
    other: str
    accuracies: tuple[float, float]  # on the test split
    classes: tuple[str, ...]  # their names
    settings: Mapping[str, tuple[Any, Any]]  # those that differ, by names such as "seed"
    test_images: int  # on which both were tested
    differing: Sequence[DifferingAnswer]


def compare(objects: Objects, one: Version, other: Version) -> Comparison:
    """Compare two versions. Raises IntegrityError if a file is damaged."""
    predictions = Predictions.read(objects, one)
    others = Predictions.read(objects, other)
    settings = _settings(objects, one)
    other_settings = _settings(objects, other)
    pairs = {name: (settings.get(name), other_settings.get(name)) for name in {*settings, *other_settings}}
    found = others.rows_for(predictions) if predictions.classes == others.classes else np.full(1, -1)
    common = np.flatnonzero(found >= 0)
    rows = zip(
        common.tolist(),
        predictions.labels[common].tolist(),
        predictions.answers[common].tolist(),
        others.answers[found[common]].tolist(),
        strict=True,
    )
    return Comparison(
        one=one.name,
        other=other.name,
        accuracies=(predictions.accuracy, others.accuracy),
        classes=predictions.classes,
        settings={name: pair for name, pair in sorted(pairs.items()) if pair[0] != pair[1]},
        test_images=len(common),
        differing=[DifferingAnswer(*row) for row in rows if row[2] != row[3]],
    )


def _settings(objects: Objects, version: Version) -> dict[str, Any]:
    """Return the fields of a version's spec that are used, and each argument of its model by its own name."""
    settings: dict[str, Any] = builtins_of(read_manifest(objects, version).spec)
    for field in ("arguments", "weights"):
        values = settings.pop(field)
        settings |= {f"{field}.{name}": value for name, value in values.items()}
    return {name: value for name, value in settings.items() if not is_unused(name, value)}


def diff(options: DiffOptions, objects: Objects) -> CommandResult:
    comparison = compare(objects, find_version(objects, options.one), find_version(objects, options.other))
    return CommandResult(comparison, _comparison_lines(comparison))


def _comparison_lines(comparison: Comparison) -> list[str]:
    one, other = map(percent, comparison.accuracies)
    lines = [f"{comparison.one} predicts {one} of the test images correctly, {comparison.other} {other}."]
    lines += [f"  {name}: {a} -> {b}" for name, (a, b) in comparison.settings.items()] or [
        "  Their settings are equal."
    ]
    if not comparison.test_images:
        return [*lines, "They were not tested on the same images."]
    count = len(comparison.differing)
    gained = sum(answers.other == answers.label for answers in comparison.differing)
    lost = sum(answers.one == answers.label for answers in comparison.differing)
    lines.append(
        f"They predict {count:,} of {comparison.test_images:,} test images differently"
        f"; on {gained:,} only {comparison.other} is correct, on {lost:,} only {comparison.one}."
    )
    if count:
        rows = [
            [str(answers.image), *(comparison.classes[label] for label in (answers.label, answers.one, answers.other))]
            for answers in comparison.differing[:MAX_IMAGES_SHOWN]
        ]
        lines.append(table(("image", "label", comparison.one, comparison.other), rows))
    if count > MAX_IMAGES_SHOWN:
        lines.append(f"... and {count - MAX_IMAGES_SHOWN:,} more; --json prints all.")
    return lines
