"""Two versions beside each other: how they were made, and where their answers differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mnist_lib.errors import IntegrityError
from mnist_lib.store.contents import Predictions, read_manifest
from mnist_lib.store.objects import Objects
from mnist_lib.store.versions import Version

MADE_BY = ("spec", "dataset", "code", "versions")  # parts of the manifest


@dataclass(frozen=True)
class Answers:
    """To one test image, by its place in the test split."""

    image: int
    label: int
    one: int
    other: int


@dataclass(frozen=True)
class Comparison:
    one: str
    other: str
    accuracies: tuple[float, float]  # on the test split
    made: Mapping[str, tuple[Any, Any]]  # what differs in how they were made, as in "spec.seed"
    test_images: int | None  # None: they were tested on different ones
    differing: Sequence[Answers]


def compare(objects: Objects, one: Version, other: Version) -> Comparison:
    """Raises IntegrityError for what is not what was committed."""
    answers, others = Predictions.of(objects, one), Predictions.of(objects, other)
    made, made_other = _made(objects, one), _made(objects, other)
    names = {*made, *made_other}
    changed = {name: (made.get(name), made_other.get(name)) for name in names if made.get(name) != made_other.get(name)}
    comparable = answers.comparable(others)
    differing = []
    if comparable:
        for image in (answers.answers != others.answers).nonzero()[0]:
            row = (answers.labels[image], answers.answers[image], others.answers[image])
            differing.append(Answers(int(image), *map(int, row)))
    return Comparison(
        one.name,
        other.name,
        (answers.accuracy, others.accuracy),
        dict(sorted(changed.items())),
        len(answers.labels) if comparable else None,
        differing,
    )


def _made(objects: Objects, version: Version) -> dict[str, Any]:
    manifest = read_manifest(objects, version)
    try:
        return {f"{part}.{name}": value for part in MADE_BY for name, value in manifest.get(part, {}).items()}
    except AttributeError as error:
        raise IntegrityError(f"{version.name}: manifest.json: expected tables {', '.join(MADE_BY)}") from error
