"""A search space: the settings that vary, and random configurations, each of which depends on its number and a seed."""

import difflib
import itertools
import math
import random
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.console.values import plain_value
from mnist_lib.errors import SpecError

MAX_GRID = 10_000  # combinations
DIGITS = 4  # significant digits of a number drawn from a range, so that it can be read and typed
RANGE = re.compile(r"\s*([^\s:]+?)\s*\.\.\s*([^\s:]+?)\s*(?::\s*(log|linear)\s*)?", re.ASCII)

Value = str | int | float | bool


@dataclass(frozen=True)
class Choice:
    """Some values, each as likely as the others."""

    ends: tuple[Value, ...]

    def draw(self, chance: random.Random) -> Value:
        return chance.choice(self.ends)


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, or all whole ones; if `log`, each order of magnitude is as likely as others."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, chance: random.Random) -> Value:
        """Draw a whole number, or one with DIGITS significant digits."""
        if self.log:
            value = math.exp(chance.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = chance.uniform(self.low, self.high)
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    @property
    def ends(self) -> tuple[Value, ...]:
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    @property
    def text(self) -> str:
        return f"{self.ends[0]!r}..{self.ends[1]!r}:{'log' if self.log else 'linear'}"


@dataclass(frozen=True)
class Space:
    """The settings that vary, by name."""

    dimensions: Mapping[str, Choice | Range]

    @classmethod
    def parse(cls, given: Mapping[str, Any], known: Collection[str] | None) -> "Space":
        """Return the space of a mapping from names to values.

        Args:
            given: a list of values, or a range such as "1e-4..1e-1:log"; text may also list values, as in "128,256".
            known: the names that may vary; None if the model accepts any argument.

        Raises:
            SpecError: the space is empty, or a name or value is invalid.
        """
        if not given:
            raise SpecError("vary: expected at least one setting, such as learning_rate=1e-4..1e-1:log, got none")
        for name in given:
            if known is not None and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise SpecError(f"vary: {name!r} cannot vary; {hint}known: {', '.join(known)}")
        return cls({name: _dimension(name, value) for name, value in given.items()})

    def grid(self) -> list[dict[str, Value]]:
        """Return every combination. Raises SpecError if there are too many, or if a setting has a range."""
        for name, dimension in self.dimensions.items():
            if isinstance(dimension, Range):
                raise SpecError(
                    f"vary: {name}: expected a list of values for a grid, got a range; use --strategy halving"
                )
        count = self.combinations()
        if count > MAX_GRID:
            raise SpecError(f"vary: expected at most {MAX_GRID:,} combinations for a grid, got {count:,}")
        values = itertools.product(*(dimension.ends for dimension in self.dimensions.values()))
        return [dict(zip(self.dimensions, combination, strict=True)) for combination in values]

    def combinations(self) -> float:
        """Return the number of combinations; infinity if a setting has a range."""
        if any(isinstance(dimension, Range) for dimension in self.dimensions.values()):
            return math.inf
        return math.prod(len(dimension.ends) for dimension in self.dimensions.values())

    def configuration(self, number: int, seed: int) -> dict[str, Value]:
        """Draw a configuration at random. The same number and seed always give the same one."""
        chance = random.Random(f"{seed} {number}")
        return {name: dimension.draw(chance) for name, dimension in self.dimensions.items()}

    def examples(self) -> Iterator[dict[str, Value]]:
        """Yield configurations that together have every value of a list and both ends of a range."""
        first = {name: dimension.ends[0] for name, dimension in self.dimensions.items()}
        yield first
        for name, dimension in self.dimensions.items():
            yield from ({**first, name: value} for value in dimension.ends[1:])

    def document(self) -> dict[str, Any]:
        """Return the space as `parse` reads it."""
        return {
            name: list(dimension.ends) if isinstance(dimension, Choice) else dimension.text
            for name, dimension in self.dimensions.items()
        }


def settings_text(settings: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "the default settings"


def _dimension(name: str, given: Any) -> Choice | Range:
    if isinstance(given, str) and ".." in given:
        return _range(name, given)
    if isinstance(given, str):
        given = [plain_value(part.strip()) for part in given.split(",") if part.strip()]
    if not isinstance(given, list | tuple):
        given = [given]
    if not given or not all(isinstance(value, str | int | float | bool) for value in given):
        raise SpecError(
            f"vary: {name}: expected values such as 128,256 or a range such as 1e-4..1e-1:log, got {given!r}"
        )
    repeated = next((value for index, value in enumerate(given) if value in given[:index]), None)
    if repeated is not None:
        raise SpecError(f"vary: {name}: expected each value once, got {repeated!r} twice")
    return Choice(tuple(given))


def _range(name: str, text: str) -> Range:
    match = RANGE.fullmatch(text)
    low, high = [plain_value(end) for end in match.group(1, 2)] if match else ("", "")
    if match is None or isinstance(low, str) or isinstance(high, str):
        raise SpecError(f"vary: {name}: expected a range such as 1e-4..1e-1:log or 16..512, got {text!r}")
    is_log = match[3] == "log"
    if not -sys.float_info.max <= low < high <= sys.float_info.max:
        raise SpecError(f"vary: {name}: expected two finite numbers, the lower one first, got {text!r}")
    if is_log and low <= 0:
        raise SpecError(f"vary: {name}: expected numbers above 0 for a logarithmic range, got {text!r}")
    return Range(low, high, is_log, whole=isinstance(low, int) and isinstance(high, int))
