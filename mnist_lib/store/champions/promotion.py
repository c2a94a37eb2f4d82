"""The promotion rule: when a version replaces the champion, and the statistical test that decides it.

McNemar's test counts only the images that exactly one of the two models answers correctly: if the models are equally
good, both are equally likely to be right. Higher accuracy alone may be chance, or may hide a class that got much worse.

A test at 5% promotes one of twenty equally good challengers. So each comparison spends a fixed share of what is left of
a budget, and the sum over all comparisons of a model on a dataset, however many follow, stays below the total.

A challenger that was trained on clearly more data than the champion needs no such proof: data are a reason to expect a
better model, and a few hundred test images could show that only for much better ones. It must not be worse on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Any

from mnist_lib.documents import Share
from mnist_lib.results import Accuracy
from mnist_lib.run_documents import Significance
from mnist_lib.settings import CheckedFields, one_of, option
from mnist_lib.wording import counted, percent

if TYPE_CHECKING:  # importing NumPy would delay the report of a usage error
    import numpy as np
    from numpy.typing import NDArray

    from mnist_lib.store.predictions import Predictions

TOTAL = 0.05  # by default
SHARE = 0.01  # of what is left, for one comparison: the 30th is still made at three quarters of the first one's level
# Share of the total below which it counts as used up: after 391 comparisons, more than a year of nights.
MIN_LEFT = 0.02
# New and corrected training images, in percent of those of the champion, that count as clearly more data. In simulated
# years it hardly matters between 5 and 20% (benchmarks/tried.md).
MORE_DATA_PERCENT = 10
MIN_FRESH_IMAGES = 500  # for a new budget; fewer could hardly show a difference at the level of one comparison
WHEN = {
    "if-better": "promote a stored model if it is significantly better than the champion, or if it is not worse and the"
    f" training images that are new or corrected since then are at least {MORE_DATA_PERCENT}% of the champion's",
    "if-significant": "promote a stored model only if it is significantly better than the champion",
    "always": "promote a stored model regardless of its accuracy",
    "never": "do not promote a stored model",
}
When = Annotated[str, one_of(WHEN)]


@dataclass(frozen=True)
class Budget:
    """What has been spent of a total, and in how many comparisons."""

    total: float
    spent: float = 0.0
    comparisons: int = 0

    @property
    def left(self) -> float:
        return max(0.0, self.total - self.spent)

    @property
    def is_used_up(self) -> bool:
        return self.left <= MIN_LEFT * self.total

    @property
    def next_alpha(self) -> float:
        """The significance level of the next comparison."""
        return SHARE * self.left

    def after_comparison(self) -> Budget:
        return Budget(self.total, self.spent + self.next_alpha, self.comparisons + 1)

    def document(self) -> Significance:
        """Return the budget for a document."""
        return Significance(total=self.total, left=self.left, comparisons=self.comparisons)

    def __str__(self) -> str:
        """What is left, in terms that anyone understands."""
        so_far = f"{counted(self.comparisons, 'comparison')} so far"
        return f"{100 * self.left:.3g}% is left of the {100 * self.total:.3g}% that chance may decide ({so_far})"


@dataclass(frozen=True)
class Decision:
    """Whether to promote, with the reason."""

    promote: bool
    why: str  # one line, for people
    statistics: Mapping[str, Any] = field(default_factory=dict)  # the numbers behind the decision
    budget: Budget | None = None  # what is left of the significance; None if nothing was compared for this dataset


@dataclass(frozen=True)
class Compared:
    """Which of the same images the challenger and the champion answer correctly."""

    challenger: str
    champion: str
    challenger_right: NDArray[np.bool_]  # [images]
    champion_right: NDArray[np.bool_]  # [images]
    labels: NDArray[np.integer[Any]]  # [images]
    classes: Sequence[str]  # the names of the labels

    @property
    def gained(self) -> int:
        """The images that only the challenger answers correctly."""
        return int((self.challenger_right & ~self.champion_right).sum())

    @property
    def lost(self) -> int:
        """The images that only the champion answers correctly."""
        return int((self.champion_right & ~self.challenger_right).sum())

    @property
    def counts(self) -> dict[str, int]:
        return {"images": len(self.labels), "gained": self.gained, "lost": self.lost}

    def __str__(self) -> str:
        accuracies = (
            f"{self.challenger} has {_share(self.challenger_right)}, {self.champion} {_share(self.champion_right)}"
        )
        return f"{accuracies}; {counted(self.gained, 'image')} gained, {self.lost:,} lost"

    def take(self, chosen: NDArray[np.bool_]) -> Compared:
        """Return the comparison on some of the images."""
        right = self.challenger_right[chosen], self.champion_right[chosen]
        return Compared(self.challenger, self.champion, *right, self.labels[chosen], self.classes)


@dataclass(frozen=True, kw_only=True)
class Thresholds(CheckedFields):
    """How much better a version has to be than the champion, or how good without one."""

    GROUP = "promotion"

    alpha: Share = option(
        TOTAL,
        "probability that chance alone replaces the champion of a model, over all comparisons on a dataset together;"
        " each comparison spends a hundredth of the rest",
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

    when: When = option("if-better", f"when to promote: {', '.join(WHEN)}", name="promote")

    def decide_alone(self, challenger: Predictions) -> Decision | None:
        """Decide without the champion, or return None if the challenger has to be compared with it."""
        if self.when == "never":
            return Decision(False, "promotion is off (--promote never)")
        if challenger.disqualification is not None:
            return Decision(False, f"{challenger.name} {challenger.disqualification}")
        if self.when == "always":
            return Decision(True, "promoted regardless of its accuracy, as requested")
        if (answer := challenger.always_answers) is not None:
            right = percent(challenger.accuracy)
            return Decision(False, f"{challenger.name} always answers {answer}, right for {right}")
        return None

    def decide_first(self, challenger: Predictions) -> Decision:
        """Decide whether the challenger is good enough to be the first champion: clearly better than a guess."""
        accuracy = Accuracy(int(challenger.correct.sum()), len(challenger.labels))
        guess = challenger.most_frequent_share
        statistics = {"accuracy": accuracy.value, "min_accuracy": self.min_accuracy, "guess": guess}
        has = f"{challenger.name} has {percent(accuracy.value)}"
        if accuracy.value < self.min_accuracy:
            return Decision(False, f"{has}: the first champion needs {percent(self.min_accuracy)}", statistics)
        low, high = accuracy.interval()
        if low <= guess:
            why = (
                f"{has} ({percent(low)} to {percent(high)}): not clearly better than always answering the most"
                f" frequent class, which is right for {percent(guess)}"
            )
            return Decision(False, why, statistics)
        return Decision(True, f"{challenger.name} is the first champion, with {percent(accuracy.value)}", statistics)

    def decide_by_data(self, compared: Compared, new: int, before: int) -> Decision | None:
        """Promote a challenger that was trained on clearly more data and is not worse, or return None.

        Args:
            new: training images that the champion was not trained on, or with another label.
            before: all training images of the champion.
        """
        if self.when != "if-better" or not before or missing_images(new, before):
            return None
        if compared.gained < compared.lost or self._collapse(compared) is not None:
            return None
        statistics = {"test": "more data", **compared.counts, "new_train": new, "champion_train": before}
        data = f"{counted(new, 'new or corrected training image')}, {percent(new / before)} of those of the champion"
        return Decision(True, f"{compared}: not worse, with {data}", statistics)

    def decide(self, compared: Compared, alpha: float, missing: int = 0) -> Decision:
        """Decide whether the challenger is better with p < alpha and not much worse in any class.

        Args:
            missing: new training images without which `decide_by_data` cannot promote; a refusal names them.
        """
        gained, lost = compared.gained, compared.lost
        p = mcnemar(gained, lost)
        statistics = {"test": "exact McNemar, one-sided", **compared.counts, "p": p, "alpha": alpha}
        why = f"{compared}, p = {p:.2g}"
        if not p < alpha:
            return Decision(False, f"{why}: {self._advice(compared, alpha, missing) or 'not better'}", statistics)
        collapse = self._collapse(compared)
        if collapse is not None:
            return Decision(False, f"{why}; {collapse['why']}", {**statistics, "collapse": collapse})
        return Decision(True, why, statistics)

    def _advice(self, compared: Compared, alpha: float, missing: int) -> str:
        """Say what would have shown that the challenger is better, or return "" if it is not better on these images."""
        gained, lost = compared.gained, compared.lost
        if gained <= lost:
            return ""
        chance = f"may be chance, since p is not below {alpha:.2g}"
        if not alpha:
            return chance
        needed = len(compared.labels) * NormalDist().inv_cdf(1 - alpha) ** 2 * (gained + lost) / (gained - lost) ** 2
        needed = max(len(compared.labels) + 1, float(f"{needed:.1e}"))
        advice = f"{chance}; at these rates, about {needed:,.0f} test images would tell: label random new pictures"
        if not missing or self.when != "if-better":
            return advice
        return f"{advice}, or add {counted(missing, 'training image')}, with which it has only to be as good"

    def _collapse(self, compared: Compared) -> Mapping[str, Any] | None:
        """Return the class whose accuracy drops most, if it drops too much and significantly, or None."""
        found: list[dict[str, Any]] = []
        labels = sorted({int(label) for label in compared.labels})
        for label in labels:
            of_class = compared.labels == label
            before, after = compared.champion_right[of_class], compared.challenger_right[of_class]
            drop = float(before.mean() - after.mean())
            p = mcnemar(int((before & ~after).sum()), int((after & ~before).sum()))
            if drop > self.max_class_drop and p < self.alpha / len(labels):  # Bonferroni: one test for each class
                why = f"class {compared.classes[label]} drops from {_share(before)} to {_share(after)}, p = {p:.2g}"
                found.append({"class": label, "drop": drop, "p": p, "why": why})
        return max(found, key=lambda collapse: float(collapse["drop"]), default=None)


def missing_images(new: int, before: int) -> int:
    """Return how many more new training images would be clearly more data. The arguments: see `Rule.decide_by_data`."""
    return max(0, math.ceil(before * MORE_DATA_PERCENT / 100) - new)


def _share(right: NDArray[np.bool_]) -> str:
    return percent(float(right.mean()) if len(right) else 0.0)


def mcnemar(gained: int, lost: int) -> float:
    """Return the one-sided p-value of McNemar's exact test.

    Suppose that the two models are equally good. The p-value is then the probability that, of the images on which only
    one is right, at least `gained` go to the challenger.
    """
    if gained <= lost:  # the other tail is shorter
        return 1.0 - mcnemar(lost + 1, gained - 1) if gained else 1.0
    n = gained + lost
    # Integers, because 2**n overflows a float for n > 1023.
    tail = ways = 1
    for k in range(lost):
        ways = ways * (n - k) // (k + 1)  # n choose k + 1
        tail += ways
    return float(tail / 2**n)
