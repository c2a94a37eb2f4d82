"""The pictures of a review as people see them. Files are decoded in a sandbox only."""

import functools
from pathlib import Path

from jobs.review.data import ReviewedData, ReviewItem
from jobs.review.labels import DecisionError
from mnist_lib.pictures.examination import Examined, View, examine, png, view_file
from mnist_lib.pictures.reading import Folders, Layout, read_content
from mnist_lib.pictures.sandbox import Sandbox

MAX_VIEWS = 64  # that are held in memory
SIDE, ZOOMED_SIDE = 640, 2_400  # pixels of the longer side of a view, at most


class Viewer:
    """Reads pictures to show and, beside them, pictures to decide about. Several threads may call its methods.

    Args:
        folders: as for `read_content`.
    """

    def __init__(self, data: ReviewedData, layout: Layout, folders: Folders) -> None:
        self._data, self.layout, self._folders = data, layout, folders
        # A decision about a new picture reads it again, and does not wait for pictures that are only shown.
        self._to_show, self._to_decide = Sandbox(), Sandbox()
        self._view = functools.lru_cache(MAX_VIEWS)(self._read_view)

    @property
    def is_light_on_dark(self) -> bool:
        """Return whether to draw light on dark, since the model does not invert pictures."""
        return self._data.is_light_on_dark and not self.layout.digit

    def read_again(self, item: ReviewItem) -> tuple[bytes, Examined]:
        """Return the content of the file of a picture, and what it shows.

        Raises ImageError if it cannot be read, or DecisionError if it has changed.
        """
        assert isinstance(item.source, Path)
        content = read_content(item.source, self._folders)
        examined = self._to_decide.call(functools.partial(examine, layout=self.layout), content)
        if examined.image_hash != item.image:
            expected = "expected the picture that was shown, got another"
            raise DecisionError(f"{item.name}: {expected}; omit it, or start the review again")
        return content, examined

    def examine(self, content: bytes) -> Examined:
        """Return what a picture shows. Raises ImageError if it cannot be read."""
        return self._to_show.call(functools.partial(examine, layout=self.layout), content)

    def view(self, item: ReviewItem, *, zoomed: bool) -> View:
        """Return the view of a picture to review. Raises ImageError if it cannot be read."""
        return self._view(item.source, item.split, ZOOMED_SIDE if zoomed else SIDE)

    def close(self) -> None:
        self._to_show.close()
        self._to_decide.close()

    def _read_view(self, source: Path | int, split: str, side: int) -> View:
        if isinstance(source, Path):
            view = functools.partial(view_file, layout=self.layout, folders=self._folders, max_side=side)
            return self._to_show.call(view, source)
        return View(png(self._data.images(split).images[source]), None)
