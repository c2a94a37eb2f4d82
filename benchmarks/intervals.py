"""Coverage of the 95% interval of an accuracy, simulated: how often it contains the true one, and how wide it is.

An answer is correct if the ability of its seed plus the easiness of its image plus chance exceed a threshold, all
normally distributed. For one seed, the true accuracy is that of the seed over all images; for several, the mean over
seeds, too. The width is compared with that of Wilson's interval for the true variance of the mean.
"""

import argparse
import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import setting
from mnist_lib.intervals import accuracy_interval
from mnist_lib.results import normal_quantile, wilson_interval

SEEDS, IMAGES, ACCURACIES = (1, 2, 3, 5), (100, 300, 1_000), (0.7, 0.9, 0.97, 0.995)
MIN_COVERAGE, MAX_WIDTH = 0.92, 1.5
# Standard deviations of ability and easiness; that of chance is 1. Models of 97% then differ by 0.15 points from seed
# to seed on a large test set, and two trials of 97% have half of their wrong answers in common.
ABILITY, EASINESS = 0.05, 2.0
GRID = np.linspace(-9, 9, 6_001)
CUMULATIVE = np.array([NormalDist().cdf(x) for x in GRID])


@dataclass(frozen=True)
class Simulated:
    coverage: float
    width: float  # relative to an interval that knows the variances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2_000, help="of each case (default: 2000)")
    options = parser.parse_args()
    lines = [setting(1), f"n = {options.repetitions:,} repetitions of each case.", ""]
    lines += ["| seeds | images | coverage, lowest to highest | width, lowest to highest |", "|---|---|---|---|"]
    for seeds, images in itertools.product(SEEDS, IMAGES):
        found = [simulate(seeds, images, accuracy, options.repetitions) for accuracy in ACCURACIES]
        coverages, widths = [one.coverage for one in found], [one.width for one in found]
        coverage = f"{min(coverages):.1%} to {max(coverages):.1%}"
        lines.append(f"| {seeds} | {images:,} | {coverage} | {min(widths):.2f} to {max(widths):.2f} |")
    print("\n".join(lines))


def simulate(seeds: int, images: int, accuracy: float, repetitions: int, ability: float = ABILITY) -> Simulated:
    """Return the coverage and the width for models of this true accuracy."""
    random = np.random.default_rng(0)
    threshold = -NormalDist().inv_cdf(accuracy) * math.sqrt(1 + ability**2 + EASINESS**2)
    covered, widths, means, truths = 0, list[float](), list[float](), list[float]()
    for _ in range(repetitions):
        abilities = ability * random.standard_normal((seeds, 1))
        easiness = EASINESS * random.standard_normal(images)
        correct = random.random((seeds, images)) < probability(abilities + easiness - threshold)
        low, high = accuracy_interval(correct.sum(axis=0), correct.sum(axis=1).tolist())
        one_seed = probability((abilities[0] - threshold) / math.sqrt(1 + EASINESS**2))
        truths.append(accuracy if seeds > 1 else float(one_seed[0]))
        covered += low <= truths[-1] <= high
        widths.append(high - low)
        means.append(float(correct.mean()))
    variance = float(np.square(np.subtract(means, truths)).mean())
    z = normal_quantile(0.975)
    known = [wilson_interval(mean, accuracy * (1 - accuracy) / variance, z, z) for mean in means]
    return Simulated(covered / repetitions, sum(widths) / sum(high - low for low, high in known))


def probability(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability that a standard normal number is below each score."""
    return np.asarray(np.interp(score, GRID, CUMULATIVE))


if __name__ == "__main__":
    main()
