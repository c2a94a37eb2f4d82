"""How much space the images of a dataset take on disk and in the memory of a lane, as far as it is known beforehand."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from mnist_lib.data.availability import default_data_dir
from mnist_lib.data.listing import Listing, list_folder
from mnist_lib.data.prepared.folder import shards_of
from mnist_lib.data.prepared.index import (
    folder_index_path,
    index_path,
    pictures_hash,
    read_index,
    source_hash,
    states_for,
)
from mnist_lib.data.request import DataRequest
from mnist_lib.data.shards import CHUNK_BYTES, CHUNKS_AHEAD, MAX_HELD_BYTES, PREPARED
from mnist_lib.data.split import TEST_SHARE, Dataset
from mnist_lib.errors import DataFolderError
from mnist_lib.wording import bytes_text


@dataclass(frozen=True, kw_only=True)
class Volume:
    """The images of a dataset."""

    images: int
    train: int  # those for training and validation
    image_shape: tuple[int, ...]  # height, width, channels
    disk_bytes: int
    exact: bool  # False if the pictures of a folder are not read yet

    @property
    def is_held(self) -> bool:
        """Return whether each lane holds all images in its memory."""
        return self.images * math.prod(self.image_shape) <= MAX_HELD_BYTES

    @property
    def lane_bytes(self) -> int:
        """The memory that images take in each lane, at most."""
        return self.images * math.prod(self.image_shape) if self.is_held else (CHUNKS_AHEAD + 2) * CHUNK_BYTES

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "lane_bytes": self.lane_bytes}

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
    try:
        prepared = (request.data_dir or default_data_dir()) / PREPARED
    except DataFolderError:
        return None
    if request.folder is not None:
        listing = list_folder(request.folder, group_by=request.group_by)
        path = folder_index_path(request, request.folder, prepared)
        indexed = read_index(
            request.name, path, states_for(request, lambda asked, version: pictures_hash(listing, asked))
        )
        return _prepared(indexed) or _expected(request, listing)
    if request.entry is None or request.entry.embedded:
        return None
    versions, path = prepared.parent / request.tfds_name, index_path(prepared, request.tfds_name)
    return _prepared(read_index(request.name, path, lambda about: [source_hash(versions / about["version"])]))


def _prepared(dataset: Dataset | None) -> Volume | None:
    """Return the volume of a prepared dataset; None if there is none."""
    shards = shards_of(dataset.images) if dataset is not None else None
    if dataset is None or shards is None:
        return None
    images, train = len(dataset.labels), len(dataset.train)
    return Volume(images=images, train=train, image_shape=dataset.image_shape, disk_bytes=shards.bytes, exact=True)


def _expected(request: DataRequest, listing: Listing) -> Volume:
    """Return the volume of a folder that is not prepared, by the sizes of some of its pictures."""
    from mnist_lib.data.folder import probable_shape  # imports Pillow

    images, shape = sum(map(len, listing.paths)), probable_shape(request, listing)
    splits = Counter(listing.split(path) for paths in listing.paths for path in paths)
    train = images - splits["test"] - round(TEST_SHARE * splits[""])
    return Volume(images=images, train=train, image_shape=shape, disk_bytes=images * math.prod(shape), exact=False)
