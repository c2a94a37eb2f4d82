"""What comes of a picture: an answer, or why there is none."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_lib.errors import ImageError
from mnist_lib.pictures import Picture

UNSURE = 0.5  # below, all other digits together are more probable


@dataclass(frozen=True)
class Answer:
    """What a model makes of a picture."""

    name: str
    picture: Picture
    probabilities: NDArray[np.float32]  # [classes]
    label: int | None = None  # what is on it, where that is known

    @property
    def ranking(self) -> list[tuple[int, float]]:
        """The digits and their probabilities, the most probable first; of two alike the lower digit."""
        order = np.argsort(-self.probabilities, kind="stable")
        return [(int(digit), float(self.probabilities[digit])) for digit in order]

    @property
    def digit(self) -> int:
        return int(self.probabilities.argmax())

    @property
    def unsure(self) -> bool:
        return bool(self.probabilities.max() < UNSURE)

    @property
    def right(self) -> bool | None:
        return None if self.label is None else self.digit == self.label


@dataclass(frozen=True)
class Failure:
    name: str
    error: ImageError


Outcome = Answer | Failure


def outcomes(
    names: Iterable[str], found: Sequence[Picture | ImageError], probabilities: NDArray[np.float32]
) -> list[Outcome]:
    """probabilities: [n, classes], of the n that are pictures."""
    rows = iter(probabilities)
    return [
        Failure(name, picture) if isinstance(picture, ImageError) else Answer(name, picture, next(rows))
        for name, picture in zip(names, found, strict=True)
    ]
