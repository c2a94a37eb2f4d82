"""The shadow: one fixed challenger that is compared with the champion on every new picture, night after night.

Both were stored before a picture arrives, so neither was trained on it, nor chosen by it. The evidence is what a
gambler holds who began with 1 and bet on the shadow wherever only one of the two was right. If the shadow is no better,
the evidence reaches n with a probability of at most 1/n, however often one looks (Ville's inequality). That holds for
one fixed shadow, not for a challenger that changes every night.
"""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Annotated

from msgspec import Meta

from mnist_lib.data.request import ClassName
from mnist_lib.documents import Count, Number, Sha256
from mnist_lib.store.champions.evidence import AnswerCounts, evidence, log_wealth, mean_wealth
from mnist_lib.store.champions.promotion import Decision, Rule
from mnist_lib.wording import counted

MAX_NIGHTS = 60  # after which the newest version takes the shadow's place
MAX_ADVISED_NIGHTS = 1_000


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """What the shadow has shown so far, as a record of the log of champions holds it."""

    version: Number
    commit_sha256: Sha256  # of its commit record
    number: Number  # of all shadows of the log, from 1
    nights: Count = 0  # since it became the shadow
    # The weight of a bet on an image of each class, fixed before the first image; 1 for a class that is not named.
    weights: Mapping[ClassName, Annotated[float, Meta(gt=0, le=1)]] = field(default_factory=dict)
    classes: Mapping[ClassName, AnswerCounts] = field(default_factory=dict)  # of the new pictures so far
    counted: Sha256 | None = None  # the file with the images that were counted in this record

    @property
    def total(self) -> AnswerCounts:
        return sum(self.classes.values(), AnswerCounts())

    @property
    def evidence(self) -> float:
        """What a gambler holds who began with 1."""
        return evidence(self.classes, self.weights)

    def needed(self, alpha: float) -> float:
        """Return the evidence that promotes it, if all shadows together may do so by chance with this probability."""
        # The sum of 1 / (k (k + 1)) is 1.
        return self.number * (self.number + 1) / alpha if alpha else math.inf

    def after(self, new: Mapping[str, AnswerCounts]) -> "Shadow":
        """Return what it has shown after one more night, without the file of its pictures.

        Args:
            new: by class, the counts of the pictures that arrived since the last one.
        """
        classes = {
            name: self.classes.get(name, AnswerCounts()) + new.get(name, AnswerCounts())
            for name in sorted({*self.classes, *new})
        }
        return replace(self, nights=self.nights + 1, classes=classes, counted=None)

    def follows(self, before: "Shadow") -> bool:
        """Return whether a later record of the log may hold this, after one that holds `before`."""
        if before.number != self.number:
            return before.number < self.number
        fixed = [(each.version, each.commit_sha256, each.weights) for each in (before, self)]
        counts = [
            [astuple(each.classes.get(name, AnswerCounts())) for name in before.classes] for each in (before, self)
        ]
        grown = all(old <= new for row in zip(*counts, strict=True) for old, new in zip(*row, strict=True))
        return fixed[0] == fixed[1] and grown and before.nights <= self.nights

    def decide(self, rule: Rule, model: str, champion: str) -> Decision | None:
        """Promote it if its evidence suffices and no class collapses, or return None."""
        needed, total = self.needed(rule.shadows_alpha), self.total
        if self.evidence < needed or rule.collapse(self.classes) is not None:
            return None
        counts = {"images": total.images, "gained": total.gained, "lost": total.lost}
        statistics = {"test": "evidence of new pictures", **counts, "evidence": self.evidence, "needed": needed}
        why = (
            f"{model}@{self.version} becomes the champion: it gained {total.gained:,} and lost {total.lost:,} of"
            f" {counted(total.images, 'picture')} that arrived in {counted(self.nights, 'night')}, which neither it nor"
            f" {champion} was trained on (evidence {self.evidence:.3g}; it needed {needed:.3g})"
        )
        return Decision(True, why, instead=self.version, statistics=statistics)

    def text(self, rule: Rule, model: str) -> str:
        """Return what it has shown in one sentence, with what is missing; "" if nothing."""
        needed, total = self.needed(rule.shadows_alpha), self.total
        if not total.images or not rule.alpha:
            return ""
        if collapse := rule.collapse(self.classes):
            more = f"; {collapse['why']}"
        else:
            nights = self._missing_nights(needed)
            more = f"; at this rate, {counted(nights, 'more night')} would do" if nights else ""
        return (
            f"meanwhile, {model}@{self.version} gained {total.gained:,} and lost {total.lost:,} of"
            f" {counted(total.images, 'new picture')}"
            f" (evidence {self.evidence:.3g} of the {needed:.3g} that it needs{more})"
        )

    def _missing_nights(self, needed: float) -> int:
        """Return after how many more nights like those so far the evidence would suffice, or 0 if none are known."""
        logs, nights = log_wealth(self.classes, self.weights), max(1, self.nights)
        enough = (more for more in range(1, MAX_ADVISED_NIGHTS) if mean_wealth(logs, 1 + more / nights) >= needed)
        return next(enough, 0)
