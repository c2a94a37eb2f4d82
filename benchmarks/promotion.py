"""Simulated years of nightly retraining: how often chance replaces the champion, and how soon a better model does.

No model is trained: a model is the images of a fixed hold-out that it answers wrongly. Some images are hard, and every
model is wrong about a hard one with the same probability, so that equally good models share a part of their errors. The
decisions and the budget are those of a promotion.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import setting
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.promotion import Budget, Compared, Rule
from mnist_lib.wording import percent

IMAGES, NIGHTS, TRIES = 10_000, 365, 3  # of the hold-out; of a year; nights within which a better model is to win
CLASSES = tuple("0123456789")
SHARED = 0.5  # share of a model's errors that an equally good one also makes
BETTER = 2 / 3  # errors of the better challenger, as a share of the champion's
RULE = Rule()


@dataclass(frozen=True)
class Model:
    """A trained model: how good it is, and its answers to the hold-out."""

    error: float  # its true error rate
    right: NDArray[np.bool_]  # [images]


@dataclass(frozen=True)
class HoldOut:
    """A fixed hold-out, whose first images are the hard ones."""

    hard: int
    labels: NDArray[np.uint8]  # [images]
    hard_share: float  # in the population

    @classmethod
    def draw(cls, generator: np.random.Generator, error: float) -> "HoldOut":
        """Draw images on which models with this error rate share the share `SHARED` of their errors."""
        labels = generator.integers(10, size=IMAGES, dtype=np.uint8)
        return cls(int(generator.binomial(IMAGES, error / SHARED)), labels, error / SHARED)

    def model(self, generator: np.random.Generator, error: float) -> Model:
        """Draw a trained model with a true error rate."""
        right = np.ones(IMAGES, np.bool_)
        right[: self.hard] = generator.random(self.hard) >= error / self.hard_share
        return Model(error, right)


@dataclass(frozen=True)
class Year:
    false_promotions: int
    promoted_within: int | None  # nights after which the first better challenger was promoted; None if it was not
    covered: bool  # whether the interval shown for the last champion contains its true accuracy
    plainly_covered: bool  # the same for an interval that does not allow for the selection


def simulate(seed: int, error: float, challengers: Callable[[np.random.Generator], Iterator[float]]) -> Year:
    """Simulate the nights of a year.

    Args:
        error: the true error rate of the first champion.
        challengers: yields the true error rate of each night's challenger.
    """
    generator = np.random.default_rng(seed)
    hold_out = HoldOut.draw(generator, error)
    champion, budget, selected_from = hold_out.model(generator, error), Budget(RULE.alpha), 1
    false, better, within = 0, 0, None
    for challenger_error in challengers(generator):
        challenger = hold_out.model(generator, challenger_error)
        better += challenger_error < error
        if budget.is_used_up:
            continue
        both = Compared("challenger", "champion", challenger.right, champion.right, hold_out.labels, CLASSES)
        decision = RULE.decide(both, budget.next_alpha)
        budget = budget.after_comparison()
        if decision.promote:
            false += challenger_error >= champion.error
            within = better if within is None and challenger_error < champion.error else within
            champion, selected_from = challenger, budget.comparisons + 1
    shown = Accuracy(int(champion.right.sum()), IMAGES)
    covered = [low <= 1 - champion.error <= high for low, high in (shown.interval(selected_from), shown.interval())]
    return Year(false, within, *covered)


def equal(error: float) -> Callable[[np.random.Generator], Iterator[float]]:
    """Challengers as good as the first champion, every night."""
    return partial(_equal, error)


def better_from(night: int, error: float) -> Callable[[np.random.Generator], Iterator[float]]:
    """Equal challengers, then better ones from a night on, for as many nights as they have to be promoted."""
    return partial(_better_from, night, error)


def varying(error: float) -> Callable[[np.random.Generator], Iterator[float]]:
    """Challengers whose error rates differ by a tenth: many chances to select a lucky one."""
    return partial(_varying, error)


def _equal(error: float, _: np.random.Generator) -> Iterator[float]:
    return iter([error] * NIGHTS)


def _better_from(night: int, error: float, _: np.random.Generator) -> Iterator[float]:
    return iter([error] * (night - 1) + [BETTER * error] * TRIES)


def _varying(error: float, generator: np.random.Generator) -> Iterator[float]:
    return iter(np.clip(error * generator.normal(1, 0.1, NIGHTS), 0, 2 * error * (1 - SHARED)).tolist())


def years(count: int, error: float, challengers: Callable[[np.random.Generator], Iterator[float]]) -> list[Year]:
    """Simulate independent years, on all CPUs."""
    workers = len(os.sched_getaffinity(0))
    if workers == 1 or count < 10 * workers:
        return [simulate(seed, error, challengers) for seed in range(count)]
    with ProcessPoolExecutor(workers) as pool:
        task = partial(simulate, error=error, challengers=challengers)
        return list(pool.map(task, range(count), chunksize=10))


def share(found: Sequence[bool]) -> float:
    return statistics.fmean(found)


def report(years_each: int) -> str:
    """Return the record in Markdown."""
    begin = time.monotonic()
    lines = [
        setting(len(os.sched_getaffinity(0))),
        f"A fixed hold-out of {IMAGES:,} images, {NIGHTS} nights; n = {years_each:,} years for each row, seeds from 0.",
        "",
        "| error of the champion | challengers | years with a false promotion | interval covers | plain one covers |",
        "|---|---|---|---|---|",
    ]
    for error in (0.02, 0.01, 0.005):
        for name, challengers in (("equally good", equal(error)), ("better and worse ones", varying(error))):
            found = years(years_each, error, challengers)
            false = percent(share([year.false_promotions > 0 for year in found]))
            covered = percent(share([year.covered for year in found]))
            plainly = percent(share([year.plainly_covered for year in found]))
            lines.append(f"| {100 * error:g}% | {name} | {false} | {covered} | {plainly} |")
    lines += [
        "",
        "| error of the champion | better challenger appears on | promoted on the first night | within three nights"
        " | interval covers | plain one covers |",
        "|---|---|---|---|---|---|",
    ]
    for error in (0.02, 0.01, 0.005):
        for night in (1, 30, 365):
            found = years(years_each, error, better_from(night, error))
            first = percent(share([year.promoted_within == 1 for year in found]))
            within = percent(share([year.promoted_within is not None for year in found]))
            covered = percent(share([year.covered for year in found]))
            plainly = percent(share([year.plainly_covered for year in found]))
            lines.append(f"| {100 * error:g}% | night {night} | {first} | {within} | {covered} | {plainly} |")
    return "\n".join([*lines, "", f"It took {time.monotonic() - begin:.0f} s."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="ignored: this benchmark trains nothing")
    parser.add_argument("--years", type=int, default=1_000, help="simulated years for each row (default: 1,000)")
    print(report(parser.parse_args().years))


if __name__ == "__main__":
    main()
