"""A review: which picture each browser shows, and what people decide about it.

Several browsers may review at once; each picture is given to one of them. Meanwhile, threads add pictures and
predictions.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.review.additions import Additions
from jobs.review.labels import DecisionError, Labels, Tally
from jobs.review.order import Item, Order
from mnist_lib.data.corrections import NONE, Reason
from mnist_lib.errors import MnistError
from mnist_lib.pictures.examination import Examined

PICTURES_AHEAD = 8  # pictures that a browser loads in advance, so that fast typing need not wait
SECONDS_UNTIL_RETURNED = 120.0  # without a request; then others get the pictures of a browser


class NotReadYetError(MnistError):
    """A picture has not been read yet, as after a restart. The same request will succeed later."""


@dataclass
class Given:
    """A picture that a browser has."""

    item: Item
    why: Reason
    client: str


class Session:
    """The pictures of a review, and the browsers that show them.

    Args:
        classes: the labels that can be given.
        additions: where new pictures are copied to; None if there cannot be any.
        read_again: returns the content of the file of a new picture, and what it shows.

    Attributes:
        is_complete: whether all pictures have been added.
    """

    def __init__(
        self,
        labels: Labels,
        classes: Sequence[str],
        additions: Additions | None = None,
        read_again: Callable[[Path], tuple[bytes, Examined]] | None = None,
    ) -> None:
        self.labels, self.classes, self._additions, self._read_again = labels, tuple(classes), additions, read_again
        self.order, self.items, self.is_complete = Order(), dict[str, Item](), False
        self._given: dict[str, Given] = {}  # by image
        self._heard: dict[str, float] = {}  # when each browser was last heard from
        self._lock = threading.Lock()

    def add(self, item: Item, *, disputed: bool = False) -> bool:
        """Add a picture. Return False if it need not be reviewed: because it already was, or because it is a copy.

        A label that a person gave replaces that of the dataset.
        """
        with self._lock:
            if item.image in self.items:
                return False
            label = self.labels.label(item.image)
            if label is not None:
                item.label = None if item.is_new and label == NONE else label
            self.items[item.image] = item
            if self.labels.is_reviewed(item.image):
                self.order.taken.add(item.image)
                return False
            (self.order.add_disputed if disputed else self.order.add)(item)
            return True

    def predicted(self, items: Sequence[Item], probabilities: NDArray[np.float32]) -> None:
        """Note what the model says of pictures. probabilities: [items, classes]."""
        with self._lock:
            for item, row in zip(items, probabilities, strict=True):
                item.probabilities = row
                self.order.predicted(item)

    def pictures_for(self, client: str, held: Sequence[tuple[str, Reason]] = ()) -> list[Given]:
        """Return the pictures that a browser shows and loads ahead.

        Args:
            held: the images that it already has, and why each was chosen; this process may have forgotten them.
        """
        now = time.monotonic()
        with self._lock:
            self._heard[client] = now
            for given in [*self._given.values()]:
                if now - self._heard.get(given.client, 0.0) > SECONDS_UNTIL_RETURNED:
                    del self._given[given.item.image]
                    self.order.give_back(given.item, given.why)
            unknown = 0
            for image, why in held:
                if image not in self.items:
                    unknown += not self.is_complete
                elif image not in self.order.taken:
                    self.order.taken.add(image)
                    self.order.given[why] += 1
                    self._given[image] = Given(self.items[image], why, client)
            own = [given for given in self._given.values() if given.client == client]
            while len(own) + unknown < PICTURES_AHEAD and (found := self.order.take()):
                own.append(Given(*found, client))
                self._given[found[0].image] = own[-1]
            return own

    def decide(self, client: str, image: str, label: str, why: Reason, seen: int) -> Item:
        """Store what a person decides about a picture, durably. A new picture is first copied into the dataset.

        Args:
            label: the name of a class, or `NONE`.
            why: the reason for which the picture was given to the browser.
            seen: the number of decisions about it that were stored when it was shown.

        Raises:
            DecisionError: the label is not one of the dataset, or the picture has changed.
            NotReadYetError: the picture has not been read yet.
            ImageError: a new picture cannot be read any more.
            StoreError: it cannot be stored.
        """
        item = self.item(image)
        if label not in (*self.classes, NONE):
            raise DecisionError(f"label: expected a class of the dataset or {NONE}, got {label[:40]!r}")
        if why == "uncertain" and item.split == "hold-out":
            raise DecisionError("why: expected a picture of the hold-out only at random or disputed, got uncertain")
        if item.is_new and label != NONE:
            self._add_to_dataset(item, label)
        self.labels.decide(image, label, replaced=item.label, why=why, seen=seen)
        with self._lock:
            item.label = label
            self._given.pop(image, None)
            self.order.taken.add(image)
        return item

    def undo(self, client: str, image: str, why: Reason, seen: int) -> Given:
        """Take back a decision, and give the picture to the browser again. Raises the errors of `Labels.undo`."""
        item = self.item(image)
        label = self.labels.undo(image, seen=seen)
        with self._lock:
            item.label = label
            self._given[image] = Given(item, why, client)
            return self._given[image]

    def skip(self, image: str) -> None:
        """Show a picture to nobody until the next start."""
        with self._lock:
            self._given.pop(image, None)
            self.order.taken.add(image)

    def refresh(self) -> None:
        """Take over what other processes have stored. Raises DataError or StoreError."""
        images = self.labels.refresh()
        with self._lock:
            for image in images & self.items.keys():
                self.items[image].label = self.labels.label(image)
                if self.labels.is_reviewed(image) and image not in self._given:
                    self.order.taken.add(image)

    def item(self, image: str) -> Item:
        """Return a picture. Raises NotReadYetError, or DecisionError if there is none."""
        with self._lock:
            if image in self.items:
                return self.items[image]
        if not self.is_complete:
            raise NotReadYetError("expected a picture that has been read, got one that is still to be read; try again")
        raise DecisionError(f"expected a picture of this review, got {image[:40]!r}; reload the page")

    def tally(self) -> Tally:
        return self.labels.tally()

    def num_left(self) -> int:
        """Return how many pictures are still to be shown, including those that browsers show now."""
        with self._lock:
            return len(self.items) - len(self.order.taken & self.items.keys()) + len(self._given)

    def _add_to_dataset(self, item: Item, label: str) -> None:
        assert self._additions is not None
        assert self._read_again is not None
        assert isinstance(item.source, Path)
        content, examined = self._read_again(item.source)
        if examined.image_hash != item.image:
            raise DecisionError(
                f"{item.name}: expected the picture that was shown, got another; start the review again"
            )
        self._additions.add(content, image=item.image, suffix=examined.suffix, label=label, split=item.split)
        item.is_new = False
