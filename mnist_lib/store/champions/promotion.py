"""The promotion rule: when a version replaces the champion, and the statistical test that decides it.

McNemar's test counts only the images that exactly one of the two models answers correctly: if the models are equally
good, both are equally likely to be right. Higher accuracy alone may be chance, or may hide a class that got much worse.

A test at 5% promotes one of twenty equally good challengers. So each comparison of a model on a dataset is made at a
lower level than the one before, and the sum over all of them, however many follow, stays below a total.

A challenger that was trained on clearly more data than the champion needs no such proof: data are a reason to expect a
better model, and a few hundred test images could show that only for much better ones. It must not be worse on them.

Half of the total pays for these comparisons, half for what one fixed challenger shows on new pictures: see `shadow`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Any

from mnist_lib.documents import Share
from mnist_lib.run_documents import Significance
from mnist_lib.settings import CheckedFields, one_of, option
from mnist_lib.store.champions.evidence import AnswerCounts, mcnemar, sign_flip_p
from mnist_lib.wording import counted, interval_text, percent

if TYPE_CHECKING:  # importing NumPy would delay the report of a usage error
    import numpy as np
    from numpy.typing import NDArray

    from mnist_lib.store.predictions import Predictions

TOTAL = 0.05  # by default
COMPARISONS_SHARE = 0.5  # of the total, for comparisons on the hold-out; the rest is for shadows
# New and corrected training images, in percent of those of the champion, that count as clearly more data. In simulated
# years it hardly matters between 5 and 20% (benchmarks/tried.md).
MORE_DATA_PERCENT = 10
# If each class counts the same, an image of a smaller class counts as one of so many. Otherwise a single image, as in a
# folder with a mistyped name, would count as much as hundreds of others.
MIN_CLASS_IMAGES = 10
# If chance alone loses as many of the earlier images with a smaller probability, the new ones are no reason to promote.
MIN_LUCK = 0.25
# The n-th comparison is made at the level total / (SUM (n + 1) ln(n + 1)^2), where SUM is the sum of
# 1 / ((n + 1) ln(n + 1)^2) over all n, rounded up. It falls slowly enough for a year of nights, and is never used up.
SUM = 2.11
WHEN = {
    "if-better": "promote a stored model if it is significantly better than the champion, or if it is not worse and the"
    f" training images that are new or corrected since then are at least {MORE_DATA_PERCENT}% of the champion's",
    "if-significant": "promote a stored model only if it is significantly better than the champion",
    "always": "promote a stored model regardless of its accuracy",
    "never": "do not promote a stored model",
}


@dataclass(frozen=True)
class Budget:
    """A total of significance, and the number of comparisons that have been made at its expense."""

    total: float
    comparisons: int = 0

    @property
    def next_alpha(self) -> float:
        """The significance level of the next comparison."""
        return self.total * _share_of_comparison(self.comparisons + 1)

    @property
    def left(self) -> float:
        """What is left of the total, without the 5% of it that all comparisons after the first 10,000 spend."""
        spent = math.fsum(map(_share_of_comparison, range(1, min(self.comparisons, 10_000) + 1)))
        return self.total * (1 - spent)

    def after_comparison(self) -> Budget:
        return Budget(self.total, self.comparisons + 1)

    def document(self) -> Significance:
        """Return the budget for a document."""
        return Significance(total=self.total, left=self.left, comparisons=self.comparisons)

    def __str__(self) -> str:
        """What is left, in terms that anyone understands."""
        so_far = f"{counted(self.comparisons, 'comparison')} so far"
        return f"{100 * self.left:.3g}% is left of the {100 * self.total:.3g}% that chance may decide ({so_far})"


def _share_of_comparison(number: int) -> float:
    """Return the share of the total at which a comparison is made. `number`: from 1."""
    return 1 / (SUM * (number + 1) * math.log(number + 1) ** 2)


@dataclass(frozen=True)
class Decision:
    """Whether to promote, with the reason."""

    promote: bool
    why: str  # one line, for people
    statistics: Mapping[str, Any] = field(default_factory=dict)  # the numbers behind the decision
    budget: Budget | None = None  # what is left of the significance; None if nothing was compared for this dataset
    instead: int | None = None  # an earlier version that was promoted instead: the shadow


@dataclass(frozen=True)
class Compared:
    """Which of the same images the challenger and the champion answer correctly.

    Images of a group, such as pictures of one object, are answered alike. So a group is one unit, and so is any other
    image; the tests ask how often units would differ as much by chance.
    """

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


@dataclass(frozen=True, kw_only=True)
class Thresholds(CheckedFields):
    """How much better a version has to be than the champion, or how good without one."""

    GROUP = "promotion"

    alpha: Share = option(
        TOTAL,
        "probability that chance alone replaces the champion of a model on a dataset: half of it for all comparisons"
        " on the hold-out together, half for what new pictures show",
        "P",
        scope="run",
    )
    min_accuracy: Share = option(0.0, "minimum test accuracy of a model's first champion, such as 0.97", scope="run")
    max_class_drop: Share = option(
        0.1, "maximum loss of accuracy in any class; a larger one, if significant, prevents promotion", scope="run"
    )


@dataclass(frozen=True, kw_only=True)
class Rule(Thresholds):
    """The rule that decides when a version becomes the champion. Raises SpecError for a value out of range."""

    GROUP = "promotion"

    promote: Annotated[str, one_of(WHEN)] = option(
        "if-better",
        f"when to make a stored model the champion. {'; '.join(map(': '.join, WHEN.items()))}",
        "WHEN",
        scope="run",
    )

    @property
    def comparisons_alpha(self) -> float:
        """The total of a budget for comparisons on the hold-out."""
        return COMPARISONS_SHARE * self.alpha

    @property
    def shadows_alpha(self) -> float:
        """The probability that chance alone promotes any of all shadows."""
        return self.alpha - self.comparisons_alpha

    def decide_alone(self, challenger: Predictions) -> Decision | None:
        """Decide without the champion, or return None if the challenger has to be compared with it."""
        if self.promote == "never":
            return Decision(False, "promotion is off (--promote never)")
        if challenger.disqualification is not None:
            return Decision(False, f"{challenger.name} {challenger.disqualification}")
        if self.promote == "always":
            return Decision(True, "promoted regardless of its accuracy, as requested")
        if (answer := challenger.always_answers) is not None:
            right = percent(challenger.accuracy)
            return Decision(False, f"{challenger.name} always answers {answer}, which is right for {right}")
        return None

    def decide_first(self, challenger: Predictions, *, balanced: bool = False) -> Decision:
        """Decide whether the challenger is good enough to be the first champion: clearly better than a guess.

        Args:
            balanced: whether balanced accuracy decides, by which a guess is right for one divided by the classes.
        """
        what = "a balanced accuracy of " if balanced else ""
        value, interval = challenger.score(balanced=balanced)
        guess = challenger.guess(balanced=balanced)
        statistics = {"accuracy": value, "min_accuracy": self.min_accuracy, "guess": guess}
        has = f"{challenger.name} has {what}{percent(value)}"
        if value < self.min_accuracy:
            return Decision(False, f"{has}: the first champion needs {percent(self.min_accuracy)}", statistics)
        if interval[0] <= guess:
            why = (
                f"{has} ({interval_text(interval)}): not clearly better than always answering the most"
                f" frequent class, which has {what}{percent(guess)}"
            )
            return Decision(False, why, statistics)
        return Decision(True, f"{challenger.name} is the first champion, with {what}{percent(value)}", statistics)

    def decide_by_data(self, compared: Compared, new: int, before: int) -> Decision | None:
        """Promote a challenger that was trained on clearly more data and is not worse; otherwise, return None.

        If it is not worse on all images together, but in a class or on the earlier images, say so in a refusal.

        Args:
            new: training images that the champion was not trained on, or with another label.
            before: all training images of the champion.
        """
        if self.promote != "if-better" or not before or missing_images(new, before):
            return None
        if compared.advantage < 0:
            return None
        if collapse := self.collapse_of(compared):
            return Decision(False, collapse["why"])
        if compared.doubt:
            return Decision(False, f"more data are no reason, since {compared.doubt}")
        statistics = {"test": "more data", **compared.counts, "new_train": new, "champion_train": before}
        data = f"{counted(new, 'new or corrected training image')}, {percent(new / before)} of those of the champion"
        return Decision(True, f"{compared}: not worse, with {data}", statistics)

    def decide(self, compared: Compared, alpha: float, missing: int = 0) -> Decision:
        """Decide whether the challenger is better with p < alpha, not much worse in any class, nor on earlier images.

        Args:
            missing: new training images without which `decide_by_data` cannot promote; a refusal names them.
        """
        p = compared.p
        statistics = {"test": compared.test, **compared.counts, "p": p, "alpha": alpha}
        why = f"{compared}, p = {p:.2g}"
        if not p < alpha or compared.advantage <= 0:
            return Decision(False, f"{why}: {self._advice(compared, alpha, missing) or 'not better'}", statistics)
        collapse = self.collapse_of(compared)
        if collapse is not None:
            return Decision(False, f"{why}; {collapse['why']}", {**statistics, "collapse": collapse})
        if compared.doubt:
            return Decision(False, f"{why}; {compared.doubt}", statistics)
        return Decision(True, why, statistics)

    def _advice(self, compared: Compared, alpha: float, missing: int) -> str:
        """Say what would have shown that the challenger is better, or return "" if it is not better on these images."""
        if compared.advantage <= 0:
            return ""
        chance = f"may be chance, since p is not below {alpha:.2g}"
        if not alpha:
            return chance
        needed = len(compared.labels) * NormalDist().inv_cdf(alpha) ** 2 * compared.spread / compared.advantage**2
        needed = max(len(compared.labels) + 1, float(f"{needed:.1e}"))
        ways = ["label random new pictures"]
        if missing and self.promote == "if-better":
            ways.append(f"add {counted(missing, 'training image')}, with which it has only to be as good")
        ways.append(f"use jobs.models promote {compared.challenger} --always")
        return f"{chance}; at these rates, about {needed:,.0f} test images would tell: {', or '.join(ways)}"

    def collapse_of(self, compared: Compared) -> Mapping[str, Any] | None:
        """Return the class whose accuracy drops most, by the answers among the classes that both models know."""
        both = compared.shared or compared
        return self.collapse(both.by_class, both.losses_p)

    def collapse(
        self, by_class: Mapping[str, AnswerCounts], losses_p: Callable[[str], float] | None = None
    ) -> Mapping[str, Any] | None:
        """Return the class whose accuracy drops most, if it drops too much and significantly, or None.

        Args:
            losses_p: returns the p-value of the losses of a class; by default that of independent images.
        """
        found: list[dict[str, Any]] = []
        for name, counts in by_class.items():
            drop = (counts.lost - counts.gained) / max(1, counts.images)
            if drop <= self.max_class_drop:
                continue
            p = losses_p(name) if losses_p else mcnemar(counts.lost, counts.gained)
            if p < self.alpha / len(by_class):  # Bonferroni: one test for each class
                before, after = (percent(right / counts.images) for right in (counts.champion, counts.challenger))
                why = f"class {name} drops from {before} to {after}, p = {p:.2g}"
                found.append({"class": name, "drop": drop, "p": p, "why": why})
        return max(found, key=lambda collapse: float(collapse["drop"]), default=None)


def missing_images(new: int, before: int) -> int:
    """Return how many more new training images would be clearly more data. The arguments: see `Rule.decide_by_data`."""
    return max(0, math.ceil(before * MORE_DATA_PERCENT / 100) - new)
