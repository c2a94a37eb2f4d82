"""The 95% interval of an accuracy: how far another test set of this size, and other seeds, may move it.

The trials of a run answer the same images, so more seeds make an interval narrower only as far as seeds matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.documents import Interval
from mnist_lib.results import normal_quantile, wilson_interval

# What the interval allows for, by whether the accuracy is the mean of several trials.
VARYING = {False: "another test set of this size", True: "another seed and another test set of this size"}

# Images that are counted as if all trials answered them alike. Without them, a single wrong answer of five trials would
# count as evidence of 5n independent answers: in simulations of 99.5% on 300 images, 88% of the intervals then covered.
ALIKE = 0.1
MAX_DEGREES = 1_000  # of Student's t; with more, its quantile differs from the normal one by less than 0.2%


def accuracy_interval(
    correct: NDArray[np.integer[Any]] | NDArray[np.bool_],
    per_trial: Sequence[int] = (),
    groups: NDArray[np.int32] | None = None,
) -> Interval:
    """Return the 95% interval of the mean accuracy of trials: Wilson's for as many independent answers as count.

    With the mean m, n images and S trials that is m (1 - m) / V, at most nS, where V is the variance of m: that of the
    trials' accuracies / S + that of the images' accuracies / n - that of their interaction / (nS), at least the second
    of these. If all answers are correct, or none, it is n. With one trial and without groups the interval is Wilson's.

    Args:
        correct: [images] the number of trials that predict an image correctly.
        per_trial: [trials] the number of images that a trial predicts correctly; by default there is one trial.
        groups: [images] the number of the group of an image, such as its object or its writer. Another test set would
            have other groups: each counts as one unit, and the quantile is that of Student's t.
    """
    images, trials = len(correct), max(1, len(per_trial))
    if not images:
        return 0.0, 1.0
    mean = int(correct.sum()) / (images * trials)
    group = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(group.max()) + 1
    grouped = units < images
    freedom = max(1, units - 1)
    deviations, size = correct / trials - mean, images / units
    squares = float((np.bincount(group, deviations) ** 2).sum()) * (units / freedom if grouped else 1.0)
    over_seeds = _over_seeds(deviations, np.array(per_trial) / images - mean, mean)
    variance = squares + images**2 * max(0.0, over_seeds)  # of the number of correct answers of a trial
    design = (variance + ALIKE * size**2) / (images * mean * (1 - mean) + ALIKE * size)
    effective = min(float(images * trials), images / design)
    quantile = student_t_quantile(0.975, freedom) if grouped else normal_quantile(0.975)
    return wilson_interval(mean, effective, quantile, quantile)


def _over_seeds(of_images: NDArray[np.float64], of_trials: NDArray[np.float64], mean: float) -> float:
    """Return what seeds add to the variance of the mean, from the deviations of the accuracies from it."""
    images, trials = len(of_images), len(of_trials)
    if min(images, trials) < 2:
        return 0.0
    squares = float((of_trials**2).sum())
    rest = images * trials * mean * (1 - mean) - images * squares - trials * float((of_images**2).sum())
    interaction = max(0.0, rest) / ((images - 1) * (trials - 1))
    return squares / (trials - 1) / trials - interaction / (images * trials)


def student_t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t at `probability` in [0.5, 1), by bisection of its exact distribution.

    SciPy is not used because Keras would import it in every worker.
    """
    if degrees > MAX_DEGREES:
        return normal_quantile(probability)
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _student_t_cdf(t: float, degrees: int) -> float:
    # Abramowitz and Stegun 26.7.3 and 26.7.4: a finite series for integer degrees of freedom.
    theta = math.atan(t / math.sqrt(degrees))
    cos2 = math.cos(theta) ** 2
    odd = degrees % 2 == 1
    term = math.cos(theta) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    within = 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
    return 0.5 + within / 2
