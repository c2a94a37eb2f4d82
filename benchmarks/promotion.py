"""Simulated years of nightly retraining: how often chance replaces the champion, and how soon a better model does.

No model is trained: a model is the images of a fixed hold-out that it answers wrongly. Some images are hard, and every
model is wrong about a hard one with the same probability, so that equally good models share a part of their errors. The
decisions and the budget are those of a promotion.

The other tables are about a folder that grows, where a night's model is trained on more pictures than the champion.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import setting
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.comparison import Compared
from mnist_lib.store.champions.promotion import Budget, Rule
from mnist_lib.wording import percent

IMAGES, NIGHTS, TRIES = 10_000, 365, 3  # of the hold-out; of a year; nights within which a better model is to win
CLASSES = tuple("0123456789")
PICTURES, GROWING_YEARS = 300, 200  # of a growing folder on its first day; simulated years for each row
# A model's error rate falls with this power of the number of pictures: tenfold pictures make it 0.39 of what it was.
POWER, TEST_SHARE = 0.41, 0.15
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


@dataclass(frozen=True)
class Growth:
    """A folder to which pictures are added every day, and the models that are trained on it every night."""

    error: float  # of a model that is trained on the first day's pictures
    per_day: int = 20
    power: float = POWER
    broken: float = 0.0  # share of the nights whose model has twice the error
    scatter: float = 0.0  # standard deviation of a model's error, as a share of it
    better: float = 1.0  # errors of all challengers, as a share of those of a first champion
    shared: float = SHARED  # share of a model's errors that an equally good one also makes
    small: float = 0.0  # share of one of two classes; 0 for ten classes of equal size


@dataclass(frozen=True)
class GrowingYear:
    deployed: float  # mean error of the champion over the nights
    newest: float  # mean error of each night's model
    worst: float  # highest error of a champion, over that of the first one
    relative: float  # mean error of the champion, over that of the first one
    worse: int  # promotions to a model with a higher error
    no_better: int  # promotions to a model that has no lower error
    first: int | None  # night of the first promotion


def grow(seed: int, growth: Growth, nights: int = NIGHTS, rule: Rule = RULE) -> GrowingYear:
    """Simulate a year in which the hold-out grows, too: the share `TEST_SHARE` of all pictures."""
    generator = np.random.default_rng(seed)
    images = PICTURES + growth.per_day * nights
    is_test, labels = generator.random(images) < TEST_SHARE, generator.integers(10, size=images)
    if growth.small:
        labels = (generator.random(images) < growth.small).astype(np.int64)
    hard = generator.random(images)  # a model is wrong only about images below its error rate / the shared share

    def model(pictures: int, broken: float = 0.0, better: float = 1.0) -> tuple[int, Model]:
        """Return the number of training images and the model of a night."""
        error = growth.error * better * (pictures / PICTURES) ** -growth.power * generator.lognormal(0, growth.scatter)
        error = min(growth.shared, error * (1 + (generator.random() < broken)))
        wrong = (hard < error / growth.shared) & (generator.random(images) < growth.shared)
        return int((~is_test[:pictures]).sum()), Model(error, ~wrong)

    trained, champion = model(PICTURES)
    tested = PICTURES  # the hold-out of the champion is among so many pictures
    start = champion.error
    budget = Budget(rule.alpha)
    errors: list[float] = []
    newest: list[float] = []
    promoted = list[tuple[int, float]]()  # nights, and errors as a share of those of the champion before
    for night in range(1, nights + 1):
        pictures = PICTURES + growth.per_day * night
        images_of_night, challenger = model(pictures, growth.broken, growth.better)
        rows = np.flatnonzero(is_test[:pictures])
        right = challenger.right[rows], champion.right[rows]
        known = rows < tested
        both = Compared("new", "old", *right, labels[rows], CLASSES, bool(growth.small), tested=known)
        decision = rule.decide_by_data(both, images_of_night - trained, trained)
        if decision is None or not decision.promote:
            decision, budget = rule.decide(both, budget.next_alpha), budget.after_comparison()
        if decision.promote:
            promoted.append((night, challenger.error / champion.error))
            trained = images_of_night
            champion = challenger
            tested = pictures
        errors.append(champion.error)
        newest.append(challenger.error)
    mean = statistics.fmean(errors)
    worse, no_better = sum(share > 1 for _, share in promoted), sum(share >= 1 for _, share in promoted)
    first = promoted[0][0] if promoted else None
    return GrowingYear(mean, statistics.fmean(newest), max(errors) / start, mean / start, worse, no_better, first)


GROWTHS = {
    "20 a day, first error 5%": Growth(0.05),
    "20 a day, first error 10%, 5% of nights broken": Growth(0.1, broken=0.05),
    "20 a day, first error 15%": Growth(0.15),
    "5 a day, first error 5%": Growth(0.05, per_day=5),
    "20 a day, no gain from data, models scatter by 10%": Growth(0.05, power=0.0, scatter=0.1),
    "20 a day, first error 10%, one of two classes has 5%": Growth(0.1, small=0.05),
}
EQUAL = Growth(0.05, power=0.0)
NO_GAIN = {
    "equal, share 76% of their errors": replace(EQUAL, shared=0.76),
    "equal, share 92%": replace(EQUAL, shared=0.92),
    "equal, share 84%, no new pictures": replace(EQUAL, shared=0.84, per_day=0),
    "equal, share 84%, one of two classes has 5%, balanced accuracy": replace(EQUAL, shared=0.84, small=0.05),
    "half as many errors, 20 new pictures a day": replace(EQUAL, better=0.5),
    "a third fewer errors, 60 new pictures a day": replace(EQUAL, better=2 / 3, per_day=60),
}


def simulated(growth: Growth, rule: Rule, count: int) -> list[GrowingYear]:
    """Simulate independent growing years, on all CPUs."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(partial(grow, growth=growth, rule=rule), range(count), chunksize=5))


def growing_report(years_each: int) -> list[str]:
    """Return the tables of growing folders in Markdown: by data, by significance alone, and how soon."""
    lines = [
        f"A folder of {PICTURES} pictures that grows, {NIGHTS} nights; n = {years_each:,} years for each row.",
        "",
        "| pictures | `--promote` | mean error of the champion | of each night's model | highest error / first one"
        " | mean error / first one | promotions to a worse model a year (of comparisons) |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, growth), when in itertools.product(GROWTHS.items(), ("if-better", "if-significant")):
        found = simulated(growth, Rule(promote=when), years_each)
        deployed, newest, worst, relative, worse = (
            statistics.fmean(column)
            for column in zip(*((y.deployed, y.newest, y.worst, y.relative, y.worse) for y in found), strict=True)
        )
        errors = f"{percent(deployed)} | {percent(newest)} | {worst:.2f} | {relative:.2f}"
        lines.append(f"| {name} | {when} | {errors} | {worse:.2f} ({percent(worse / NIGHTS)}) |")
    lines += [
        "",
        f"The same folder with models that data do not improve and `--promote if-significant`, {100 * EQUAL.error:g}%"
        " errors; the champion and each challenger:",
        "",
        "| challengers | years with a false promotion | median nights to the first promotion |",
        "|---|---|---|",
    ]
    for name, growth in NO_GAIN.items():
        found = simulated(growth, Rule(promote="if-significant"), years_each)
        false = percent(share([year.no_better > 0 for year in found])) if growth.better == 1 else "-"
        nights = statistics.median(year.first or NIGHTS + 1 for year in found) if growth.better < 1 else "-"
        lines.append(f"| {name} | {false} | {nights} |")
    return lines


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
    lines += ["", *growing_report(min(years_each, GROWING_YEARS))]
    return "\n".join([*lines, "", f"It took {time.monotonic() - begin:.0f} s."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="ignored: this benchmark trains nothing")
    parser.add_argument("--years", type=int, default=1_000, help="simulated years for each row (default: 1,000)")
    print(report(parser.parse_args().years))


if __name__ == "__main__":
    main()
