"""Whether a model may take the place of another: a paired test on the same test images.

McNemar's test looks only at the images on which the two disagree; were they equally good, each of these would be a
toss of a coin. A model that is better on the whole may have lost a digit: so each class is looked at, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_lib.catalog import require_known
from mnist_lib.errors import SpecError

if TYPE_CHECKING:  # NumPy would make a refusal slower
    from mnist_lib.store.contents import Predictions

WHEN = {
    "if-better": "a stored model becomes the champion when it is better than that",
    "always": "regardless of its accuracy",
    "never": "it does not",
}


@dataclass(frozen=True)
class Decision:
    promote: bool
    why: str  # in one line, for people
    statistics: Mapping[str, Any]  # what it rests on


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a version becomes the champion.

    Args:
        when: of `WHEN`.
        alpha: how often two equally good models may change places by chance.
        min_accuracy: of the first champion, in [0, 1].
        max_class_drop: by how much the accuracy in one class may fall, in [0, 1]; a fall that may be chance is allowed.

    Raises:
        SpecError: naming the field, the value and its range.
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
        """The challenger is promoted if it is better, p < alpha and no class collapses; without a champion, if it is
        accurate enough."""
        if self.when == "never":
            return Decision(False, "not tried: --promote never", {})
        if challenger.disqualification is not None:
            return Decision(False, f"{challenger.name} {challenger.disqualification}", {})
        if self.when == "always":
            return Decision(True, "promoted regardless of its accuracy, as was asked for", {})
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
            f": images gained {gained}, lost {lost}, p = {p:.2g}"
        )
        collapse = self._collapse(challenger, champion)
        if collapse is not None:
            return Decision(False, f"{why}; {collapse['why']}", {**statistics, "collapse": collapse})
        return Decision(gained > lost and p < self.alpha, why, statistics)

    def _collapse(self, challenger: Predictions, champion: Predictions) -> Mapping[str, Any] | None:
        """The class in which the challenger is worst beside the champion, if that is too bad and no chance."""
        found: list[dict[str, Any]] = []
        labels = sorted({int(label) for label in champion.labels})
        for label in labels:
            of_class = champion.labels == label
            before, after = champion.correct[of_class], challenger.correct[of_class]
            drop = float(before.mean() - after.mean())
            p = mcnemar(int((after & ~before).sum()), int((before & ~after).sum()))
            if drop > self.max_class_drop and p < self.alpha / len(labels):  # Bonferroni: of ten, one may look bad
                why = f"class {label} falls from {before.mean():.2%} to {after.mean():.2%}, p = {p:.2g}"
                found.append({"class": label, "drop": drop, "p": p, "why": why})
        return max(found, key=lambda collapse: float(collapse["drop"]), default=None)

    def _decide_first(self, challenger: Predictions) -> Decision:
        statistics = {"accuracy": challenger.accuracy, "min_accuracy": self.min_accuracy}
        if challenger.accuracy < self.min_accuracy:
            needed = f"the first champion needs {self.min_accuracy:.2%}"
            return Decision(False, f"{challenger.name} has {challenger.accuracy:.2%}: {needed}", statistics)
        return Decision(True, f"{challenger.name} is the first champion, with {challenger.accuracy:.2%}", statistics)


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test: how likely so uneven a split is among equally good models."""
    n = gained + lost
    # In whole numbers: 2^n of ten thousand images is no float.
    tail = ways = 1
    for k in range(min(gained, lost)):
        ways = ways * (n - k) // (k + 1)  # n choose k + 1
        tail += ways
    return min(1.0, float(2 * tail / 2**n))
