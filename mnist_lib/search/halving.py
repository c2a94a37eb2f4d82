"""Successive halving: which configuration is trained next, and which ones go on.

Configurations form brackets in the order of their numbers. All of a bracket are trained up to its first rung; the best
third goes on to the next one, from where it stopped. A rung is decided only when all its scores are known, so decisions
depend on the scores alone, not on the number of lanes, the order of events, or deaths. (Jamieson and Talwalkar, 2016;
https://arxiv.org/abs/1502.07943) With folds, a configuration is trained once for each fold, and its score is the sum of
the counts of all folds.
"""

import bisect
import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mnist_lib.errors import SpecError
from mnist_lib.results import Accuracy
from mnist_lib.run_documents import RungDecision

REDUCTION = 3  # one of this many goes on


@dataclass(frozen=True)
class Ladder:
    """The rungs of a bracket, as numbers of epochs, and how many configurations begin it."""

    rungs: tuple[int, ...]
    bracket: int
    folds: int = 1  # how many trials a configuration has on each rung

    @classmethod
    def halving(cls, epochs: int) -> "Ladder":
        """Return as many rungs as fit, the first of at least one epoch."""
        rungs = [epochs]
        while round(epochs / REDUCTION ** len(rungs)) >= 1:
            rungs.append(round(epochs / REDUCTION ** len(rungs)))
        return cls(tuple(reversed(rungs)), REDUCTION ** (len(rungs) - 1))

    def survivors(self, count: int) -> int:
        return max(1, count // REDUCTION)

    def epochs_of(self, configurations: int) -> int:
        """Return the total number of epochs of a search of this many configurations."""
        whole, rest = divmod(configurations, self.bracket)
        epochs = whole * self._epochs_of_bracket(self.bracket) + (self._epochs_of_bracket(rest) if rest else 0)
        return self.folds * epochs

    def fitting(self, epochs: int, max_configurations: int) -> int:
        """Return the largest number of configurations that can be searched in this number of epochs."""
        return bisect.bisect_right(range(1, max_configurations + 1), epochs, key=self.epochs_of)

    def _epochs_of_bracket(self, count: int) -> int:
        total = before = 0
        for epochs in self.rungs:
            total, before, count = total + count * (epochs - before), epochs, self.survivors(count)
        return total


@dataclass(frozen=True, order=True)
class Step:
    """A configuration to be trained up to a rung, without the images of a fold.

    Steps are ordered by bracket, the last rung first, then by fold, since trials of a fold share what a lane compiles.
    """

    bracket: int
    rungs_left: int
    fold: int  # 0 without folds
    configuration: int


class Halving:
    """A search, from its scores so far. The same scores give the same decisions, in whatever order they come.

    Args:
        configurations: how many there are; they are numbered from 0.
        lag: bracket n begins only when brackets 0 to n - lag are complete. None: brackets never wait.
    """

    def __init__(self, configurations: int, ladder: Ladder, lag: int | None = None) -> None:
        if configurations < 1:
            raise SpecError(f"trials: expected at least 1 configuration, got {configurations}")
        self.ladder, self.configurations, self._lag = ladder, configurations, lag
        self.decisions: list[RungDecision] = []
        size, last = ladder.bracket, len(ladder.rungs) - 1
        self._running: dict[tuple[int, int], tuple[int, ...]] = {}  # configurations of each rung that is not complete
        self._scores: dict[tuple[int, int], Accuracy | None] = {}  # of all folds, by configuration and rung
        # By configuration and rung, then by fold.
        self._of_folds = defaultdict[tuple[int, int], dict[int, Accuracy | None]](dict)
        self._returned, self._scored = set[int](), set[int]()  # brackets with a step that was returned or scored
        self._brackets = [range(i, min(i + size, configurations)) for i in range(0, configurations, size)]
        for bracket, numbers in enumerate(self._brackets):
            self._running[bracket, 0] = tuple(numbers)
        self._waiting = [
            Step(bracket, last, fold, number)
            for bracket, numbers in enumerate(self._brackets)
            for fold in range(ladder.folds)
            for number in numbers
        ]

    @property
    def is_complete(self) -> bool:
        return not self._running

    @property
    def brackets(self) -> int:
        return len(self._brackets)

    @property
    def tried(self) -> set[int]:
        """The configurations that have a score or have failed, in one fold at least."""
        return {number for number, _ in self._of_folds}

    @property
    def epochs(self) -> int:
        """The total number of epochs of all scored steps."""
        before = (0, *self.ladder.rungs)
        return sum(len(folds) * (before[rung + 1] - before[rung]) for (_, rung), folds in self._of_folds.items())

    def rung_of(self, step: Step) -> int:
        return len(self.ladder.rungs) - 1 - step.rungs_left

    def epochs_of(self, step: Step) -> int:
        """Return after how many epochs a step ends."""
        return self.ladder.rungs[self.rung_of(step)]

    def next_step(self) -> Step | None:
        """Return a step that can be trained now and has no score yet, or None. Each is returned once."""
        running = min((bracket for bracket, _ in self._running), default=math.inf)
        # If a bracket must wait, so must all later ones.
        while self._waiting and (self._lag is None or self._waiting[0].bracket < running + self._lag):
            step = heapq.heappop(self._waiting)
            if step.fold not in self._of_folds.get((step.configuration, self.rung_of(step)), ()):
                self._returned.add(step.bracket)
                return step
        return None

    def record(self, step: Step, score: Accuracy | None) -> RungDecision | None:
        """Record the score of a step, and return the decision if its rung is now complete.

        Args:
            score: None if its training failed.
        """
        rung = self.rung_of(step)
        folds = self._of_folds[step.configuration, rung]
        folds[step.fold] = score
        self._scored.add(step.bracket)
        if len(folds) < self.ladder.folds:
            return None
        self._scores[step.configuration, rung] = self.score(step)
        numbers = self._running.get((step.bracket, rung), ())
        if not numbers or any((number, rung) not in self._scores for number in numbers):
            return None
        del self._running[step.bracket, rung]
        scores = {number: self._scores[number, rung] for number in numbers}
        survivors: Sequence[int] = ()
        if step.rungs_left:
            alive = [number for number in numbers if scores[number] is not None]
            survivors = sorted(alive, key=lambda number: _preference(scores[number], number))
            survivors = survivors[: self.ladder.survivors(len(numbers))]
            if survivors:
                self._running[step.bracket, rung + 1] = tuple(sorted(survivors))
            for fold, number in itertools.product(range(self.ladder.folds), survivors):
                heapq.heappush(self._waiting, Step(step.bracket, step.rungs_left - 1, fold, number))
        decision = RungDecision(
            bracket=step.bracket,
            rung=rung,
            epochs=self.ladder.rungs[rung],
            scores=scores,
            survivors=tuple(survivors),
        )
        self.decisions.append(decision)
        self.decisions.sort(key=lambda made: (made.bracket, made.rung))
        return decision

    def score(self, step: Step) -> Accuracy | None:
        """Return the counts of a configuration on the rung of a step, summed over the folds that are known so far.

        None if its training failed in one of them.
        """
        folds = self._of_folds[step.configuration, self.rung_of(step)]
        # In order, since rounding depends on it.
        known = [score for _, score in sorted(folds.items()) if score is not None]
        return sum(known, Accuracy(0, 0)) if len(known) == len(folds) else None

    def put_back(self, steps: Iterable[Step]) -> None:
        """Let `next_step` return these steps again."""
        steps = [*steps]
        self._returned -= {step.bracket for step in steps}
        self._waiting += steps
        heapq.heapify(self._waiting)

    def restrict(self, brackets: int) -> None:
        """Drop all brackets but the first ones, because time is short."""
        self._running = {key: numbers for key, numbers in self._running.items() if key[0] < brackets}
        self._waiting = [step for step in self._waiting if step.bracket < brackets]
        heapq.heapify(self._waiting)

    @property
    def begun(self) -> int:
        """The number of brackets with a configuration that `next_step` has returned or `record` has scored."""
        return 1 + max(self._returned | self._scored, default=-1)  # brackets begin in order

    def best(self) -> tuple[int, Accuracy] | None:
        """Return the configuration with the highest score on any rung, and that score. Ties go to the lowest number.

        One whose training failed on a later rung is not considered, since it would fail again. So a dropped
        configuration is returned only if all configurations that went on from its rung have failed.
        """
        failed = {number for (number, _), folds in self._of_folds.items() if None in folds.values()}
        scores = [(number, score) for (number, _), score in self._scores.items() if number not in failed]
        found = [(number, score) for number, score in scores if score is not None]
        return min(found, key=lambda item: _preference(item[1], item[0]), default=None)


def _preference(score: Accuracy | None, number: int) -> tuple[float, int]:
    return (0.0 if score is None else -score.score, number)
