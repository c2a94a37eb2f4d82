"""What is unusual about the new images of a run, given the earlier runs of its dataset.

A count is compared with those of earlier runs by the exact test of two Poisson rates: given the sum of both counts, one
of them has a binomial distribution. So a few earlier runs suffice, even if they have no image of the class.
"""

import math
from collections.abc import Sequence

from mnist_lib.data.split import CountsBySplit
from mnist_lib.documents import Count, Document, Rate
from mnist_lib.results import Accuracy

MAX_EARLIER_RUNS = 30
ALPHA = 0.001  # a count is unusual if one as large has a smaller probability


class Growth(Document, frozen=True, kw_only=True):
    added: Count  # number of new images
    usual: Rate  # mean number of new images of earlier runs


def growth(added: CountsBySplit, earlier: Sequence[CountsBySplit]) -> dict[str, Growth]:
    """Return the classes to which unusually many images were added, given the numbers of new images of each run."""
    counts, share = _by_class(added), 1 / (len(earlier) + 1)
    before = [_by_class(each) for each in earlier]
    found = {}
    for name, count in counts.items() if earlier else ():
        total = sum(each.get(name, 0) for each in before)
        if tail(count, total + count, share) < ALPHA:
            found[name] = Growth(added=count, usual=total / len(earlier))
    return found


def fall(new: Accuracy, earlier: Sequence[Accuracy]) -> Accuracy | None:
    """Return the accuracy of earlier runs on their new test images if that of this run is much worse, else None."""
    before = sum(earlier, Accuracy(0, 0))
    wrong, share = new.total - new.correct, new.total / (new.total + before.total)
    is_fall = tail(wrong, wrong + before.total - before.correct, share) < ALPHA
    return before if before.total and is_fall else None


def tail(count: int, trials: int, share: float) -> float:
    """Return the probability of `count` or more successes, if each of `trials` succeeds with probability `share`.

    A count up to the mean is usual, so its probability is given as 1.
    """
    if count <= trials * share or share == 1:
        return 1.0
    log_ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    term = math.exp(log_ways + count * math.log(share) + (trials - count) * math.log1p(-share))
    total = 0.0
    while term > total * 1e-12:  # above the mean, the terms fall
        total += term
        term *= (trials - count) / (count + 1) * share / (1 - share)
        count += 1
    return total


def _by_class(added: CountsBySplit) -> dict[str, int]:
    by_split = [*added.values()]
    return {name: sum(counts.get(name, 0) for counts in by_split) for counts in by_split for name in counts}
