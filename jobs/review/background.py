"""A thread that reads and predicts all pictures of a review while people already review the first ones."""

import functools
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.predict.batches import in_batches
from jobs.review.data import ReviewedData, ReviewItem, SplitName
from jobs.review.model_process import ModelProcess
from jobs.review.session import Session
from mnist_lib.errors import ImageError, ModelError
from mnist_lib.pictures.examination import examine_file
from mnist_lib.pictures.processes import picture_reader
from mnist_lib.pictures.reading import Folders, Layout

MAX_WAITING_BYTES = 200_000_000  # of images that are read while the model is loading

log = logging.getLogger(__name__)

ItemAndImage = tuple[ReviewItem, NDArray[np.uint8] | None]  # None: the model does not predict it


@dataclass
class Progress:
    """How many pictures the thread has read."""

    pictures: int
    read: int = 0
    unreadable: int = 0


class Background:
    """Adds pictures to a session and predicts them, in a thread.

    Args:
        pictures: reads them; None in place of a picture that cannot be read.
    """

    def __init__(
        self, session: Session, model: ModelProcess, pictures: Iterator[ItemAndImage | None], count: int
    ) -> None:
        self._session, self._model, self._pictures = session, model, pictures
        self.progress = Progress(count)
        self._stopped, self._has_failed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until every picture is read and predicted."""
        self._thread.join()

    def stop(self) -> None:
        """End the thread after the picture that it is at."""
        self._stopped.set()

    def _run(self) -> None:
        waiting, size = deque[list[tuple[ReviewItem, NDArray[np.uint8]]]](), 0
        try:
            for batch in in_batches(self._added(), lambda pair: pair[1].nbytes):
                waiting.append(batch)
                size += sum(image.nbytes for _, image in batch)
                if self._model.state != "loading" or size > MAX_WAITING_BYTES:
                    self._predict(waiting)
                    size = 0
        finally:
            self._session.is_complete = True
        self._predict(waiting)

    def _added(self) -> Iterator[tuple[ReviewItem, NDArray[np.uint8]]]:
        """Add all pictures to the session, and yield those that the model is to predict."""
        for picture in self._pictures:
            self.progress.read += 1
            if picture is None:
                self.progress.unreadable += 1
            elif self._session.add(picture[0]) and picture[1] is not None:
                yield picture[0], picture[1]
            if self._stopped.is_set():
                return

    def _predict(self, waiting: deque[list[tuple[ReviewItem, NDArray[np.uint8]]]]) -> None:
        """Predict batches of pictures, and remove them."""
        while waiting and not self._stopped.is_set():
            items, images = zip(*waiting.popleft(), strict=True)
            try:
                self._session.predicted(items, self._model.predict(np.stack(images)))
            except ModelError as error:
                if not self._stopped.is_set() and not self._has_failed:
                    log.warning("%s; pictures are chosen at random", error)
                self._has_failed = True


def read_files(
    data: ReviewedData, paths: Sequence[Path], layout: Layout, folders: Folders
) -> Iterator[ItemAndImage | None]:
    """Read pictures in files, with None for each that cannot be read, which is logged."""
    with picture_reader(paths, folders) as reader:
        examined = reader.read(functools.partial(examine_file, layout=layout, folders=folders))
        for path, picture in zip(paths, examined, strict=True):
            if isinstance(picture, ImageError):
                log.warning("left out: %s: %s", path, picture)
                yield None
                continue
            item = data.file_item(path, picture.image_hash)
            item.problem, item.likeness = picture.problem, picture.likeness
            yield item, picture.image


def read_arrays(data: ReviewedData, rng: np.random.Generator) -> Iterator[ItemAndImage]:
    """Return the images of a dataset without files, in a random order."""
    num_training = len(data.dataset.train)
    for number in rng.permutation(len(data.dataset.train) + len(data.dataset.test)).tolist():
        split: SplitName = "training" if number < num_training else "hold-out"
        index = number if number < num_training else number - num_training
        yield data.image_item(split, index), data.images(split).images[index]
