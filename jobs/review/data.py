"""The dataset whose labels are reviewed: its images, their views for people, and the folder that new pictures join.

Files are decoded in a sandbox only. A new picture is copied before its label is stored, and never replaces a file. So
a label always has its picture.
"""

import functools
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.review.labels import DecisionError
from mnist_lib.data.corrections import NONE
from mnist_lib.data.dataset import is_validated
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.listing import Listing, listing_of
from mnist_lib.data.sources.mirror import with_local_files
from mnist_lib.data.table import hash_of_text, is_held_out, shares_of, text_of
from mnist_lib.errors import DataError, IntegrityError, SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects, check_part
from mnist_lib.objects.storage import open_storage
from mnist_lib.pictures.examination import View, png, view_file
from mnist_lib.pictures.reading import Layout, Picture, read_content, read_picture
from mnist_lib.pictures.rejecting import Rejection, rejection
from mnist_lib.pictures.sandbox import Sandbox
from mnist_lib.store.datasets import recorded_hashes
from mnist_lib.store.images import load_dataset

if TYPE_CHECKING:
    from mnist_lib.data.dataset import Dataset
    from mnist_lib.data.table import Table

MAX_VIEWS = 64  # that are held in memory
SIDE, ZOOMED_SIDE = 640, 2_400  # pixels of the longer side of a view, at most

HIDDEN = "The model's answer is hidden, since this picture measures how good the model is."

SplitName = Literal["training", "validation", "hold-out"]


@dataclass
class ReviewItem:
    """A picture to review.

    Args:
        source: the file of the picture, or its index in the training or the test images.
        label: its current label; None if it has none, as a new picture.
        is_new: whether the dataset does not contain it yet.
        probabilities: of the model's classes; None if it has not predicted the picture (yet).
        problem: why the model cannot take the picture, or "".
        likeness, to_classes: its likeness to one digit, and that to the classes of the model, see `rejection`.
        is_disputed: whether it is reviewed since the models of a run dispute its label.
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
    to_classes: float = 1.0
    is_disputed: bool = False

    @property
    def answer(self) -> NDArray[Any] | None:
        """The probabilities that people may see: none of a picture that measures the model, since they would agree."""
        return self.probabilities if self.split == "training" else None

    @property
    def note(self) -> str:
        return self.problem or (HIDDEN if self.split != "training" else self.rejection or "")

    @property
    def rejection(self) -> Rejection | None:
        """Why the model's answer is not to be relied on, if it has answered."""
        return None if self.probabilities is None else rejection(self.likeness, self.probabilities, self.to_classes)


class LearnedLabel(NamedTuple):
    """The label with which a model was trained on a picture."""

    label: str
    probability: float  # that training gave to the label rather than to the likeliest other one


@dataclass(frozen=True)
class ReviewedData:
    """A dataset.

    Args:
        folder: the folder of its pictures on this machine, a copy if they are in a bucket; None for arrays.
        listing: what is in that folder, or None.
        validation_percent: percentage of the training images for validation of the model, as in its spec.
        recorded: the hash that the storage has recorded for a picture, by the first 16 bytes of a hash of its file.
    """

    request: DataRequest
    dataset: "Dataset"
    folder: Path | None = None
    listing: Listing | None = None
    validation_percent: int | None = 0
    recorded: Mapping[bytes, bytes] = field(default_factory=dict)

    @functools.cached_property
    def known(self) -> dict[str, ReviewItem]:
        """The images of the dataset by their hashes."""
        splits: tuple[SplitName, SplitName] = ("training", "hold-out")
        items = [self.image_item(split, index) for split in splits for index in range(len(self.images(split)))]
        return {item.image: item for item in items}

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    def hash_of(self, picture: Picture) -> str:
        """Return the hash of a picture as `table.text_of` writes it: the one that was recorded for its file, if any."""
        return self.recorded.get(picture.content, picture.sha256[:16]).hex()

    def paths(self) -> list[Path]:
        """Return the files of its pictures, without counter-examples."""
        if self.folder is None or self.listing is None:
            return []
        return [self.folder / path for path in self.listing.paths[: self.listing.in_classes]]

    def images(self, split: str) -> "Table":
        return self.dataset.test if split == "hold-out" else self.dataset.train

    @functools.cached_property
    def _validated(self) -> NDArray[np.bool_]:
        """Return whether each training image is for validation."""
        return is_validated(self.dataset.train, self._percent)

    @functools.cached_property
    def _percent(self) -> int:
        return self.dataset.percent_for_validation(self.validation_percent)

    def file_item(self, path: Path, image: str) -> ReviewItem:
        """Return the picture in a file. One that is not in the dataset has no label. `image`: the hash of its pixels"""
        if image in self.known:
            return replace(self.known[image], name=str(path), source=path)
        row = hash_of_text(image)[None]
        below = shares_of(row)[0, 1] < self._percent / 100 and not self.dataset.train.validation.any()
        split: SplitName = "hold-out" if is_held_out(row)[0] else "validation" if below else "training"
        is_inside = self.folder is not None and path.resolve().is_relative_to(self.folder.resolve())
        return ReviewItem(image, str(path), path, split, None, is_new=not is_inside)

    def image_item(self, split: SplitName, index: int) -> ReviewItem:
        """Return an image of the dataset. `index`: in the training or the test images"""
        images = self.images(split)
        image = text_of(images.hashes[index])
        label = self.classes[int(images.labels[index])]
        file = images.file(index)
        if split == "training" and self._validated[index]:
            split = "validation"
        if file is not None and self.folder is not None:
            return ReviewItem(image, str(self.folder / file), self.folder / file, split, label)
        return ReviewItem(image, f"{split} image {index:,}", index, split, label)


def read_data(
    request: DataRequest,
    objects: Objects,
    progress: Callable[[str], object] = lambda text: None,
    validation_percent: int | None = 0,
) -> ReviewedData:
    """Read a dataset and correct its labels. Raises the errors of `prepare`, and DataError if a class is named `NONE`.

    Args:
        objects: the storage, which contains the corrections of a dataset that is not a folder.
        validation_percent: as for `ReviewedData`.
    """
    local = with_local_files(request)
    listing = listing_of(local) if local.folder is not None else None
    dataset = load_dataset(request, objects, progress)
    if NONE in dataset.classes:
        expected = f'classes with other names than "{NONE}", the label that removes an image'
        raise DataError(f"{request.name}: expected {expected}, got a class of this name; rename it")
    records = [record.tobytes() for record in recorded_hashes(objects, request)]
    recorded = {record[:16]: record[16:] for record in reversed(records)}  # the first of a file counts
    return ReviewedData(request, dataset.in_memory(), local.folder, listing, validation_percent, recorded)


class Viewer:
    """Reads pictures to show and, beside them, pictures to decide about. Several threads may call its methods."""

    def __init__(self, data: ReviewedData, layout: Layout) -> None:
        self.data = data
        self.layout = layout
        # A decision about a new picture reads it again, and does not wait for pictures that are only shown.
        self._to_show = Sandbox()
        self._to_decide = Sandbox()
        self._view = functools.lru_cache(MAX_VIEWS)(self._read_view)
        self._read = functools.partial(read_picture, layout=layout, for_people=True)

    @property
    def is_light_on_dark(self) -> bool:
        """Return whether to draw light on dark: as most pictures of the dataset, if the model does not invert any."""
        return not self.layout.digit and bool(np.asarray(self.data.dataset.train.images[:100]).mean() < 96)

    def read_again(self, item: ReviewItem) -> tuple[bytes, Picture]:
        """Return the content of the file of a picture, and what it shows.

        Raises ImageError if it cannot be read, or DecisionError if it has changed.
        """
        assert isinstance(item.source, Path)
        content = read_content(item.source)
        examined = self._to_decide.call(self._read, content)
        if self.data.hash_of(examined) != item.image:
            expected = "expected the picture that was shown, got another"
            raise DecisionError(f"{item.name}: {expected}; omit it, or start the review again")
        return content, examined

    def examine(self, content: bytes) -> Picture:
        """Return what a picture shows. Raises ImageError if it cannot be read."""
        return self._to_show.call(self._read, content)

    def view(self, item: ReviewItem, *, zoomed: bool) -> View:
        """Return the view of a picture to review. Raises ImageError if it cannot be read."""
        return self._view(item.source, item.split, ZOOMED_SIDE if zoomed else SIDE)

    def close(self) -> None:
        self._to_show.close()
        self._to_decide.close()

    def _read_view(self, source: Path | int, split: str, side: int) -> View:
        if isinstance(source, Path):
            view = functools.partial(view_file, layout=self.layout, max_side=side)
            return self._to_show.call(view, source)
        return View(png(self.data.images(split).images[source]), None)


@dataclass(frozen=True)
class Additions:
    """The folder of a dataset that takes new pictures.

    Args:
        tops: the folder of each split, such as "train"; "" if the classes are directly in the folder.
        folders: the name of each existing class folder, by the folder in `tops` and the class.
        present: the hashes that files in the folder are named after.
    """

    where: Path | str  # a folder of this machine, or the URL of one in a bucket
    tops: Mapping[SplitName, str]
    folders: Mapping[tuple[str, str], str]
    present: set[str]

    @classmethod
    def of(cls, data: ReviewedData) -> "Additions":
        """Return the folder of a dataset.

        Raises SpecError for a dataset with groups or a table of labels, or if the name of a class is not allowed in a
        bucket.
        """
        request = data.request
        listing = data.listing
        assert listing is not None  # see `ReviewOptions.check`
        if request.group_by is not None:
            expected = f"expected a dataset without groups, got {request.name} with --group-by {request.group_by}"
            raise SpecError(f"pictures: {expected}; copy new pictures into their groups yourself, and omit them here")
        if listing.table is not None:
            expected = f"expected a dataset whose folders are its classes, got {request.name} with a table of labels"
            raise SpecError(f"pictures: {expected}; add rows for new pictures to it yourself, and omit them here")
        if request.url is not None:
            for name in listing.classes:
                check_part("class", name)
        tops, folders = _places(listing)
        present = {PurePosixPath(path).stem for path in listing.paths}
        where = request.folder if request.folder is not None else str(request.url)
        return cls(where, tops, folders, present)

    def add(self, item: ReviewItem, label: str, viewer: Viewer) -> None:
        """Copy a new picture into the folder of a class. Raises the errors of `read_again`, and StoreError."""
        content, examined = viewer.read_again(item)
        self.create(content, image=item.image, suffix=examined.suffix, label=label, split=item.split)
        item.is_new = False

    def create(self, content: bytes, *, image: str, suffix: str, label: str, split: SplitName) -> None:
        """Copy a picture into the folder of its class, durably. Do nothing if it is already in the dataset.

        Args:
            image: the hash of its pixels.

        Raises StoreError if it cannot be written.
        """
        if image in self.present:
            return
        top = self.tops[split]
        name = image + suffix
        folder = "/".join(part for part in (top, self.folders.get((top, label), label)) if part)
        if isinstance(self.where, str):
            open_storage(self.where).create(f"{folder}/{name}", content)
        else:  # the folder is not part of the name: a class may have a name that no object may have
            place = self.where / folder
            if not place.resolve().is_relative_to(self.where.resolve()):
                raise IntegrityError(
                    f"{place}: expected a folder in {self.where}, got a link out of it; remove the link"
                )
            LocalObjects(place).create(name, content)
        self.present.add(image)


def _places(listing: Listing) -> tuple[dict[SplitName, str], dict[tuple[str, str], str]]:
    """Return the folder of each split, and that of each class in it."""
    files = [
        (PurePosixPath(path).parts, listing.classes[label], split)
        for path, label, split in zip(listing.paths, listing.labels, listing.splits, strict=True)
        if label < len(listing.classes)
    ]
    is_flat = all(unicodedata.normalize("NFC", parts[0]) == name for parts, name, _ in files)
    tops: dict[SplitName, str] = {}
    folders: dict[tuple[str, str], str] = {}
    for parts, name, split in files:
        top, folder = ("", parts[0]) if is_flat else (parts[0], parts[1])
        folders.setdefault((top, name), folder)
        if split != "validation":
            tops.setdefault("hold-out" if split == "test" else "training", top)
    training = tops.get("training", "")  # without a test folder, the hash of a picture decides its split
    return {"training": training, "validation": training, "hold-out": tops.get("hold-out", training)}, folders
