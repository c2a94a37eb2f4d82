"""What the answers of two models to the same images show: counts, exact tests, and evidence that adds up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_lib.documents import Count
from mnist_lib.errors import SpecError

if TYPE_CHECKING:  # importing NumPy would delay the report of a usage error
    import numpy as np
    from numpy.typing import NDArray

MAX_EXACT = 100_000  # images: the exact test takes a third of a second for so many, and the square of that for more
# Of the sign-flip test. 1,000 differences of classes with 10 to 500 images take a tenth of a second.
SIGN_FLIP_STEPS, MAX_SIGN_FLIPS = 500, 1_000
NO_DIFFERENCE = 1e-9  # of the largest difference: an error of rounding
SHARES = tuple((number + 0.5) / 100 for number in range(100))  # of the gambler's money that is bet


@dataclass(frozen=True)
class AnswerCounts:
    """Counts of images that champion and challenger answered. `AnswerCounts()` is the start value of a sum."""

    images: Count = 0
    champion: Count = 0  # those that the champion answers correctly
    gained: Count = 0  # those that only the challenger answers correctly
    lost: Count = 0  # those that only the champion answers correctly

    def __post_init__(self) -> None:
        if self.lost > self.champion or self.champion + self.gained > self.images:
            raise SpecError(f"counts: expected at most {self.images} images, got {self}")

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

    Suppose that the two models are equally good. The p-value is then the probability that, of the images on which only
    one is right, at least `gained` go to the challenger.
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


def sign_flip_p(differences: NDArray[np.floating[Any]]) -> float:
    """Return the one-sided p-value of the exact sign-flip test.

    Suppose that the two models are equally good, so that each difference could as well have the other sign. The p-value
    is then the probability of a sum that is at least as large. If all differences are equally large, the test is
    McNemar's. Otherwise they are rounded to `SIGN_FLIP_STEPS` parts of the largest one, for which the test is exact.

    Args:
        differences: [units], what the challenger gains or loses on each independent unit: an image, or a group.
    """
    import numpy as np  # not above: it would delay the report of a usage error

    sizes = np.abs(differences)
    present = sizes > NO_DIFFERENCE * sizes.max(initial=0.0)
    sizes, positive = sizes[present], differences[present] > 0
    if not len(sizes) or np.allclose(sizes, sizes[0]):
        return mcnemar(int(positive.sum()), int((~positive).sum()))
    if len(sizes) > MAX_SIGN_FLIPS:  # the normal distribution is close enough
        return math.erfc(float(differences.sum()) / math.sqrt(2 * float((sizes**2).sum()))) / 2
    steps = np.rint(sizes / sizes.max() * SIGN_FLIP_STEPS).astype(np.int64)
    gained, total = int(steps[positive].sum()), int(steps.sum())
    # The probability of each sum of the differences that become positive.
    probabilities, end = np.zeros(total + 1), 0
    probabilities[0] = 1.0
    for step in np.sort(steps).tolist():
        probabilities[step : end + step + 1] += probabilities[: end + 1].copy()
        end += step
        probabilities[: end + 1] /= 2
    return min(1.0, float(probabilities[gained:].sum()))


def evidence(classes: Mapping[str, AnswerCounts], weights: Mapping[str, float]) -> float:
    """Return what a gambler holds who began with 1 and bet a share of it on each image that only one model knew.

    This is the mean over a hundred shares. With equal weights, over all shares from 0 to 1, it would be
    2^(g+l+1) B(g+1, l+1) P(Bin(g+l+1, 1/2) <= g), for g images gained and l lost.

    Args:
        weights: of a bet on an image of each class, from 0 to 1; 1 for a class that is not named.
    """
    return mean_wealth(log_wealth(classes, weights))


def log_wealth(classes: Mapping[str, AnswerCounts], weights: Mapping[str, float]) -> list[float]:
    """Return the logarithm of what the gambler holds, for each share."""
    bets = [(weights.get(name, 1.0), counts) for name, counts in classes.items()]
    return [
        sum(each.gained * math.log1p(share * w) + each.lost * math.log1p(-share * w) for w, each in bets)
        for share in SHARES
    ]


def mean_wealth(logs: Sequence[float], times: float = 1.0) -> float:
    """Return the mean of exp(times * log), at most 1e304, since JSON has no infinity."""
    highest = max(logs)
    mean = sum(math.exp(times * (each - highest)) for each in logs) / len(logs)
    return math.exp(min(700.0, times * highest + math.log(mean)))


def balanced_weights(images: Mapping[str, int]) -> dict[str, float]:
    """Return the weight of a bet on an image of each class, by which each class counts as much: 1 for the smallest.

    Args:
        images: the number of images of each class; classes without any are left out.
    """
    counts = {name: count for name, count in images.items() if count}
    smallest = min(counts.values(), default=0)
    return {name: smallest / count for name, count in counts.items()}
