"""Corrected labels: an append-only file `labels.jsonl` with a line for each decision of a person about an image.

It is in the folder of a dataset, or in the storage if the dataset has no folder of its own. Files of pictures are
never changed. The latest line about an image wins.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from mnist_lib.data.request import ClassName, DataRequest
from mnist_lib.documents import Count, Moment, Sha256, complete_lines, decode, encode
from mnist_lib.errors import DataError, IntegrityError
from mnist_lib.objects.protocol import Objects

LABELS = "labels.jsonl"
MAX_LABELS_BYTES = 1 << 28  # a million lines
NONE = "none"  # the label that removes an image, for one that belongs to no class

ImageHash = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]  # see `table.text_of`
Reason = Literal["random", "uncertain", "disputed"]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A line of `labels.jsonl`."""

    image: ImageHash
    label: ClassName  # the name of a class, or `NONE`
    at: Moment  # UTC, ISO 8601
    by: Annotated[str, Meta(max_length=200)]  # who decided
    replaced: ClassName | None  # the label before; None if the image had none
    # Why the image was looked at. "disputed": since a model found its label improbable; "uncertain": since a model was
    # not sure of an image without a label.
    why: Reason
    undone: bool = False  # whether this takes back the previous line about the image, which then needs a new review


@dataclass(frozen=True, kw_only=True)
class CorrectionCounts:
    """How many images `labels.jsonl` concerns, and in which way."""

    applied: Count = 0  # images that have another label now
    confirmed: Count = 0  # images whose label was found to be correct
    removed: Count = 0  # images that were removed
    holdout: Count = 0  # of those applied and removed, the ones in the test split
    disputed_holdout: Count = 0  # of these, the ones that a model chose for the review, which favours that model
    unknown: Count = 0  # images that the dataset does not have


def parse_corrections(content: bytes, where: str) -> list[Correction]:
    """Return the corrections in the content of a file, in its order. Raises DataError with the number of a bad line."""
    corrections = []
    for number, line in enumerate(io.BytesIO(content), start=1):  # split as it is read, up to the first bad line
        try:
            corrections.append(decode(line, Correction, f"{where}: line {number}", "the correction of a label"))
        except IntegrityError as error:
            raise DataError(f"{error}; correct or remove that line") from error
    return corrections


@dataclass(frozen=True)
class UsedLabels:
    """The part of `labels.jsonl` that a run uses: its first bytes, since lines are only appended."""

    size: Count  # in bytes
    sha256: Sha256

    @classmethod
    def of(cls, content: bytes) -> "UsedLabels":
        return cls(len(content), hashlib.sha256(content).hexdigest())

    def part_of(self, content: bytes, where: str) -> bytes:
        """Return this part of the file, which may have grown. Raises DataError if the part itself has changed."""
        part = content[: self.size]
        if UsedLabels.of(part) != self:
            raise DataError(
                f"{where}: expected the {self.size:,} bytes that the run began with, got others; restore the file, or"
                " start another run"
            )
        return part


@dataclass(frozen=True)
class LabelsFile:
    """`labels.jsonl` of a dataset, on a disk or in a bucket."""

    objects: Objects
    name: str = LABELS

    @property
    def where(self) -> str:
        """The path or URL of the file, for messages."""
        return self.objects.where(self.name)

    def content(self) -> bytes:
        """Return the complete lines of the file, none if there is no file. Raises StoreError."""
        return complete_lines(self.objects.read(self.name, MAX_LABELS_BYTES) or b"")

    def read(self) -> list[Correction]:
        """Return all corrections, oldest first. Raises DataError for a damaged line, or StoreError."""
        return parse_corrections(self.content(), self.where)

    def add(self, corrections: Sequence[Correction]) -> None:
        """Append corrections durably. Concurrent writers lose no line. Raises StoreError."""
        lines = b"".join(encode(correction) + b"\n" for correction in corrections)
        self.objects.add(self.name, lines)


def labels_file(request: DataRequest, storage: Objects) -> LabelsFile:
    """Return where the corrections of a dataset are: in its folder, here or in a bucket, or else in the storage."""
    from mnist_lib.objects.local import LocalObjects
    from mnist_lib.objects.storage import open_storage

    if request.folder is not None:
        return LabelsFile(LocalObjects(request.folder))
    if request.url is not None:
        return LabelsFile(open_storage(request.url))
    return LabelsFile(storage, f"datasets/{request.name}/{LABELS}")


def labels_in_storage(request: DataRequest, storage: Objects) -> bytes:
    """Return the corrections that the storage contains; empty for a folder of pictures, which contains its own."""
    return labels_file(request, storage).content() if request.folder is None and request.url is None else b""
