"""A review: which pictures the page shows, and what people decide about them.

A thread reads and predicts the pictures meanwhile. As many pictures are chosen at random as by the model. The model
chooses the pictures with the least probable labels and, among pictures without a label, those with the least certain
answers. A label that the model was trained on has the probability of the first half of the training: in the end, a
model may know wrong labels by heart.

Pictures of the hold-out are only chosen at random. If the model chose among them, those that it finds hard would be
corrected and no others, and the hold-out would no longer measure its accuracy.
"""

import heapq
import itertools
import logging
import threading
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

PICTURES_AHEAD = 8  # pictures that the page loads in advance, so that fast typing need not wait

log = logging.getLogger(__name__)


class NotReadYetError(MnistError):
    """A picture has not been read yet, as after a restart. The same request will succeed later."""


class ChosenItem(NamedTuple):
    """A picture, and why it is shown."""

    item: ReviewItem
    why: Reason


class Order:
    """The pictures that can be reviewed next. Pictures must be added in a random order.

    A picture may be in both heaps; it is passed over once it is taken.

    Args:
        model_classes: the classes that the model predicts.
        learned: the labels that the model was trained on, by image.
    """

    def __init__(
        self, model_classes: Sequence[str], learned: Mapping[str, LearnedLabel] = MappingProxyType({})
    ) -> None:
        self.model_classes = model_classes
        self._classes = {name: index for index, name in enumerate(model_classes)}
        self.taken = set[str]()  # images that have been chosen, or need no review
        self._surplus = 0  # number of pictures taken at random, less those that the model chose
        self._learned = learned
        # The lowest score comes first, and of equal ones the lowest number, so the earliest entry.
        self._numbers = itertools.count()
        self._chosen = list[tuple[float, int, ChosenItem]]()
        self._random = list[tuple[float, int, ChosenItem]]()

    def add(self, item: ReviewItem) -> None:
        """Add a picture. One whose label the models of a run dispute is not chosen at random."""
        learned = self._learned_label(item)
        if item.is_disputed or learned:
            self._push(self._chosen, learned.probability if learned else 0.0, item, "disputed")
        if not item.is_disputed:
            self._push(self._random, 0.0, item, "random")

    def add_prediction(self, item: ReviewItem) -> None:
        """Let the model choose a picture that was added, now that it has predicted the picture."""
        if item.split == "hold-out" or item.probabilities is None or self._learned_label(item):
            return
        if item.label in self._classes:
            score = item.probabilities[self._classes[item.label]]
            self._push(self._chosen, float(score), item, "disputed")
        else:
            self._push(self._chosen, float(item.probabilities.max()), item, "uncertain")

    def _push(self, heap: list[tuple[float, int, ChosenItem]], score: float, item: ReviewItem, why: Reason) -> None:
        heapq.heappush(heap, (score, next(self._numbers), ChosenItem(item, why)))

    def _learned_label(self, item: ReviewItem) -> LearnedLabel | None:
        """Return the label with which the model was trained on a picture, if it still has that label."""
        learned = self._learned.get(item.image) if item.split != "hold-out" else None
        return learned if learned and learned.label == item.label else None

    def take(self, count: int) -> list[ChosenItem]:
        """Return the next pictures, up to a number: in turn one at random and one that the model chooses."""
        return [*itertools.islice(iter(self._take_one, None), count)]

    def _take_one(self) -> ChosenItem | None:
        heaps = (self._random, self._chosen)
        for heap in heaps if self._surplus <= 0 else reversed(heaps):
            while heap:
                _, _, chosen = heapq.heappop(heap)
                if chosen.item.image not in self.taken:
                    self.taken.add(chosen.item.image)
                    self._surplus += 1 if chosen.why == "random" else -1
                    return chosen
        return None


class Session:
    """The pictures of a review, and those that the page shows. Several threads may call its methods.

    Args:
        model: predicts the pictures that are read.
        additions: where new pictures are copied to; None if there cannot be any.

    Attributes:
        is_complete: whether all pictures have been added.
    """

    def __init__(
        self,
        labels: Labels,
        viewer: Viewer,
        model: ModelProcess | NoModel,
        order: Order,
        additions: Additions | None = None,
    ) -> None:
        self.labels = labels
        self.viewer = viewer
        self.model = model
        self.order = order
        self.classes = viewer.data.classes  # the labels that can be given
        self.items = dict[str, ReviewItem]()
        self.is_complete = False
        self.num_pictures = self.num_read = self.num_unreadable = 0
        self._additions = additions
        self._shown = dict[str, ChosenItem]()  # by image
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._has_failed = False

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
        try:
            for batch in in_batches(self._added(pictures), lambda pair: pair[1].nbytes):
                if not self._stopped.is_set():  # the process of the model ends then, too
                    self._predict(batch)
        except DataReadError as error:
            log.error("not all images are shown: %s", error)
        finally:
            self.is_complete = True

    def _added(self, pictures: Iterator[ItemAndImage | None]) -> Iterator[tuple[ReviewItem, NDArray[np.uint8]]]:
        """Add pictures, and yield those that the model is to predict."""
        for picture in itertools.takewhile(lambda _: not self._stopped.is_set(), pictures):
            self.num_read += 1
            if picture is None:
                self.num_unreadable += 1
            elif self.add(picture[0]) and picture[1] is not None:
                yield picture[0], picture[1]

    def _predict(self, batch: Sequence[tuple[ReviewItem, NDArray[np.uint8]]]) -> None:
        """Predict pictures, as soon as the model is loaded."""
        items, images = zip(*batch, strict=True)
        try:
            answers = self.model.predict(np.stack(images))
        except ModelError as error:
            if not self._stopped.is_set() and not self._has_failed:
                log.warning("%s; pictures are chosen at random", error)
            self._has_failed = True
            return
        with self._lock:
            for item, row, likeness in zip(items, answers.probabilities, answers.likeness.tolist(), strict=True):
                item.probabilities = row
                item.to_classes = likeness
                self.order.add_prediction(item)

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

    def pictures(self) -> list[ChosenItem]:
        """Return the pictures that the page shows and loads ahead."""
        with self._lock:
            for chosen in self.order.take(max(0, PICTURES_AHEAD - len(self._shown))):
                self._shown[chosen.item.image] = chosen
            return [*self._shown.values()]

    def decide(self, decision: Decision) -> None:
        """Store what a person decides about a picture, durably. A new picture is first copied into the dataset.

        Raises:
            DecisionError: the label is not one of the dataset, or the picture has changed.
            NotReadYetError: the picture has not been read yet.
            ImageError: a new picture cannot be read any more.
            StoreError: it cannot be stored.
        """
        item = self.item(decision.image)
        label = decision.label
        if label not in (*self.classes, NONE):
            raise DecisionError(f"label: expected a class of the dataset or {NONE}, got {label[:40]!r}")
        if item.is_new and label != NONE:
            assert self._additions is not None
            self._additions.add(item, label, self.viewer)
        self.labels.decide(replace(decision, replaced=item.label))
        with self._lock:
            item.label = label
        self.skip(item.image)

    def undo(self, image: str, why: Reason, seen: int) -> ChosenItem:
        """Take back a decision, and show the picture again. Raises the errors of `Labels.undo`."""
        item = self.item(image)
        label = self.labels.undo(image, seen=seen)
        with self._lock:
            item.label = label
            self._shown[image] = ChosenItem(item, why)
            return self._shown[image]

    def skip(self, image: str) -> None:
        """Show a picture no more until the next start."""
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
        """Return how many pictures are still to be shown, including those that the page shows now."""
        with self._lock:
            return len(self.items) - len(self.order.taken & self.items.keys()) + len(self._shown)
