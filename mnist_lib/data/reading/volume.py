"""How much space the images of a dataset take on disk and in the memory of a lane, as far as it is known beforehand."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from mnist_lib.data.images import CHUNK_BYTES, CHUNKS_AHEAD, MAX_HELD_BYTES
from mnist_lib.data.prepared.index import pictures_hash, prepared_dataset, tfds_folder, tfds_hash
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.availability import default_data_dir
from mnist_lib.data.sources.listing import Listing
from mnist_lib.data.sources.own_pictures import listing_of
from mnist_lib.data.table import TEST_SHARE
from mnist_lib.wording import bytes_text


@dataclass(frozen=True, kw_only=True)
class Volume:
    """The images of a dataset."""

    images: int
    train: int  # those for training and validation
    image_shape: tuple[int, ...]  # height, width, channels
    exact: bool  # False if the pictures of a folder are not read yet

    @property
    def disk_bytes(self) -> int:
        return self.images * math.prod(self.image_shape)

    @property
    def is_held(self) -> bool:
        """Return whether each lane holds all images in its memory."""
        return self.disk_bytes <= MAX_HELD_BYTES

    @property
    def lane_bytes(self) -> int:
        """The memory that images take in each lane, at most."""
        return self.disk_bytes if self.is_held else (CHUNKS_AHEAD + 2) * CHUNK_BYTES

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "disk_bytes": self.disk_bytes, "lane_bytes": self.lane_bytes}

    def __str__(self) -> str:
        of, about = (" of", "") if self.exact else (", probably of", "about ")
        shape = " x ".join(map(str, self.image_shape))
        if self.is_held:
            use = "held in the memory of each lane"
        else:
            use = f"read as needed; each lane holds up to {bytes_text(self.lane_bytes)} of them"
        return f"{self.images:,}{of} {shape}, {about}{bytes_text(self.disk_bytes)} on disk, {use}"


def volume_of(request: DataRequest) -> Volume | None:
    """Return the volume of a dataset, or None if it is not known before the dataset is prepared, or in this package.

    Raises:
        DataError: a folder cannot be listed, or none of its pictures can be read.
    """
    if request.folder is not None:
        listing = listing_of(request)
        state = pictures_hash(listing)
    elif request.entry is None or request.entry.embedded:
        return None
    else:
        state = tfds_hash(request, tfds_folder(request, request.data_dir or default_data_dir()))
    dataset = prepared_dataset(request, state)
    if dataset is None:
        return _expected(request, listing) if request.folder is not None else None
    train, shape = len(dataset.train), dataset.image_shape
    return Volume(images=len(dataset.table), train=train, image_shape=shape, exact=True)


def _expected(request: DataRequest, listing: Listing) -> Volume:
    """Return the volume of a folder that is not prepared, by the sizes of some of its pictures."""
    from mnist_lib.data.reading.folder import probable_shape  # imports Pillow

    images, shape = len(listing.paths), probable_shape(request, listing)
    splits = Counter(listing.splits[: listing.in_classes])
    train = splits.total() - splits["test"] - round(TEST_SHARE * splits[""])
    return Volume(images=images, train=train, image_shape=shape, exact=False)
