"""The budget of significance: how often chance may replace a model's champion, over all comparisons on a data set.

A test at 5% promotes one of twenty equally good challengers. So each comparison spends a fixed share of what is left of
the total, and the sum over all comparisons, however many follow, stays below the total.
"""

from dataclasses import dataclass

from mnist_lib.run_documents import Significance
from mnist_lib.wording import counted

TOTAL = 0.05  # by default
SHARE = 0.01  # of what is left, for one comparison: the 30th is still made at three quarters of the first one's level
MIN_LEFT = (
    0.02  # share of the total below which it counts as used up: after 391 comparisons, more than a year of nights
)
MIN_FRESH_IMAGES = 500  # for a new budget; fewer could hardly show a difference at the level of one comparison


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

    def after_comparison(self) -> "Budget":
        return Budget(self.total, self.spent + self.next_alpha, self.comparisons + 1)

    def document(self) -> Significance:
        """Return the budget for a document."""
        return Significance(total=self.total, left=self.left, comparisons=self.comparisons)

    def __str__(self) -> str:
        """What is left, in terms that anyone understands."""
        so_far = f"{counted(self.comparisons, 'comparison')} so far"
        return f"{100 * self.left:.3g}% is left of the {100 * self.total:.3g}% that chance may decide ({so_far})"
