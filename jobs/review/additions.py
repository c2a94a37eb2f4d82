"""New pictures become part of the folder of a dataset, here or in a bucket: copied as CLASS/HASH.SUFFIX.

A picture is copied before its label is stored, and never replaces a file. So a label always has its picture.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jobs.review.data import ReviewedData, SplitName
from mnist_lib.data.listing import Listing
from mnist_lib.errors import SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects, check_part
from mnist_lib.objects.storage import open_storage


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

        Raises SpecError for a dataset without a folder, or if the name of a class is not allowed in a bucket.
        """
        request, listing = data.request, data.listing
        if listing is None:
            raise SpecError(f"dataset: expected a folder of pictures, got {request.name}, which takes no new pictures")
        if request.url is not None:
            for name in listing.classes:
                check_part("class", name)
        tops, folders = _places(listing)
        present = {PurePosixPath(file.path).stem for file in listing.files}
        where = request.folder if request.folder is not None else str(request.url)
        return cls(where, tops, folders, present)

    def add(self, content: bytes, *, image: str, suffix: str, label: str, split: SplitName) -> None:
        """Copy a picture into the folder of its class, durably. Do nothing if it is already in the dataset.

        Args:
            image: the hash of its pixels.

        Raises StoreError if it cannot be written.
        """
        if image in self.present:
            return
        top = self.tops[split]
        folder, name = "/".join(part for part in (top, self.folders.get((top, label), label)) if part), image + suffix
        self._create(folder, name, content)
        self.present.add(image)

    def _create(self, folder: str, name: str, content: bytes) -> None:
        if isinstance(self.where, str):
            open_storage(self.where).create(f"{folder}/{name}", content)
            return
        # The folder is not part of the name: a class may have a name that no object may have.
        objects: Objects = LocalObjects(self.where, below=folder)
        objects.create(name, content)


def _places(listing: Listing) -> tuple[dict[SplitName, str], dict[tuple[str, str], str]]:
    """Return the folder of each split, and that of each class in it."""
    parts = [PurePosixPath(file.path).parts for file in listing.files]
    is_flat = all(_same(part[0], listing.classes[file.label]) for part, file in zip(parts, listing.files, strict=True))
    tops: dict[SplitName, str] = {"training": "", "hold-out": ""}
    folders: dict[tuple[str, str], str] = {}
    for part, file in zip(parts, listing.files, strict=True):
        top, folder = ("", part[0]) if is_flat else (part[0], part[1])
        folders.setdefault((top, listing.classes[file.label]), folder)
        if not is_flat and file.split == "test":
            tops["hold-out"] = tops["hold-out"] or top
        elif not is_flat and file.split != "validation":
            tops["training"] = tops["training"] or top
    if not tops["hold-out"]:  # without a test folder, the hash of a picture decides its split
        tops["hold-out"] = tops["training"]
    return tops, folders


def _same(folder: str, name: str) -> bool:
    return unicodedata.normalize("NFC", folder) == name
