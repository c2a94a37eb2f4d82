"""The order of a review: as many random pictures as pictures of which the model is least certain.

Pictures of the hold-out are only chosen at random. If the model chose among them, those that it finds hard would be
corrected and no others, and the hold-out would no longer measure its accuracy.
"""

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from jobs.review.data import SplitName
from mnist_lib.data.corrections import Reason
from mnist_lib.pictures.rejecting import Rejection, rejection


@dataclass
class Item:
    """A picture to review.

    Args:
        source: the file of the picture, or its index in the training or the test images.
        label: its current label; None if it has none, as a new picture.
        is_new: whether the dataset does not contain it yet.
        probabilities: of the model's classes; None if it has not predicted the picture (yet).
        problem: why the model cannot take the picture, or "".
        likeness: its likeness to one digit, see `rejection`; None if the picture was not judged.
        answers: what several models say, for people.
    """

    image: str  # the hash of its pixels, as text
    name: str
    source: Path | int
    split: SplitName
    label: str | None
    is_new: bool = False
    probabilities: NDArray[Any] | None = None
    problem: str = ""
    likeness: float | None = None
    answers: str = ""

    @property
    def note(self) -> str:
        return self.problem or self.answers or self.rejection or ""

    @property
    def rejection(self) -> Rejection | None:
        """Why the model's answer is not to be relied on, if it has answered."""
        return None if self.probabilities is None else rejection(self.likeness, self.probabilities)

    @property
    def confidence(self) -> float:
        return 1.0 if self.probabilities is None else float(self.probabilities.max())


@dataclass
class Order:
    """The pictures that can be reviewed next. Pictures must be added in a random order."""

    taken: set[str] = field(default_factory=set)  # images that have been chosen, or need no review
    given: Counter[Reason] = field(default_factory=Counter)  # pictures by the reason for which they were chosen
    _random: deque[Item] = field(default_factory=deque)
    _uncertain: list[tuple[float, int, Item]] = field(default_factory=list)  # a heap
    _disputed: deque[Item] = field(default_factory=deque)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)  # break ties in the heap

    def add(self, item: Item) -> None:
        self._random.append(item)

    def add_disputed(self, item: Item) -> None:
        """Add a picture that is reviewed before all others, since models dispute its label."""
        self._disputed.append(item)

    def predicted(self, item: Item) -> None:
        """Note that the model has predicted a picture."""
        if item.split == "training":
            heapq.heappush(self._uncertain, (item.confidence, next(self._numbers), item))

    def take(self) -> tuple[Item, Reason] | None:
        """Return the next picture and why it is chosen, or None if no picture is left."""
        found = self._next_disputed() or self._next_uncertain() or self._next_random()
        if found is not None:
            self.taken.add(found[0].image)
            self.given[found[1]] += 1
        return found

    def give_back(self, item: Item, why: Reason) -> None:
        """Let a picture that was taken be chosen again."""
        self.taken.discard(item.image)
        self.given[why] -= 1
        if why == "disputed":
            self._disputed.appendleft(item)
        if why == "random":
            self._random.appendleft(item)
        if why != "disputed" and item.probabilities is not None:
            self.predicted(item)

    def _next_disputed(self) -> tuple[Item, Reason] | None:
        return next(((item, "disputed") for item in _popped(self._disputed) if item.image not in self.taken), None)

    def _next_uncertain(self) -> tuple[Item, Reason] | None:
        while self.given["uncertain"] < self.given["random"] and self._uncertain:
            item = heapq.heappop(self._uncertain)[2]
            if item.image not in self.taken:
                return item, "uncertain"
        return None

    def _next_random(self) -> tuple[Item, Reason] | None:
        return next(((item, "random") for item in _popped(self._random) if item.image not in self.taken), None)


def _popped(items: deque[Item]) -> Iterator[Item]:
    while items:
        yield items.popleft()
