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
    selected_from: int = 1,
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
        selected_from: the number of models of which this one was chosen by these answers. The best of many is partly
            the luckiest, so the lower end is that of an interval which covers all of them (Bonferroni).
    """
    images = len(correct)
    trials = max(1, len(per_trial))
    if not images:
        return 0.0, 1.0
    mean = int(correct.sum()) / (images * trials)
    group = units_of(images, groups)
    units = int(group.max()) + 1
    grouped = units < images
    freedom = max(1, units - 1)
    deviations = correct / trials - mean
    size = images / units
    squares = float((np.bincount(group, deviations) ** 2).sum()) * (units / freedom if grouped else 1.0)
    over_seeds = _over_seeds(deviations, np.array(per_trial) / images - mean, mean)
    variance = squares + images**2 * max(0.0, over_seeds)  # of the number of correct answers of a trial
    design = (variance + ALIKE * size**2) / (images * mean * (1 - mean) + ALIKE * size)
    effective = min(float(images * trials), images / design)
    return wilson_interval(mean, effective, *_quantiles(freedom if grouped else None, selected_from))


def balanced_interval(
    correct: NDArray[np.bool_], labels: NDArray[np.integer[Any]], groups: NDArray[np.int32] | None = None
) -> tuple[float, Interval]:
    """Return the mean of the accuracies of the classes, with its 95% interval: see `interval_of_recalls`.

    Args:
        correct, labels, groups: [images]
    """
    present, column, images = np.unique(labels, return_inverse=True, return_counts=True)
    group = units_of(len(labels), groups)
    units = np.bincount(np.unique(np.column_stack((column, group)), axis=0)[:, 0])  # of each class
    recalls = np.bincount(column, correct) / images
    # A group in several classes, such as a writer, makes these vary together.
    deviations = (correct - recalls[column]) / images[column] / len(present)
    groups_in_all = int(group.max()) + 1
    max_freedom = max(1, groups_in_all - 1)
    variance = float((np.bincount(group, deviations) ** 2).sum()) * groups_in_all / max_freedom
    spans = int(units.sum()) > groups_in_all
    return float(recalls.mean()), interval_of_recalls(recalls, units, variance, max_freedom if spans else None)


def interval_of_recalls(
    recalls: NDArray[np.float64],
    units: NDArray[np.integer[Any]],
    min_variance: float = 0.0,
    max_freedom: int | None = None,
) -> Interval:
    """Return the 95% interval of the mean of the accuracies of classes.

    The variance of the mean of K classes is the sum of p (1 - p) / n over the classes, / K^2. A correct and a wrong
    unit are added to each class, so that a few correct answers are no certainty. The interval is Wilson's for as many
    answers as have this variance, with the quantile of Student's t for the degrees of freedom of Welch and
    Satterthwaite, since a small class may have most of it.

    Args:
        recalls: [classes], their accuracies.
        units: [classes], the number of independent units of each: images, or groups.
        min_variance: of the mean, as the sums of the groups have it.
        max_freedom: degrees of freedom, if groups are in several classes.
    """
    smoothed = (recalls * units + 1) / (units + 2)
    of_classes = smoothed * (1 - smoothed) / units / len(units) ** 2
    variance = float(of_classes.sum())
    centre = float(smoothed.mean())
    freedom = variance**2 / float((of_classes**2 / np.maximum(1, units - 1)).sum())
    quantile = student_t_quantile(0.975, max(1, int(min(freedom, max_freedom or freedom))))
    images = centre * (1 - centre) / max(variance, min_variance)
    mean = float(recalls.mean())
    # One image less, since a model that guesses one of many classes is more often far above its mean than below.
    low, _ = wilson_interval(max(0.0, mean - 1 / images), images, quantile, quantile)
    return low, wilson_interval(mean, images, quantile, quantile)[1]


def units_of(images: int, groups: NDArray[np.integer[Any]] | None) -> NDArray[np.intp]:
    """Return the number of the independent unit of each image, its group or itself: [images]."""
    own = np.arange(images)
    units = own if groups is None else np.where(groups < 0, -1 - own, groups)
    return np.asarray(np.unique(units, return_inverse=True)[1])


def _quantiles(freedom: int | None, selected_from: int) -> tuple[float, float]:
    """Return the quantiles of the lower and the upper end. `freedom`: degrees of Student's t; None: normal ones."""
    levels = 1 - 0.025 / selected_from, 0.975
    low, high = (normal_quantile(p) if freedom is None else student_t_quantile(p, freedom) for p in levels)
    return low, high


def _over_seeds(of_images: NDArray[np.float64], of_trials: NDArray[np.float64], mean: float) -> float:
    """Return what seeds add to the variance of the mean, from the deviations of the accuracies from it."""
    images = len(of_images)
    trials = len(of_trials)
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
    low = 0.0
    high = 1e6
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
