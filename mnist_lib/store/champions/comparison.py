"""Which of the same images two models answer correctly: what the challenger gains and loses, and how likely by chance.

Images of a group, such as pictures of one object, are answered alike. So a group is one unit with one vote, and so is
any other image; the tests ask how often units would differ as much by chance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mnist_lib.wording import counted, percent

if TYPE_CHECKING:  # importing NumPy would delay the report of a usage error
    import numpy as np
    from numpy.typing import NDArray

# If each class counts the same, an image of a smaller class counts as one of so many. Otherwise a single image, as in a
# folder with a mistyped name, would count as much as hundreds of others.
MIN_CLASS_IMAGES = 10
# If chance alone loses as many of the earlier images with a smaller probability, the new ones are no reason to promote.
MIN_LUCK = 0.25
MAX_EXACT = 100_000  # units: the exact test takes a third of a second for so many, and the square of that for more


@dataclass(frozen=True)
class AnswerCounts:
    """Counts of images that champion and challenger answered. `AnswerCounts()` is the start value of a sum."""

    images: int = 0
    champion: int = 0  # those that the champion answers correctly
    gained: int = 0  # those that only the challenger answers correctly
    lost: int = 0  # those that only the champion answers correctly

    def __add__(self, other: AnswerCounts) -> AnswerCounts:
        return AnswerCounts(
            self.images + other.images,
            self.champion + other.champion,
            self.gained + other.gained,
            self.lost + other.lost,
        )

    @property
    def challenger(self) -> int:
        """The images that the challenger answers correctly."""
        return self.champion + self.gained - self.lost


def mcnemar(gained: int, lost: int) -> float:
    """Return the one-sided p-value of McNemar's exact test.

    Suppose that the two models are equally good. The p-value is then the probability that, of the units on which only
    one is better, at least `gained` go to the challenger.
    """
    if gained <= lost:  # the other tail is shorter
        return 1.0 - mcnemar(lost + 1, gained - 1) if gained else 1.0
    n = gained + lost
    if n > MAX_EXACT:  # the normal distribution is close enough
        return math.erfc((gained - lost - 1) / math.sqrt(2 * n)) / 2
    # Integers, because 2**n overflows a float for n > 1023.
    tail = ways = 1
    for k in range(lost):
        ways = ways * (n - k) // (k + 1)  # n choose k + 1
        tail += ways
    return float(tail / 2**n)


@dataclass(frozen=True)
class Compared:
    """Which of the same images the challenger and the champion answer correctly."""

    challenger: str
    champion: str
    challenger_right: NDArray[np.bool_]  # [images]
    champion_right: NDArray[np.bool_]  # [images]
    labels: NDArray[np.integer[Any]]  # [images]
    classes: Sequence[str]  # the names of the labels
    balanced: bool = False  # whether each class counts the same, instead of each image
    groups: NDArray[np.integer[Any]] | None = None  # [images]: numbers of groups, NO_GROUP for none; None: no groups
    tested: NDArray[np.bool_] | None = None  # [images]: those on which the champion was tested; None: all
    # The same for the images of the classes that both know, and the answers among these; None: they know the same.
    shared: Compared | None = None

    @cached_property
    def by_class(self) -> dict[str, AnswerCounts]:
        """The counts of each class that has images, by its name, in the order of the labels."""
        import numpy as np  # not above: it would delay the report of a usage error

        right, before = self.challenger_right, self.champion_right
        groups = (self.labels, self.labels[before], self.labels[right & ~before], self.labels[before & ~right])
        columns = (np.bincount(labels, minlength=len(self.classes)).tolist() for labels in groups)
        rows = zip(self.classes, *columns, strict=True)
        return {name: AnswerCounts(images, *counts) for name, images, *counts in rows if images}

    @cached_property
    def total(self) -> AnswerCounts:
        return sum(self.by_class.values(), AnswerCounts())

    @cached_property
    def _units(self) -> NDArray[np.intp]:
        """The number of the unit of each image: [images]."""
        from mnist_lib.intervals import units_of  # imports NumPy

        return units_of(len(self.labels), self.groups)

    def _differences(self, inside: NDArray[np.bool_] | None = None, *, balanced: bool = False) -> NDArray[np.float64]:
        """Return what the challenger gains, less what it loses, on each unit: [units].

        Args:
            inside: [images], those to look at; by default all.
            balanced: whether each class counts the same.
        """
        import numpy as np

        gains = self.challenger_right.astype(np.float64) - self.champion_right
        if balanced:
            gains /= np.maximum(MIN_CLASS_IMAGES, np.bincount(self.labels))[self.labels]
        return np.asarray(np.bincount(self._units, gains if inside is None else gains * inside), np.float64)

    def _votes(self, inside: NDArray[np.bool_] | None = None) -> tuple[int, int]:
        """Return on how many units the challenger is better, and on how many it is worse. `inside`: see above."""
        differences = self._differences(inside)
        return int((differences > 0).sum()), int((differences < 0).sum())

    @property
    def advantage(self) -> float:
        """What the challenger gains, less what it loses; if each class counts the same, as shares of the classes."""
        return round(float(self._differences(balanced=self.balanced).sum()), 9)  # an error of rounding is no loss

    @property
    def spread(self) -> float:
        """The sum of the squares of what is gained or lost on each unit: the variance if the two are equally good."""
        return float((self._differences(balanced=self.balanced) ** 2).sum())

    @property
    def p(self) -> float:
        """The probability of as large an advantage, or a larger one, if the challenger is no better.

        The sum of a few differences is not normal, so the largest one is left out of the balanced advantage. For equal
        differences, this is the correction for continuity.
        """
        if not self.balanced:
            return mcnemar(*self._votes())
        largest = float(abs(self._differences(balanced=True)).max(initial=0.0))
        return math.erfc((self.advantage - largest) / math.sqrt(2 * self.spread)) / 2 if largest else 1.0

    @property
    def test(self) -> str:
        """The name of the test that gives p."""
        return "difference of balanced accuracies, one-sided" if self.balanced else "exact McNemar, one-sided"

    def losses_p(self, name: str) -> float:
        """Return the probability that a class loses as many units, or more, if the challenger is no worse at it."""
        gained, lost = self._votes(self.labels == self.classes.index(name))
        return mcnemar(lost, gained)

    @property
    def counts(self) -> dict[str, int]:
        return {"images": len(self.labels), "gained": self.total.gained, "lost": self.total.lost}

    def __str__(self) -> str:
        total = self.total
        groups = [*self.by_class.values()] if self.balanced else [total]
        challenger = percent(sum(each.challenger / each.images for each in groups) / len(groups))
        champion = percent(sum(each.champion / each.images for each in groups) / len(groups))
        what = "a balanced accuracy of " if self.balanced else ""
        return (
            f"{self.challenger} has {what}{challenger}, {self.champion} {champion};"
            f" {counted(total.gained, 'image')} gained, {total.lost:,} lost"
        )

    @property
    def doubt(self) -> str:
        """Why only new images, whose labels may be wrong, speak for the challenger, as a phrase; "" if others do, too.

        New pictures in a wrong class are in the hold-out, too, where only a model that has learned them is right.
        """
        both = self.shared or self
        if both.tested is None:
            return ""
        better, worse = both._votes(both.tested)
        if mcnemar(worse, better) >= MIN_LUCK:
            return ""
        gained, lost = (
            int((one[both.tested] & ~other[both.tested]).sum())
            for one, other in itertools.permutations((both.challenger_right, both.champion_right))
        )
        return (
            f"it gains {gained:,} and loses {lost:,} of the {counted(int(both.tested.sum()), 'image')} on which"
            f" {self.champion} was tested: check the labels of the new ones"
        )
