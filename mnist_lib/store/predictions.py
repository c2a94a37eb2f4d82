"""What a version predicted on the test split, by which versions are compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.table import ImageHashes, Labels, indices_of
from mnist_lib.documents import Interval, reading
from mnist_lib.intervals import accuracy_interval, balanced_interval
from mnist_lib.objects.archives import read_npz
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.versions import Version, read_file

PREDICTIONS = "predictions.npz"


def constant_answer(answers: NDArray[np.integer[Any]], labels: Labels) -> int | None:
    """Return the class that is the answer to every image, or None if there are several, or one class of images only.

    Such a model has the accuracy of that class' share, which is high if one class is much larger than the others.

    Args:
        answers, labels: [images]
    """
    named = np.unique(answers)
    return int(named[0]) if len(named) == 1 and len(np.unique(labels)) > 1 else None


@dataclass(frozen=True)
class Predictions:
    """What a version predicted on the test split."""

    name: str
    test_images: int  # in the dataset
    probabilities: NDArray[np.float32]  # [images, classes]
    labels: Labels  # [images]
    classes: tuple[str, ...]  # their names
    hashes: ImageHashes  # [images, 2]
    groups: NDArray[np.int32] | None = None  # [images]: the number of the group; None: none, or not stored in its time

    @classmethod
    def read(cls, objects: Objects, version: Version) -> "Predictions":
        """Return the predictions of a version. Raises IntegrityError if they are damaged."""
        dataset = version.facts.dataset
        with reading(f"{version.name}: {PREDICTIONS}"):
            arrays = read_npz(read_file(objects, version, PREDICTIONS))
            answers = arrays["probabilities"], arrays["labels"], dataset.classes, arrays["hashes"]
            return cls(version.name, dataset.test, *answers, arrays.get("groups"))

    @property
    def answers(self) -> NDArray[np.integer[Any]]:
        """The most probable class of each image: [images]."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each answer is right: [images]."""
        return np.asarray(self.answers == self.labels)

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean()) if len(self.labels) else 0.0

    @property
    def always_answers(self) -> str | None:
        """The class that is the answer to every image, or None. See `constant_answer`."""
        answer = constant_answer(self.answers, self.labels)
        return None if answer is None else self.classes[answer]

    @property
    def disqualification(self) -> str | None:
        """Why the version can never be a champion, as a phrase to put after its name, or None if it can."""
        if len(self.labels) != self.test_images or not len(self.labels):
            return f"was tested on {len(self.labels):,} of {self.test_images:,} images"
        if not np.isfinite(self.probabilities).all():
            return "has probabilities that are not finite numbers"
        return None

    def score(self, *, balanced: bool) -> tuple[float, Interval]:
        """Return the accuracy, or the mean of those of the classes, with its 95% interval."""
        if balanced:
            return balanced_interval(self.correct, self.labels, self.groups)
        return self.accuracy, accuracy_interval(self.correct, groups=self.groups)

    def guess(self, *, balanced: bool) -> float:
        """Return the accuracy, or the balanced one, of always answering the most frequent class."""
        sizes = np.bincount(self.labels)
        return float(1 / (sizes > 0).sum() if balanced else sizes.max() / len(self.labels))

    def rows_for(self, other: "Predictions") -> NDArray[np.intp]:
        """Return, for each test image of another version, its row here, or -1 if this version was not tested on it."""
        return indices_of(other.hashes, self.hashes)

    def for_images_of(
        self, other: "Predictions", unknown: NDArray[np.intp], predicted: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return what this version predicts for the test images of another version: [images, classes].

        Args:
            unknown: images on which this version was not tested, [m].
            predicted: the probabilities for these, [m, classes]; None if there are none.
        """
        probabilities = self.probabilities[self.rows_for(other)]
        if predicted is not None:
            probabilities[unknown] = predicted
        return probabilities

    def correct_among(
        self, probabilities: NDArray[np.float32], names: Sequence[str], other: "Predictions"
    ) -> NDArray[np.bool_]:
        """Return whether the most probable of some classes is right for each test image of another version: [images].

        Classes are compared by name, since a class may have been added or removed.

        Args:
            probabilities: [images, classes] of this version.
            names: classes of this version.
        """
        columns = np.array([self.classes.index(name) for name in names])
        answers = columns[probabilities[:, columns].argmax(axis=1)]
        numbers = {name: label for label, name in enumerate(other.classes)}
        labels = np.array([numbers.get(name, -1) for name in self.classes])  # of its classes in the other version
        return np.asarray(labels[answers] == other.labels)
