"""What is known of a dataset whose labels are reviewed: its classes, and the split and the label of each image."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jobs.models.compute import load_dataset
from mnist_lib.data.corrections import NONE
from mnist_lib.data.hashes import text_of
from mnist_lib.data.listing import Listing, list_folder
from mnist_lib.data.mirror import with_local_files
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataError
from mnist_lib.objects.protocol import Objects

if TYPE_CHECKING:
    from mnist_lib.data.split import Dataset

SplitName = Literal["training", "hold-out"]


@dataclass(frozen=True)
class KnownImage:
    split: SplitName
    label: str


@dataclass(frozen=True)
class ReviewedData:
    """A dataset.

    Args:
        folder: the folder of its pictures on this machine, a copy if they are in a bucket; None for arrays.
        listing: what is in that folder, or None.
        known: its images by their hashes.
    """

    request: DataRequest
    dataset: "Dataset"
    folder: Path | None
    listing: Listing | None
    known: dict[str, KnownImage]

    @classmethod
    def of(
        cls, request: DataRequest, dataset: "Dataset", folder: Path | None = None, listing: Listing | None = None
    ) -> "ReviewedData":
        known: dict[str, KnownImage] = {}
        names: tuple[SplitName, SplitName] = ("training", "hold-out")
        for name, split in zip(names, (dataset.train, dataset.test), strict=True):
            for row, label in zip(split.hashes, split.labels.tolist(), strict=True):
                known[text_of(row)] = KnownImage(name, dataset.classes[label])
        return cls(request, dataset, folder, listing, known)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    @property
    def is_light_on_dark(self) -> bool:
        """Whether most of its pixels are dark, as those of MNIST."""
        return bool(self.dataset.train.images[:100].mean() < 96)

    def paths(self) -> list[Path]:
        """Return the files of its pictures."""
        if self.folder is None or self.listing is None:
            return []
        return [self.folder / file.path for file in self.listing.files]

    def holds(self, path: Path) -> bool:
        """Return whether a path is inside of the folder of its pictures."""
        return self.folder is not None and path.resolve().is_relative_to(self.folder.resolve())


def read_data(
    request: DataRequest, objects: Objects, progress: Callable[[str], object] = lambda text: None
) -> ReviewedData:
    """Read a dataset and correct its labels. Raises the errors of `prepare`, and DataError if a class is named `NONE`.

    Args:
        objects: the storage, which contains the corrections of a dataset that is not a folder.
    """
    folder = with_local_files(request).folder
    listing = list_folder(folder) if folder is not None else None
    dataset = load_dataset(request, objects, progress)
    if NONE in dataset.classes:
        expected = f'classes with other names than "{NONE}", the label that removes an image'
        raise DataError(f"{request.name}: expected {expected}, got a class of this name; rename it")
    return ReviewedData.of(request, dataset, folder, listing)
