"""A review: which picture each browser shows, and what people decide about it.

Several browsers may review at once; each picture is shown in one of them. Meanwhile, a thread reads and predicts the
pictures. As many pictures are chosen at random as by the model. The model chooses the pictures with the least probable
labels and, among pictures without a label, those with the least certain answers. A label that the model was trained on
has the probability of the first half of the training: in the end, a model may know wrong labels by heart.

Pictures of the hold-out are only chosen at random. If the model chose among them, those that it finds hard would be
corrected and no others, and the hold-out would no longer measure its accuracy.
"""

import heapq
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.review.data import Additions, LearnedLabel, ReviewItem, Viewer
from jobs.review.labels import Decision, DecisionError, Labels
from jobs.review.model_process import ModelProcess, NoModel
from jobs.review.pictures import ItemAndImage
from mnist_lib.data.corrections import NONE, Reason
from mnist_lib.errors import DataReadError, MnistError, ModelError
from mnist_lib.pictures.sandbox import in_batches

PICTURES_AHEAD = 8  # pictures that a browser loads in advance, so that fast typing need not wait
SECONDS_UNTIL_RETURNED = 120.0  # without a request; then others get the pictures of a browser
MAX_WAITING_BYTES = 200_000_000  # of images that are read while the model is loading

log = logging.getLogger(__name__)


class NotReadYetError(MnistError):
    """A picture has not been read yet, as after a restart. The same request will succeed later."""


class Order:
    """The pictures that can be reviewed next. Pictures must be added in a random order.

    A picture may be in both heaps, or several times in one; it is passed over once it is taken.

    Args:
        model_classes: the classes that the model predicts.
        learned: the labels that the model was trained on, by image.
    """

    def __init__(
        self, model_classes: Sequence[str], learned: Mapping[str, LearnedLabel] = MappingProxyType({})
    ) -> None:
        self.taken = set[str]()  # images that have been chosen, or need no review
        self.counts = Counter[Reason]()  # of the chosen pictures by the reason
        self._items, self._numbers = list[ReviewItem](), dict[str, int]()  # all pictures; their indices by image
        self._classes = {name: index for index, name in enumerate(model_classes)}
        self._learned = learned
        # The lowest score comes first, and of equal ones the picture that was added first.
        self._chosen, self._random = list[tuple[float, int, Reason]](), list[tuple[float, int, Reason]]()

    def add(self, item: ReviewItem) -> None:
        """Add a picture. One whose label the models of a run dispute is not chosen at random."""
        if item.image not in self._numbers:
            self._numbers[item.image] = len(self._items)
            self._items.append(item)
        number = self._numbers[item.image]
        learned = self._learned_label(item)
        if item.is_disputed or learned:
            heapq.heappush(self._chosen, (learned.probability if learned else 0.0, number, "disputed"))
        if not item.is_disputed:
            heapq.heappush(self._random, (0.0, number, "random"))

    def predicted(self, item: ReviewItem) -> None:
        """Note that the model has predicted a picture that was added."""
        if item.split == "hold-out" or item.probabilities is None or self._learned_label(item):
            return
        label = None if item.label is None else self._classes.get(item.label)
        score = float(item.probabilities.max() if label is None else item.probabilities[label])
        why: Reason = "uncertain" if label is None else "disputed"
        heapq.heappush(self._chosen, (score, self._numbers[item.image], why))

    def _learned_label(self, item: ReviewItem) -> LearnedLabel | None:
        """Return the label with which the model was trained on a picture, if it still has that label."""
        learned = self._learned.get(item.image) if item.split != "hold-out" else None
        return learned if learned and learned.label == item.label else None

    def take(self) -> tuple[ReviewItem, Reason] | None:
        """Return the next picture and why it is chosen, or None if no picture is left."""
        num_chosen = self.counts.total() - self.counts["random"]
        is_random = num_chosen >= self.counts["random"]
        for heap in (self._random, self._chosen) if is_random else (self._chosen, self._random):
            while heap:
                _, number, why = heapq.heappop(heap)
                item = self._items[number]
                if item.image not in self.taken:
                    self.taken.add(item.image)
                    self.counts[why] += 1
                    return item, why
        return None

    def give_back(self, item: ReviewItem, why: Reason) -> None:
        """Let a picture that was taken be chosen again."""
        self.taken.discard(item.image)
        self.counts[why] -= 1
        self.add(item)
        self.predicted(item)


class ShownItem(NamedTuple):
    """A picture that a browser has."""

    item: ReviewItem
    why: Reason
    client: str


def require_allowed(why: Reason, item: ReviewItem) -> None:
    """Raise DecisionError if a picture cannot have been chosen for this reason."""
    if why == "uncertain" and item.split == "hold-out":
        raise DecisionError("why: expected a picture of the hold-out only at random or disputed, got uncertain")


class Session:
    """The pictures of a review, and the browsers that show them. Several threads may call its methods.

    Args:
        model: predicts pictures of which it says nothing yet.
        model_classes: the classes that it predicts; those of the dataset are the labels that can be given.
        additions: where new pictures are copied to; None if there cannot be any.
        learned: as for `Order`.

    Attributes:
        is_complete: whether all pictures have been added.
    """

    def __init__(
        self,
        labels: Labels,
        viewer: Viewer,
        model: ModelProcess | NoModel,
        model_classes: Sequence[str],
        additions: Additions | None = None,
        learned: Mapping[str, LearnedLabel] = MappingProxyType({}),
    ) -> None:
        self.labels, self.viewer, self.model, self.model_classes = labels, viewer, model, model_classes
        self.classes, self._additions = viewer.data.classes, additions
        self.order, self.items, self.is_complete = Order(model_classes, learned), dict[str, ReviewItem](), False
        self.num_pictures = self.num_read = self.num_unreadable = 0
        self._shown: dict[str, ShownItem] = {}  # by image
        self._heard: dict[str, float] = {}  # when each browser was last heard from
        self._lock, self._stopped, self._has_failed = threading.Lock(), threading.Event(), False

    def begin(self, pictures: Iterator[ItemAndImage | None], count: int) -> None:
        """Begin to read and predict pictures in a thread. `pictures`: None in place of one that cannot be read."""
        self.num_pictures = count
        self._thread = threading.Thread(target=self._read, args=(pictures,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until every picture is read and predicted."""
        self._thread.join()

    def stop(self) -> None:
        """End the thread after the picture that it is at."""
        self._stopped.set()

    def _read(self, pictures: Iterator[ItemAndImage | None]) -> None:
        waiting, size = deque[list[tuple[ReviewItem, NDArray[np.uint8]]]](), 0
        try:
            for batch in in_batches(self._added(pictures), lambda pair: pair[1].nbytes):
                waiting.append(batch)
                size += sum(image.nbytes for _, image in batch)
                if self.model.state != "loading" or size > MAX_WAITING_BYTES:
                    self._predict(waiting)
                    size = 0
        except DataReadError as error:
            log.error("not all images are shown: %s", error)
        finally:
            self.is_complete = True
        self._predict(waiting)

    def _added(self, pictures: Iterator[ItemAndImage | None]) -> Iterator[tuple[ReviewItem, NDArray[np.uint8]]]:
        """Add pictures, and yield those that the model is to predict."""
        for picture in pictures:
            self.num_read += 1
            if picture is None:
                self.num_unreadable += 1
            elif self.add(picture[0]) and picture[1] is not None:
                yield picture[0], picture[1]
            if self._stopped.is_set():
                return

    def _predict(self, waiting: deque[list[tuple[ReviewItem, NDArray[np.uint8]]]]) -> None:
        """Predict batches of pictures, and remove them."""
        while waiting and not self._stopped.is_set():
            items, images = zip(*waiting.popleft(), strict=True)
            try:
                answers = self.model.predict(np.stack(images))
            except ModelError as error:
                if not self._stopped.is_set() and not self._has_failed:
                    log.warning("%s; pictures are chosen at random", error)
                self._has_failed = True
                continue
            with self._lock:
                for item, row, likeness in zip(items, answers.probabilities, answers.likeness.tolist(), strict=True):
                    item.probabilities, item.to_classes = row, likeness
                    self.order.predicted(item)

    def add(self, item: ReviewItem) -> bool:
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
            if self._is_done(item):
                self.order.taken.add(item.image)
                return False
            self.order.add(item)
            return True

    def pictures_for(self, client: str) -> list[ShownItem]:
        """Return the pictures that a browser shows and loads ahead."""
        now = time.monotonic()
        with self._lock:
            self._heard[client] = now
            for shown in [*self._shown.values()]:
                if now - self._heard.get(shown.client, 0.0) > SECONDS_UNTIL_RETURNED:
                    del self._shown[shown.item.image]
                    self.order.give_back(shown.item, shown.why)
            pictures = [shown for shown in self._shown.values() if shown.client == client]
            while len(pictures) < PICTURES_AHEAD and (chosen := self.order.take()):
                pictures.append(ShownItem(*chosen, client))
                self._shown[chosen[0].image] = pictures[-1]
            return pictures

    def decide(self, decision: Decision) -> None:
        """Store what a person decides about a picture, durably. A new picture is first copied into the dataset.

        Raises:
            DecisionError: the label is not one of the dataset, or the picture has changed.
            NotReadYetError: the picture has not been read yet.
            ImageError: a new picture cannot be read any more.
            StoreError: it cannot be stored.
        """
        item, label = self.item(decision.image), decision.label
        if label not in (*self.classes, NONE):
            raise DecisionError(f"label: expected a class of the dataset or {NONE}, got {label[:40]!r}")
        require_allowed(decision.why, item)
        if item.is_new and label != NONE:
            assert self._additions is not None
            self._additions.add(item, label, self.viewer)
        self.labels.decide(replace(decision, replaced=item.label))
        with self._lock:
            item.label = label
            self._shown.pop(item.image, None)
            self.order.taken.add(item.image)

    def undo(self, client: str, image: str, why: Reason, seen: int) -> ShownItem:
        """Take back a decision, and give the picture to the browser again. Raises the errors of `Labels.undo`."""
        item = self.item(image)
        label = self.labels.undo(image, seen=seen)
        with self._lock:
            item.label = label
            self._shown[image] = ShownItem(item, why, client)
            return self._shown[image]

    def skip(self, image: str) -> None:
        """Show a picture to nobody until the next start."""
        with self._lock:
            self._shown.pop(image, None)
            self.order.taken.add(image)

    def refresh(self) -> None:
        """Take over what other processes have stored. Raises DataError or StoreError."""
        images = self.labels.refresh()
        with self._lock:
            for image in images & self.items.keys():
                self.items[image].label = self.labels.label(image)
                if self._is_done(self.items[image]) and image not in self._shown:
                    self.order.taken.add(image)

    def _is_done(self, item: ReviewItem) -> bool:
        """Return whether a picture needs no review.

        In the hold-out, those that models disputed can still be drawn at random. Otherwise, the random ones would be
        drawn from the others, for which the models are more accurate.
        """
        at_random = item.split == "hold-out" and not item.is_disputed
        return self.labels.is_reviewed(item.image, at_random=at_random)

    def item(self, image: str) -> ReviewItem:
        """Return a picture. Raises NotReadYetError, or DecisionError if there is none."""
        with self._lock:
            if image in self.items:
                return self.items[image]
        if not self.is_complete:
            raise NotReadYetError("expected a picture that has been read, got one that is still to be read; try again")
        raise DecisionError(f"expected a picture of this review, got {image[:40]!r}; reload the page")

    def num_left(self) -> int:
        """Return how many pictures are still to be shown, including those that browsers show now."""
        with self._lock:
            return len(self.items) - len(self.order.taken & self.items.keys()) + len(self._shown)
