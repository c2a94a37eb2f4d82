"""A thread that reads and predicts all pictures of a review while people already review the first ones."""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.predict.batches import in_batches
from jobs.review.data import ReviewedData, SplitName
from jobs.review.model_process import ModelProcess
from jobs.review.order import Item
from jobs.review.session import Session
from mnist_lib.data.hashes import hash_of_text, is_held_out, text_of
from mnist_lib.errors import ImageError, ModelError
from mnist_lib.pictures.examination import examine_file
from mnist_lib.pictures.processes import picture_reader
from mnist_lib.pictures.reading import Folders, Layout

MAX_WAITING_BYTES = 200_000_000  # of images that are read while the model is loading

log = logging.getLogger(__name__)

ReadItem = tuple[Item, NDArray[np.uint8] | None]  # None: a model cannot take it


@dataclass
class Progress:
    """How far the thread is."""

    pictures: int = 0
    read: int = 0
    predicted: int = 0
    unreadable: list[str] = field(default_factory=list)  # one line each


class Background:
    """Reads and predicts pictures.

    Args:
        paths: the files to review, in a random order; None to review the images of the dataset itself.
        folders: as for `read_content`.
    """

    def __init__(
        self,
        session: Session,
        data: ReviewedData,
        layout: Layout,
        model: ModelProcess,
        paths: Sequence[Path] | None,
        folders: Folders,
        rng: np.random.Generator,
    ) -> None:
        self._session, self._data, self._layout, self._model = session, data, layout, model
        self._paths, self._folders, self._rng = paths, folders, rng
        self.progress = Progress(pictures=len(paths) if paths is not None else len(data.known))
        self._stopped, self._has_failed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        """Wait until every picture is read and predicted. Raises ModelError if the model cannot be loaded."""
        self._model.wait()
        self._thread.join()

    def stop(self) -> None:
        """End the thread after the picture that it is at."""
        self._stopped.set()

    def _run(self) -> None:
        waiting, size = deque[list[tuple[Item, NDArray[np.uint8]]]](), int(np.prod(self._layout.shape))
        try:
            for batch in in_batches(self._added(), lambda pair: pair[1].nbytes):
                waiting.append(batch)
                if self._model.state != "loading" or sum(map(len, waiting)) * size > MAX_WAITING_BYTES:
                    self._predict(waiting)
        finally:
            self._session.is_complete = True
        self._predict(waiting)

    def _added(self) -> Iterator[tuple[Item, NDArray[np.uint8]]]:
        """Add all pictures to the session, and yield those that the model is to predict."""
        for item, image in self._arrays() if self._paths is None else self._files(self._paths):
            self.progress.read += 1
            if self._session.add(item) and image is not None:
                yield item, image
            if self._stopped.is_set():
                return

    def _predict(self, waiting: deque[list[tuple[Item, NDArray[np.uint8]]]]) -> None:
        """Predict batches of pictures, and remove them."""
        while waiting and not self._stopped.is_set():
            items, images = zip(*waiting.popleft(), strict=True)
            try:
                self._session.predicted(items, self._model.predict(np.stack(images)))
                self.progress.predicted += len(items)
            except ModelError as error:
                if not self._stopped.is_set() and not self._has_failed:
                    log.warning("%s; pictures are chosen at random", error)
                self._has_failed = True

    def _files(self, paths: Sequence[Path]) -> Iterator[ReadItem]:
        with picture_reader(paths, self._folders) as reader:
            examined = reader.read(partial(examine_file, layout=self._layout, folders=self._folders))
            for path, picture in zip(paths, examined, strict=True):
                if isinstance(picture, ImageError):
                    self.progress.read += 1
                    self.progress.unreadable.append(f"{path}: {picture}")
                    log.warning("left out: %s: %s", path, picture)
                    continue
                item = item_of(self._data, path, picture.image_hash, picture.problem)
                item.likeness = picture.likeness
                yield item, picture.image

    def _arrays(self) -> Iterator[ReadItem]:
        dataset = self._data.dataset
        for number in self._rng.permutation(len(dataset.train) + len(dataset.test)).tolist():
            index = number if number < len(dataset.train) else number - len(dataset.train)
            name: SplitName = "training" if number < len(dataset.train) else "hold-out"
            yield item_of_array(self._data, name, index), self._images(name)[index]

    def _images(self, name: SplitName) -> NDArray[np.uint8]:
        return (self._data.dataset.train if name == "training" else self._data.dataset.test).images


def item_of(data: ReviewedData, path: Path, image: str, problem: str = "") -> Item:
    """Return the picture in a file as an item to review. A picture that is not in the dataset has no label.

    Args:
        image: the hash of its pixels.
    """
    known = data.known.get(image)
    if known is not None:
        return Item(image, str(path), path, known.split, known.label, problem=problem)
    split: SplitName = "hold-out" if is_held_out(hash_of_text(image)[None])[0] else "training"
    return Item(image, str(path), path, split, None, is_new=not data.holds(path), problem=problem)


def item_of_array(data: ReviewedData, split: SplitName, index: int) -> Item:
    """Return an image of the dataset as an item to review."""
    images = data.dataset.train if split == "training" else data.dataset.test
    label, file = data.classes[int(images.labels[index])], images.file(index)
    image = text_of(images.hashes[index])
    if file is not None and data.folder is not None:
        return Item(image, str(data.folder / file), data.folder / file, split, label)
    return Item(image, f"{split} image {index:,}", index, split, label)
