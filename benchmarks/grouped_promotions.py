"""How often chance decides about models whose test images come in groups, and how true balanced intervals are.

No model is trained: a model is right or wrong about whole objects, each of which has ten pictures. Equally good models
replace each other, raise a false alarm about a class, or are a first champion that only guesses, as often as chance has
it. The last table draws answers of known accuracy in each class, and counts the intervals that contain their mean.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.record import setting
from mnist_lib.intervals import balanced_interval
from mnist_lib.store.champions.comparison import Compared
from mnist_lib.store.champions.promotion import Budget, Rule
from mnist_lib.store.predictions import Predictions
from mnist_lib.wording import percent

PICTURES, NIGHTS, SERIES = 10, 30, 1_000  # of an object; of a series; simulated series, alarms and first champions
OBJECTS, ERRORS = (20, 60, 200), (0.05, 0.2)
CLASSES = tuple("0123456789")
RULE = Rule()
# The accuracy on each class, and the test images of each.
CASES: Mapping[str, tuple[Sequence[float], Sequence[int]]] = {
    "nine classes of 500 at 99%, one of 20 at 80%": ([0.99] * 9 + [0.8], [500] * 9 + [20]),
    "190 at 95%, 10 at 50%": ([0.95, 0.5], [190, 10]),
    "500 at 99%, 10 at 60%": ([0.99, 0.6], [500, 10]),
    "ten of 50 at 90%": ([0.9] * 10, [50] * 10),
    "ten of 10 to 190, at 50% to 99%": (np.linspace(0.5, 0.99, 10).tolist(), list(range(10, 200, 20))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=SERIES, help=f"simulations of each row (default: {SERIES:,})")
    options = parser.parse_args()
    print("\n".join([setting(len(os.sched_getaffinity(0))), *report(options.series)]))


def report(count: int) -> list[str]:
    """Return the tables in Markdown. `count`: simulations of each row."""
    lines = [
        f"{PICTURES} pictures of each object, {NIGHTS} nights; n = {count:,} for each row.",
        "",
        "| objects in the test | error | series with a false promotion | with a false alarm about a class |",
        "|---|---|---|---|",
    ]
    for objects in OBJECTS:
        for error in ERRORS:
            promoted, alarmed = np.mean(simulated(partial(series, objects=objects, error=error), count), axis=0)
            lines.append(f"| {objects} | {percent(error)} | {percent(promoted)} | {percent(alarmed)} |")
    lines += ["", "| objects in the test | classes | a guess is the first champion | by balanced accuracy |"]
    lines.append("|---|---|---|---|")
    for objects in OBJECTS:
        for skewed in (False, True):
            passed = np.mean(simulated(partial(guesses, objects=objects, skewed=skewed), count), axis=0)
            classes = "two, 90% and 10%" if skewed else "ten"
            lines.append(f"| {objects} | {classes} | {percent(passed[0])} | {percent(passed[1])} |")
    lines += ["", "| classes and accuracies | intervals that contain the balanced accuracy |", "|---|---|"]
    for name, (recalls, sizes) in CASES.items():
        covered = simulated(partial(covers, recalls=recalls, sizes=sizes), count)
        lines.append(f"| {name} | {percent(float(np.mean(covered)))} |")
    return lines


def simulated(simulation: Callable[[int], Any], count: int) -> list[Any]:
    """Return the results of a simulation for the seeds from 0 on, computed on all CPUs."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(simulation, range(count), chunksize=max(1, count // 20)))


def series(seed: int, objects: int, error: float) -> tuple[bool, bool]:
    """Return whether any of a series of equally good models is promoted, and whether the first one raises an alarm."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(objects, dtype=np.int32), PICTURES)
    labels = np.repeat(random.integers(10, size=objects), PICTURES)
    models = (np.repeat(random.random(objects) >= error, PICTURES) for _ in range(NIGHTS + 1))
    champion, budget, promoted, alarmed = next(models), Budget(RULE.alpha), False, False
    for night, challenger in enumerate(models):
        both = Compared("challenger", "champion", challenger, champion, labels, CLASSES, groups=groups)
        if night == 0:
            alarmed = RULE.collapse(both) is not None
        if RULE.decide(both, budget.next_alpha).promote:
            promoted, champion = True, challenger
        budget = budget.after_comparison()
    return promoted, alarmed


def guesses(seed: int, objects: int, *, skewed: bool) -> tuple[bool, bool]:
    """Return whether a model that guesses each object becomes the first champion, also by balanced accuracy."""
    random = np.random.default_rng(seed)
    classes = 2 if skewed else 10
    labels = (random.random(objects) < 0.1).astype(int) if skewed else random.integers(10, size=objects)
    labels[:classes] = np.arange(classes)
    answers, groups = random.integers(classes, size=objects), np.arange(objects, dtype=np.int32)
    repeated, labels, groups = (np.repeat(column, PICTURES) for column in (answers, labels, groups))
    probabilities, hashes = np.eye(classes, dtype=np.float32)[repeated], np.zeros((len(labels), 2), np.uint64)
    names = CLASSES[:classes]
    guess = Predictions("guess", len(labels), probabilities, labels.astype(np.uint8), names, hashes, groups)
    plain, balanced = (RULE.decide_first(guess, balanced=balanced).promote for balanced in (False, True))
    return plain, balanced


def covers(seed: int, recalls: Sequence[float], sizes: Sequence[int]) -> bool:
    """Return whether the interval of drawn answers contains the true balanced accuracy."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    correct = np.random.default_rng(seed).random(len(labels)) < np.array(recalls)[labels]
    low, high = balanced_interval(correct, labels)[1]
    return bool(low <= np.mean(recalls) <= high)


if __name__ == "__main__":
    main()
