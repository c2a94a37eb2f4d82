"""Whether a model may take the place of another: a paired test on the same test images.

McNemar's test looks only at the images on which the two disagree; were they equally good, each of these would be a
toss of a coin.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.catalog import NUM_CLASSES
from mnist_lib.errors import IntegrityError
from mnist_lib.store.objects import Objects
from mnist_lib.store.versions import Version, read_file


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
        content = read_file(objects, version, "predictions.npz")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                probabilities, labels = arrays["probabilities"], arrays["labels"]
            if probabilities.shape != (len(labels), NUM_CLASSES):
                raise ValueError(f"expected {NUM_CLASSES} probabilities for each label, got {probabilities.shape}")
            dataset = version.about["dataset"]
            return cls(version.name, dataset["fingerprint"], dataset["test"], probabilities, labels)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise IntegrityError(f"{version.name}: predictions.npz: {error}") from error

    @property
    def answers(self) -> NDArray[np.integer[Any]]:
        """[images]: the most probable class."""
        answers: NDArray[np.integer[Any]] = self.probabilities.argmax(axis=1)
        return answers

    @property
    def right(self) -> NDArray[np.bool_]:
        """[images]"""
        right: NDArray[np.bool_] = self.answers == self.labels
        return right

    def comparable(self, other: "Predictions") -> bool:
        """Whether both answer the same images."""
        return self.fingerprint == other.fingerprint and len(self.labels) == len(other.labels)

    @property
    def unusable(self) -> str:
        """Why no test can make it a champion; empty if nothing is in the way."""
        if len(self.labels) != self.test_images:
            return f"was tested on {len(self.labels):,} of {self.test_images:,} images"
        if not np.isfinite(self.probabilities).all():
            return "gives probabilities that are no numbers"
        return ""

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


@dataclass(frozen=True)
class Decision:
    promote: bool
    why: str  # in one line, for people
    statistics: Mapping[str, Any]  # what it rests on


Rule = Callable[[Predictions, Predictions | None], Decision]  # of the challenger and the champion


def decide(
    challenger: Predictions, champion: Predictions | None, *, alpha: float = 0.05, min_accuracy: float = 0.0
) -> Decision:
    """The challenger is promoted if it is better and p < alpha; without a champion, if it is accurate enough.

    Args:
        alpha: how often two equally good models may change places by chance.
        min_accuracy: of the first champion.
    """
    if challenger.unusable:
        return Decision(False, f"{challenger.name} {challenger.unusable}", {})
    if champion is None:
        statistics: dict[str, Any] = {"accuracy": challenger.accuracy, "min_accuracy": min_accuracy}
        if challenger.accuracy < min_accuracy:
            needed = f"the first champion needs {min_accuracy:.2%}"
            return Decision(False, f"{challenger.name} has {challenger.accuracy:.2%}: {needed}", statistics)
        return Decision(True, f"{challenger.name} is the first champion, with {challenger.accuracy:.2%}", statistics)
    if not challenger.comparable(champion):
        return Decision(False, f"{challenger.name} and {champion.name} were tested on different images", {})
    gained = int((challenger.right & ~champion.right).sum())
    lost = int((champion.right & ~challenger.right).sum())
    p = mcnemar(gained, lost)
    statistics = {"test": "exact McNemar", "gained": gained, "lost": lost, "p": p, "alpha": alpha}
    why = (
        f"{challenger.name} has {challenger.accuracy:.2%}, {champion.name} {champion.accuracy:.2%}"
        f": {gained} images gained, {lost} lost, p = {p:.2g}"
    )
    return Decision(gained > lost and p < alpha, why, statistics)


def rule(when: str, alpha: float, min_accuracy: float) -> Rule:
    """`when`: "always", or "if-better" as `decide` does it."""

    def always(challenger: Predictions, champion: Predictions | None) -> Decision:
        if challenger.unusable:
            return decide(challenger, champion)
        return Decision(True, "promoted whatever it is worth, as was asked for", {})

    return always if when == "always" else partial(decide, alpha=alpha, min_accuracy=min_accuracy)


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test: how likely so uneven a split is among equally good models."""
    n = gained + lost
    # In whole numbers: 2^n of ten thousand images is no float.
    tail = ways = 1
    for k in range(min(gained, lost)):
        ways = ways * (n - k) // (k + 1)  # n choose k + 1
        tail += ways
    return min(1.0, float(2 * tail / 2**n))
