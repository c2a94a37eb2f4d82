"""Images in a file of pixels."""

from pathlib import Path
from typing import Any

import numpy as np

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.images import Images, PixelFile, PixelWriter


def write_pixels(folder: Path, images: Any) -> Images:
    """Write images, [n, height, width, channels], into a file of a folder."""
    folder.mkdir(exist_ok=True)
    with PixelWriter(folder, images.shape[1:], len(images)) as writer:
        writer.add(np.asarray(images[:7]))
        writer.add(np.asarray(images[7:]))
        return Images(writer.finish(), np.arange(len(images)))


def in_file(dataset: Dataset, folder: Path) -> Dataset:
    """Return a dataset with its images in a file of a folder."""
    return dataset.with_images(write_pixels(folder, dataset.table.images))


def file_of(images: object) -> PixelFile:
    assert isinstance(images, Images)
    assert images.held is None
    return images.file
