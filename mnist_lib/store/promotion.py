"""The promotion rule: when a version replaces the champion, and the statistical test that decides it.

McNemar's test counts only the images that exactly one of the two models answers correctly: if the models are equally
good, both are equally likely to be right. Higher accuracy alone may be chance, or may hide a class that got much worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_lib.catalog import require_known
from mnist_lib.errors import SpecError
from mnist_lib.wording import counted

if TYPE_CHECKING:  # importing NumPy would delay the report of a usage error
    from mnist_lib.store.contents import Predictions

WHEN = {
    "if-better": "promote a stored model if it is significantly better than the champion",
    "always": "promote a stored model regardless of its accuracy",
    "never": "do not promote a stored model",
}


@dataclass(frozen=True)
class Decision:
    """Whether to promote, with the reason."""

    promote: bool
    why: str  # one line, for people
    statistics: Mapping[str, Any]  # the numbers behind the decision


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The rule that decides when a version becomes the champion.

    Args:
        when: a key of `WHEN`.
        alpha: significance level of the test, in [0, 1].
        min_accuracy: accuracy that the first champion needs, in [0, 1].
        max_class_drop: loss of accuracy in one class, in [0, 1]; a larger loss, if significant, prevents promotion.

    Raises:
        SpecError: a value is out of range.
    """

    when: str = "if-better"
    alpha: float = 0.05
    min_accuracy: float = 0.0
    max_class_drop: float = 0.1

    def __post_init__(self) -> None:
        require_known("promote", self.when, WHEN)
        for name in ("alpha", "min_accuracy", "max_class_drop"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise SpecError(f"{name}: expected a number from 0 to 1, got {value}")

    def decide(self, challenger: Predictions, champion: Predictions | None) -> Decision:
        """Decide whether the challenger is better with p < alpha and not much worse in any class.

        Without a champion, decide whether it is accurate enough.
        """
        if self.when == "never":
            return Decision(False, "promotion is off (--promote never)", {})
        if challenger.disqualification is not None:
            return Decision(False, f"{challenger.name} {challenger.disqualification}", {})
        if self.when == "always":
            return Decision(True, "promoted regardless of its accuracy, as requested", {})
        if champion is None:
            return self._decide_first(challenger)
        if not challenger.comparable(champion):
            return Decision(False, f"{challenger.name} and {champion.name} were tested on different images", {})
        gained = int((challenger.correct & ~champion.correct).sum())
        lost = int((champion.correct & ~challenger.correct).sum())
        p = mcnemar(gained, lost)
        statistics = {"test": "exact McNemar", "gained": gained, "lost": lost, "p": p, "alpha": self.alpha}
        why = (
            f"{challenger.name} has {challenger.accuracy:.2%}, {champion.name} {champion.accuracy:.2%}"
            f"; {counted(gained, 'image')} gained, {lost:,} lost, p = {p:.2g}"
        )
        collapse = self._collapse(challenger, champion)
        if collapse is not None:
            return Decision(False, f"{why}; {collapse['why']}", {**statistics, "collapse": collapse})
        return Decision(gained > lost and p < self.alpha, why, statistics)

    def _decide_first(self, challenger: Predictions) -> Decision:
        statistics = {"accuracy": challenger.accuracy, "min_accuracy": self.min_accuracy}
        if challenger.accuracy < self.min_accuracy:
            needed = f"the first champion needs {self.min_accuracy:.2%}"
            return Decision(False, f"{challenger.name} has {challenger.accuracy:.2%}: {needed}", statistics)
        return Decision(True, f"{challenger.name} is the first champion, with {challenger.accuracy:.2%}", statistics)

    def _collapse(self, challenger: Predictions, champion: Predictions) -> Mapping[str, Any] | None:
        """Return the class whose accuracy drops most, if it drops too much and significantly, or None."""
        found: list[dict[str, Any]] = []
        labels = sorted({int(label) for label in champion.labels})
        for label in labels:
            of_class = champion.labels == label
            before, after = champion.correct[of_class], challenger.correct[of_class]
            drop = float(before.mean() - after.mean())
            p = mcnemar(int((after & ~before).sum()), int((before & ~after).sum()))
            if drop > self.max_class_drop and p < self.alpha / len(labels):  # Bonferroni: one test for each class
                why = (
                    f"class {champion.classes[label]} drops from {before.mean():.2%} to {after.mean():.2%}, p = {p:.2g}"
                )
                found.append({"class": label, "drop": drop, "p": p, "why": why})
        return max(found, key=lambda collapse: float(collapse["drop"]), default=None)


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Suppose that the two models are equally good. The p-value is then the probability that the images on which only one
    is right split at least as unevenly as `gained` to `lost`.
    """
    n = gained + lost
    # Integers, because 2**n overflows a float for n > 1023.
    tail = ways = 1
    for k in range(min(gained, lost)):
        ways = ways * (n - k) // (k + 1)  # n choose k + 1
        tail += ways
    return min(1.0, float(2 * tail / 2**n))
