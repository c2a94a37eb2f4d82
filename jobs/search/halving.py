"""Successive halving: which configuration is trained next, and which ones go on.

Configurations form brackets in the order of their numbers. All configurations of a bracket are trained up to its first
rung; the best third goes on to the next one, from where it stopped. A rung is decided only when all its scores are
known, so decisions depend on the scores alone, not on the number of lanes, the order of events, or deaths. (Jamieson
and Talwalkar, 2016; https://arxiv.org/abs/1502.07943) With folds, a configuration is trained once for each fold, and
its score is the sum of the counts of all folds.

Configuration 0 has the default settings and goes on at each rung: another one wins only if it is clearly better on the
same images, since the best of many is partly the luckiest.
"""

import bisect
import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mnist_lib.errors import SpecError
from mnist_lib.results import Accuracy
from mnist_lib.store.history import RungDecision

REDUCTION = 3  # one of this many goes on
MAX_RUNGS = 3  # the first comparison is after 1/9 of the epochs: after 1/27, chance would decide if pictures are few
DEFAULTS = 0  # the number of the configuration with the default settings


@dataclass(frozen=True)
class Ladder:
    """The rungs of a bracket, as numbers of epochs, and how many configurations begin it."""

    rungs: tuple[int, ...]
    bracket: int
    folds: int = 1  # how many trials a configuration has on each rung

    @classmethod
    def halving(cls, epochs: int) -> "Ladder":
        """Return up to `MAX_RUNGS` rungs, the first of at least one epoch."""
        rungs = [epochs]
        while len(rungs) < MAX_RUNGS and round(epochs / REDUCTION ** len(rungs)) >= 1:
            rungs.append(round(epochs / REDUCTION ** len(rungs)))
        return cls(tuple(reversed(rungs)), REDUCTION ** (len(rungs) - 1))

    def survivors(self, count: int, has_defaults: bool) -> int:
        """Return how many configurations of a rung go on. `has_defaults`: the defaults do, and a third of the rest."""
        others = count - has_defaults
        return has_defaults + min(others, max(1, others // REDUCTION))

    def epochs_of(self, configurations: int, per_step: float = 0) -> float:
        """Return the total number of epochs of a search of this many configurations. `per_step`: added for each step.

        The total is an int if `per_step` is an int.
        """
        first = min(configurations, self.bracket)
        whole, rest = divmod(configurations - first, self.bracket)
        epochs = self._epochs_of_bracket(first, per_step, has_defaults=True) + self._epochs_of_bracket(rest, per_step)
        return self.folds * (epochs + whole * self._epochs_of_bracket(self.bracket, per_step))

    def fitting(self, epochs: float, max_configurations: int, per_step: float = 0) -> int:
        """Return how many configurations can be searched in this number of epochs, counted as in `epochs_of`."""
        numbers = range(1, max_configurations + 1)
        return bisect.bisect_right(numbers, epochs, key=lambda number: self.epochs_of(number, per_step))

    def _epochs_of_bracket(self, count: int, per_step: float, *, has_defaults: bool = False) -> float:
        total: float = 0
        before = 0
        for epochs in self.rungs:
            total += count * (epochs - before + per_step)
            before = epochs
            count = self.survivors(count, has_defaults)
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
    """

    def __init__(self, configurations: int, ladder: Ladder) -> None:
        if configurations < 1:
            raise SpecError(f"trials: expected at least 1 configuration, got {configurations}")
        self.ladder = ladder
        self.configurations = configurations
        self.decisions: list[RungDecision] = []
        self._running: dict[tuple[int, int], tuple[int, ...]] = {}  # configurations of each rung that is not complete
        self._scores: dict[tuple[int, int], Accuracy | None] = {}  # of all folds, by configuration and rung
        # The scores on folds, by configuration and rung, then by fold.
        self._of_folds = defaultdict[tuple[int, int], dict[int, Accuracy | None]](dict)
        self.num_steps = self.epochs = 0  # of all steps that were scored
        self.num_begun = 0  # configurations of which a step was returned or scored; they begin in order
        self._opened = 0  # number of brackets whose steps have been added to `_waiting`
        self._waiting: list[Step] = []

    @property
    def is_complete(self) -> bool:
        return not self._running and self._opened >= self.brackets

    @property
    def brackets(self) -> int:
        return math.ceil(self.configurations / self.ladder.bracket)

    @property
    def tried(self) -> set[int]:
        """The configurations that have a score or have failed, in one fold at least."""
        return {number for number, _ in self._of_folds}

    def rung_of(self, step: Step) -> int:
        return len(self.ladder.rungs) - 1 - step.rungs_left

    def epochs_of(self, step: Step) -> int:
        """Return the number of epochs after which a step ends."""
        return self.ladder.rungs[self.rung_of(step)]

    def next_step(self) -> Step | None:
        """Return a step that can be trained now and has no score yet, or None. Each is returned once."""
        while self._waiting or self._open_bracket():
            step = heapq.heappop(self._waiting)
            if step.fold not in self._of_folds.get((step.configuration, self.rung_of(step)), ()):
                self.num_begun = max(self.num_begun, step.configuration + 1)
                return step
        return None

    def _open_bracket(self) -> bool:
        """Add the steps of the next bracket, or return False if there is none."""
        bracket = self._opened
        size = self.ladder.bracket
        if bracket >= self.brackets:
            return False
        numbers = range(bracket * size, min((bracket + 1) * size, self.configurations))
        self._running[bracket, 0] = tuple(numbers)
        last = len(self.ladder.rungs) - 1
        self._waiting = [Step(bracket, last, fold, n) for fold in range(self.ladder.folds) for n in numbers]
        self._opened += 1
        return True

    def record(self, step: Step, score: Accuracy | None) -> RungDecision | None:
        """Record the score of a step, and return the decision if its rung is now complete.

        Args:
            score: None if its training failed.
        """
        rung = self.rung_of(step)
        folds = self._of_folds[step.configuration, rung]
        if step.fold not in folds:
            self.num_steps += 1
            self.epochs += self.ladder.rungs[rung] - (self.ladder.rungs[rung - 1] if rung else 0)
        folds[step.fold] = score
        self.num_begun = max(self.num_begun, step.configuration + 1)
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
            most = self.ladder.survivors(len(numbers), DEFAULTS in numbers)
            kept = sorted(alive, key=lambda number: (number != DEFAULTS, _preference(scores[number], number)))[:most]
            survivors = sorted(kept, key=lambda number: _preference(scores[number], number))
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
        self._waiting += steps
        heapq.heapify(self._waiting)
        self.num_begun = 1 + max(self.tried, default=-1)

    def restrict(self, configurations: int) -> None:
        """Drop all configurations but the first ones, because time is short.

        Args:
            configurations: how many are left; with fewer than the first of `ends`, a rung would never be complete.
        """
        self.configurations = configurations
        kept = {key: tuple(n for n in numbers if n < configurations) for key, numbers in self._running.items()}
        self._running = {key: numbers for key, numbers in kept.items() if numbers}
        self._waiting = [step for step in self._waiting if step.configuration < configurations]
        heapq.heapify(self._waiting)

    @property
    def ends(self) -> tuple[int, int]:
        """The least and greatest number of configurations of a search that ends with the bracket of the next step."""
        full = self.ladder.bracket * (self._opened + (not self._waiting))
        return self.num_begun + bool(self._waiting), min(self.configurations, full)

    def best(self) -> tuple[int, Accuracy] | None:
        """Return the winner of the scores so far and its highest score, see `winner`.

        A configuration whose training failed on a later rung is not considered, since it would fail again. So a dropped
        configuration is returned only if all configurations that went on from its rung have failed. Rungs that the
        defaults have not completed are not considered either, since there is nothing to compare with.
        """
        return winner(self.highest_scores())

    def highest_scores(self) -> dict[int, Accuracy]:
        """Return the scores by which `best` decides, by configuration."""
        failed = {number for (number, _), folds in self._of_folds.items() if None in folds.values()}
        reached = {rung for (number, rung) in self._scores if number == DEFAULTS}
        scores = [
            (number, score)
            for (number, rung), score in self._scores.items()
            if score is not None and number not in failed and (DEFAULTS in failed or rung in reached)
        ]
        return dict(sorted(scores, key=lambda item: item[1].score))  # the highest score of each configuration remains


def winner(scores: Mapping[int, Accuracy]) -> tuple[int, Accuracy] | None:
    """Return the configuration with the highest score, the lowest number in a tie, or the defaults if they are close.

    Args:
        scores: by configuration.
    """
    defaults = scores.get(DEFAULTS)
    best = min(scores.items(), key=lambda item: _preference(item[1], item[0]), default=None)
    return (DEFAULTS, defaults) if best and defaults and defaults.is_close_to(best[1]) else best


def _preference(score: Accuracy | None, number: int) -> tuple[float, int]:
    return (0.0 if score is None else -score.score, number)
