"""Folders of small pictures for tests."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest


def noise(seed: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> Image.Image:
    """Return a random picture. `size`: width and height."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def write_folder(folder: Path, files: Mapping[str, Image.Image | bytes]) -> Path:
    """Write pictures and other files, given by path."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
    return folder


def classes(*names: str, pictures: int = 30, mode: str = "L", size: tuple[int, int] = (8, 8)) -> dict[str, Image.Image]:
    """Return different pictures for each class, by path."""
    return {
        f"{name}/{number}.png": noise(1_000 * label + number, size, mode)
        for label, name in enumerate(names)
        for number in range(pictures)
    }


def read(folder: Path, **options: object) -> Dataset:
    """Return the dataset in a folder of pictures, cached beside the folder."""
    request = DataRequest(dataset=f"{folder}/", data_dir=folder.parent / "prepared", **options)  # type: ignore[arg-type]
    return prepare(request)


def images_of(dataset: Dataset, name: str) -> set[bytes]:
    """Return all images of a class."""
    splits, label = (dataset.train, dataset.test), dataset.classes.index(name)
    return {image.tobytes() for split in splits for image in split.images[split.labels == label]}


def total(dataset: Dataset) -> int:
    """Return the number of images."""
    return len(dataset.train) + len(dataset.test)
