"""Images in small shards."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_lib.data.prepared import writer as module
from mnist_lib.data.prepared.writer import ShardWriter
from mnist_lib.data.shards import Images, Shards
from mnist_lib.data.split import Dataset


def write_shards(folder: Path, images: Any, per_shard: int) -> Images:
    """Write images, [n, height, width, channels], into shards of a few images each."""
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_SHARD_BYTES", per_shard * images[0].size)
        with ShardWriter(folder, images.shape[1:], len(images)) as writer:
            writer.add(np.asarray(images[:7]))
            writer.add(np.asarray(images[7:]))
            return Images(writer.finish(), np.arange(len(images)))


def in_shards(dataset: Dataset, folder: Path, per_shard: int = 50) -> Dataset:
    """Return a dataset with its images in shards of a few images each."""
    return replace(dataset, images=write_shards(folder, dataset.images, per_shard))


def shards_of(images: object) -> Shards:
    assert isinstance(images, Images)
    assert isinstance(images.source, Shards)
    return images.source
