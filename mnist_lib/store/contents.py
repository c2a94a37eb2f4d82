"""What a version holds beside the model: its predictions on the test split, how it was made, what a listing shows."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.archives import read_npz
from mnist_lib.catalog import NUM_CLASSES
from mnist_lib.data.split import DatasetInfo
from mnist_lib.errors import IntegrityError
from mnist_lib.results import Accuracy, TrialResult
from mnist_lib.store.objects import Objects
from mnist_lib.store.versions import Version, read_file

PREDICTIONS, MANIFEST = "predictions.npz", "manifest.json"
LARGEST_ARRAY = 1 << 28  # bytes of one in `predictions.npz`: of six million images


@dataclass(frozen=True)
class Predictions:
    """What a version answered on the test split."""

    name: str
    fingerprint: str  # of the dataset
    test_images: int  # that it has
    probabilities: NDArray[np.float32]  # [images, classes]
    labels: NDArray[np.uint8]  # [images]

    @classmethod
    def of(cls, objects: Objects, version: Version) -> "Predictions":
        """Raises IntegrityError for what is not what was committed, or not what its name promises."""
        content = read_file(objects, version, PREDICTIONS)
        name = f"{version.name}: {PREDICTIONS}"
        arrays = read_npz(content, name, dict.fromkeys(("probabilities", "predictions", "labels"), LARGEST_ARRAY))
        probabilities, labels = arrays["probabilities"], arrays["labels"]
        types = (probabilities.dtype.name, labels.dtype.name)
        if types != ("float32", "uint8") or labels.ndim != 1 or probabilities.shape != (len(labels), NUM_CLASSES):
            got = f"{probabilities.dtype} {probabilities.shape} and {labels.dtype} {labels.shape}"
            raise IntegrityError(f"{name}: expected float32 [n, {NUM_CLASSES}] and uint8 [n], got {got}")
        try:
            dataset = version.about["dataset"]
            return cls(version.name, dataset["fingerprint"], dataset["test"], probabilities, labels)
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"{version.name}: expected the dataset in its record: {error}") from error

    @property
    def answers(self) -> NDArray[np.integer[Any]]:
        """[images]: the most probable class."""
        answers: NDArray[np.integer[Any]] = self.probabilities.argmax(axis=1)
        return answers

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[images]"""
        correct: NDArray[np.bool_] = self.answers == self.labels
        return correct

    @property
    def disqualification(self) -> str | None:
        """Why no test can make it a champion; None if nothing is in the way."""
        if len(self.labels) != self.test_images or not len(self.labels):
            return f"was tested on {len(self.labels):,} of {self.test_images:,} images"
        if not np.isfinite(self.probabilities).all():
            return "gives probabilities that are not numbers"
        return None

    def comparable(self, other: "Predictions") -> bool:
        """Whether both answer the same images."""
        return self.fingerprint == other.fingerprint and np.array_equal(self.labels, other.labels)

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A version's files: all that a process needs to build the model which does not see the store."""

    name: str
    files: Mapping[str, bytes]
    manifest: Mapping[str, Any]  # of JSON; whoever may commit has written it

    @classmethod
    def of(cls, objects: Objects, version: Version) -> "StoredModel":
        """Raises IntegrityError for what is not what was committed."""
        files = {name: read_file(objects, version, name) for name in version.files}
        return cls(name=version.name, files=files, manifest=read_manifest(objects, version))


def contents_of(
    result: TrialResult, dataset: DatasetInfo, run: str, code: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """A trial as the files of a version, and what its commit record tells of it.

    Args:
        code: as in `environment.code_version`.
    """
    about = {
        "trial": result.trial,
        "dataset": {
            "name": dataset.name,
            "version": dataset.version,
            "fingerprint": dataset.fingerprint,
            "test": len(dataset.test_labels),
            "image_shape": dataset.image_shape,
        },
        "test": asdict(result.test),
        "validation": asdict(result.validation) if result.validation else None,
        "weights_sha256": result.weights_sha256,
    }
    manifest = {
        "model": result.spec.model,
        "run": run,
        **about,
        "spec": asdict(result.spec),
        "best_epoch": result.best_epoch,
        "history": [asdict(epoch) for epoch in result.history],
        "code": code,
        "devices": list(result.devices),
        "versions": dict(result.versions),
    }
    predictions = io.BytesIO()
    np.savez_compressed(
        predictions,
        probabilities=result.probabilities,  # [test images, classes] float32
        predictions=result.probabilities.argmax(axis=1).astype(np.uint8),
        labels=dataset.test_labels,
    )
    files = {
        **result.files,
        PREDICTIONS: predictions.getvalue(),
        MANIFEST: json.dumps(manifest, indent=2).encode(),
    }
    return files, about


def read_manifest(objects: Objects, version: Version) -> dict[str, Any]:
    """Raises IntegrityError for what is not what was committed, or not a JSON object."""
    try:
        manifest = json.loads(read_file(objects, version, MANIFEST), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{version.name}: {MANIFEST}: expected JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise IntegrityError(f"{version.name}: {MANIFEST}: expected a JSON object, got {type(manifest).__name__}")
    return manifest


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def accuracy_of_version(version: Version) -> Accuracy:
    """On the test split, as its record tells. Raises IntegrityError for a record that does not."""
    try:
        test = Accuracy(**version.about["test"])
        if type(test.correct) is int and type(test.total) is int and 0 <= test.correct <= test.total > 0:
            return test
    except (KeyError, TypeError):
        pass
    raise IntegrityError(f"{version.name}: expected the counts of its test in its record")


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
