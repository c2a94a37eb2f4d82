"""Which of the same images two models answer correctly: what the challenger gains and loses, and how likely by chance.

Images of a group, such as pictures of one object, are answered alike. So a group is one unit, and so is any other
image; the tests ask how often units would differ as much by chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mnist_lib.store.champions.evidence import AnswerCounts, sign_flip_p
from mnist_lib.wording import counted, percent

if TYPE_CHECKING:  # importing NumPy would delay the report of a usage error
    import numpy as np
    from numpy.typing import NDArray

# If each class counts the same, an image of a smaller class counts as one of so many. Otherwise a single image, as in a
# folder with a mistyped name, would count as much as hundreds of others.
MIN_CLASS_IMAGES = 10
# If chance alone loses as many of the earlier images with a smaller probability, the new ones are no reason to promote.
MIN_LUCK = 0.25


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

    def _differences(
        self, inside: NDArray[np.bool_] | None = None, *, weighted: bool = False
    ) -> NDArray[np.floating[Any]]:
        """Return what the challenger gains, less what it loses, on each unit: [units].

        Args:
            inside: [images], those to look at; by default all.
            weighted: whether to weigh images by their class if each class counts the same.
        """
        import numpy as np

        gains = self.challenger_right.astype(np.float64) - self.champion_right
        if weighted and self.balanced:
            gains /= np.maximum(MIN_CLASS_IMAGES, np.bincount(self.labels))[self.labels]
        return np.asarray(np.bincount(self._units, gains if inside is None else gains * inside), np.float64)

    @property
    def advantage(self) -> float:
        """What the challenger gains, less what it loses; if each class counts the same, as shares of the classes."""
        return round(float(self._differences(weighted=True).sum()), 9)  # an error of rounding is no loss

    @property
    def spread(self) -> float:
        """The sum of the squares of what is gained or lost on each unit."""
        return float((self._differences(weighted=True) ** 2).sum())

    @property
    def p(self) -> float:
        """The probability of as large an advantage, or a larger one, if the challenger is no better."""
        return sign_flip_p(self._differences(weighted=True))

    @property
    def test(self) -> str:
        """The name of the test that gives p."""
        is_plain = not self.balanced and int(self._units.max(initial=-1)) + 1 == len(self.labels)
        return "exact McNemar, one-sided" if is_plain else "exact sign flips, one-sided"

    def losses_p(self, name: str) -> float:
        """Return the probability that a class loses as much, or more, if the challenger is no worse at it."""
        return sign_flip_p(-self._differences(self.labels == self.classes.index(name)))

    @property
    def counts(self) -> dict[str, int]:
        return {"images": len(self.labels), "gained": self.total.gained, "lost": self.total.lost}

    def __str__(self) -> str:
        total, classes = self.total, self.by_class.values()
        if self.balanced:
            values = (
                sum(right / each.images for right, each in zip(column, classes, strict=True)) / len(classes)
                for column in ([each.challenger for each in classes], [each.champion for each in classes])
            )
            what = "a balanced accuracy of "
        else:
            values, what = ((right / total.images for right in (total.challenger, total.champion)), "")
        challenger, champion = map(percent, values)
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
        if both.tested is None or sign_flip_p(-both._differences(both.tested)) >= MIN_LUCK:
            return ""
        gained, lost = (
            int((one[both.tested] & ~other[both.tested]).sum())
            for one, other in itertools.permutations((both.challenger_right, both.champion_right))
        )
        return (
            f"it gains {gained:,} and loses {lost:,} of the {counted(int(both.tested.sum()), 'image')} on which"
            f" {self.champion} was tested: check the labels of the new ones"
        )
