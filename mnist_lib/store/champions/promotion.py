"""The promotion rule: when a version replaces the champion, and the statistical test that decides it.

McNemar's test counts only the images that exactly one of the two models answers correctly: if the models are equally
good, both are equally likely to be right. Higher accuracy alone may be chance, or may hide a class that got much worse.

A test at 5% promotes one of twenty equally good challengers. So each comparison of a model on a dataset is made at a
lower level than the one before, and the sum of the levels of all comparisons, however many follow, stays below a total.

A challenger that was trained on clearly more data than the champion needs no such proof: data are a reason to expect a
better model, and a few hundred test images could prove only a large improvement. It must not be worse on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Any

from mnist_lib.catalog import meanings
from mnist_lib.documents import Share
from mnist_lib.run_documents import Significance
from mnist_lib.settings import CheckedFields, one_of, option
from mnist_lib.store.champions.comparison import Compared
from mnist_lib.wording import counted, interval_text, percent

if TYPE_CHECKING:  # importing NumPy would delay the report of a usage error
    from mnist_lib.store.predictions import Predictions

TOTAL = 0.025  # the default sum of the significance levels of all comparisons
MAX_FALSE_ALARMS = 0.05  # probability that any class of an equally good model seems to collapse
# New and corrected training images, in percent of those of the champion, that count as clearly more data. In simulated
# years, values between 5 and 20% make hardly any difference (benchmarks/tried.md).
MORE_DATA_PERCENT = 10
# The n-th comparison is made at the level total / (SUM (n + 1) ln(n + 1)^2), where SUM is the sum of
# 1 / ((n + 1) ln(n + 1)^2) over all n, rounded up. The level falls slowly enough for a year of nights, and the total is
# never used up.
SUM = 2.11
WHEN = {
    "if-better": "promote a stored model if it is significantly better than the champion, or if it is not worse and the"
    f" training images that have been added or corrected since are at least {MORE_DATA_PERCENT}% of the champion's",
    "if-significant": "promote a stored model only if it is significantly better than the champion",
    "always": "promote a stored model regardless of its accuracy",
    "never": "do not promote a stored model",
}


@dataclass(frozen=True)
class Budget:
    """A total of significance, and the number of comparisons that have spent part of it so far."""

    total: float
    comparisons: int = 0

    @property
    def next_alpha(self) -> float:
        """The significance level of the next comparison."""
        return self.total * _share_of_comparison(self.comparisons + 1)

    @property
    def left(self) -> float:
        """What is left of the total. The 5% that all comparisons after the first 10,000 spend are not subtracted."""
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
    """Return the share of the total that a comparison spends. `number`: that of the comparison, from 1."""
    return 1 / (SUM * (number + 1) * math.log(number + 1) ** 2)


@dataclass(frozen=True)
class Decision:
    """Whether to promote, with the reason."""

    promote: bool
    why: str  # one line, for people
    statistics: Mapping[str, Any] = field(default_factory=dict)  # the numbers behind the decision
    budget: Budget | None = None  # what is left of the significance; None if nothing was compared for this dataset


@dataclass(frozen=True, kw_only=True)
class Thresholds(CheckedFields):
    """How much better than the champion a version must be or, if there is no champion, how good."""

    GROUP = "promotion"

    alpha: Share = option(
        TOTAL,
        "probability that chance alone replaces the champion of a model on a dataset, in all comparisons together",
        "P",
        in_terms=True,
    )
    min_accuracy: Share = option(0.0, "minimum test accuracy of a model's first champion, such as 0.97", in_terms=True)
    max_class_drop: Share = option(
        0.1, "maximum loss of accuracy in any class; a larger one, if significant, prevents promotion", in_terms=True
    )


@dataclass(frozen=True, kw_only=True)
class Rule(Thresholds):
    """The rule that decides when a version becomes the champion. Raises SpecError for a value out of range."""

    GROUP = "promotion"

    promote: Annotated[str, one_of(WHEN)] = option(
        "if-better",
        f"when to make a stored model the champion. {meanings(WHEN)}",
        "WHEN",
        in_terms=True,
    )

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
            return Decision(False, f"{challenger.name} always answers {answer}, which is correct for {right}")
        return None

    def decide_first(self, challenger: Predictions, *, balanced: bool = False) -> Decision:
        """Decide whether the challenger is good enough to be the first champion: clearly better than a guess.

        Args:
            balanced: whether balanced accuracy decides; that of a guess is one divided by the number of classes.
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

        If it is not worse on all images together, but is worse in a class or on the earlier images, return a refusal.

        Args:
            new: number of training images that the champion was not trained on, or was trained on with another label.
            before: number of all training images of the champion.
        """
        if self.promote != "if-better" or not before or missing_images(new, before):
            return None
        if compared.advantage < 0:
            return None
        if collapse := self.collapse(compared):
            return Decision(False, collapse["why"])
        if compared.doubt:
            return Decision(False, f"more data are no reason to promote it, since {compared.doubt}")
        statistics = {"test": "more data", **compared.counts, "new_train": new, "champion_train": before}
        data = f"{counted(new, 'new or corrected training image')}, {percent(new / before)} of those of the champion"
        return Decision(True, f"{compared}: not worse, with {data}", statistics)

    def decide(self, compared: Compared, alpha: float, missing: int = 0) -> Decision:
        """Decide whether the challenger is better with p < alpha, and not much worse in any class or on earlier images.

        Args:
            missing: how many more new training images `decide_by_data` needs to promote; a refusal states the number.
        """
        p = compared.p
        statistics = {"test": compared.test, **compared.counts, "p": p, "alpha": alpha}
        why = f"{compared}, p = {p:.2g}"
        if not p < alpha or compared.advantage <= 0:
            return Decision(False, f"{why}: {self._advice(compared, alpha, missing) or 'not better'}", statistics)
        collapse = self.collapse(compared)
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
            ways.append(f"add {counted(missing, 'training image')}, after which it only has to be no worse")
        ways.append(f"use jobs.models promote {compared.challenger} --always")
        return f"{chance}; at these rates, about {needed:,.0f} test images would decide: {', or '.join(ways)}"

    def collapse(self, compared: Compared) -> Mapping[str, Any] | None:
        """Return the class whose accuracy drops most, if it drops too much and significantly, or None.

        Only images of classes that both models know are counted, with the answers restricted to these classes.
        """
        both = compared.shared or compared
        found = list[dict[str, Any]]()
        for name, counts in both.by_class.items():
            drop = (counts.lost - counts.gained) / counts.images
            if drop <= self.max_class_drop:
                continue
            p = both.losses_p(name)
            if p < MAX_FALSE_ALARMS / len(both.by_class):  # Bonferroni: one test for each class
                before, after = (percent(right / counts.images) for right in (counts.champion, counts.challenger))
                why = f"class {name} drops from {before} to {after}, p = {p:.2g}"
                found.append({"class": name, "drop": drop, "p": p, "why": why})
        return max(found, key=lambda collapse: float(collapse["drop"]), default=None)


def missing_images(new: int, before: int) -> int:
    """Return how many new training images are missing for clearly more data. Arguments: see `Rule.decide_by_data`."""
    return max(0, math.ceil(before * MORE_DATA_PERCENT / 100) - new)
