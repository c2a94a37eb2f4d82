"""The pictures of a review as people see them. Files are decoded in a sandbox only."""

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jobs.review.data import ReviewedData
from jobs.review.order import Item
from mnist_lib.errors import ImageError
from mnist_lib.pictures.examination import Examined, View, examine, png, view_file
from mnist_lib.pictures.reading import Folders, Layout, read_content
from mnist_lib.pictures.sandbox import Sandbox

T = TypeVar("T")
Input = TypeVar("Input")

MAX_VIEWS = 64  # that are held in memory
SIDE, ZOOMED_SIDE = 640, 2_400  # pixels of the longer side of a view, at most


class _OneAtATime:
    """A sandbox that several threads may use."""

    def __init__(self) -> None:
        self._sandbox, self._lock = Sandbox(), threading.Lock()
        self.close = self._sandbox.close

    def read(self, function: Callable[[Input], T], item: Input) -> T:
        """Return the result of the function. Raises ImageError if the picture cannot be read."""
        with self._lock:
            (result,) = self._sandbox.map(function, [item])
        if isinstance(result, ImageError):
            raise result
        return result


class Viewer:
    """Reads pictures to show and, beside them, pictures to decide about. Several threads may call its methods.

    Args:
        folders: as for `read_content`.
    """

    def __init__(self, data: ReviewedData, layout: Layout, folders: Folders) -> None:
        self._folders = folders
        self._data, self.layout, self.is_light_on_dark = data, layout, data.is_light_on_dark
        # A decision about a new picture reads it again, and does not wait for pictures that are only shown.
        self._to_show, self._to_decide = _OneAtATime(), _OneAtATime()
        self.view = functools.lru_cache(MAX_VIEWS)(self._view)

    def read_again(self, path: Path) -> tuple[bytes, Examined]:
        """Return the content of a file, and what it shows. Raises ImageError if it cannot be read."""
        content = read_content(path, self._folders)
        return content, self._to_decide.read(functools.partial(examine, layout=self.layout), content)

    def examine(self, content: bytes) -> Examined:
        """Return what a picture shows. Raises ImageError if it cannot be read."""
        return self._to_show.read(functools.partial(examine, layout=self.layout), content)

    def close(self) -> None:
        self._to_show.close()
        self._to_decide.close()

    def _view(self, source: Path | int, split: str, side: int) -> View:
        """Return a view of a picture. Raises ImageError if it cannot be read."""
        if isinstance(source, Path):
            view = functools.partial(view_file, layout=self.layout, folders=self._folders, max_side=side)
            return self._to_show.read(view, source)
        images = (self._data.dataset.train if split == "training" else self._data.dataset.test).images
        return View(png(images[source]), None)


def view_of(viewer: Viewer, item: Item, *, zoomed: bool) -> View:
    """Return the view of a picture to review. Raises ImageError if it cannot be read."""
    return viewer.view(item.source, item.split, ZOOMED_SIDE if zoomed else SIDE)
