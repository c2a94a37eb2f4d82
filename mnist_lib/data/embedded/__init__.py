"""The digits that are part of this package. `README.md` names the sources of the files."""

import hashlib
from pathlib import Path

import numpy as np

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table

FOLDER = Path(__file__).parent
VERSION = "1.0.0"  # of both datasets


def read_embedded(name: str) -> Dataset:
    """Return an embedded dataset.

    The images are in the order in which TFDS stored them for earlier releases, by a hash of the split and the number,
    so that the same seed gives the same weights.
    """

    def read(split: str) -> Table:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        order = sorted(range(len(labels)), key=lambda number: hashlib.md5(f"{split}{number}".encode()).digest())
        return Table.of(images[order], labels[order])

    with np.load(FOLDER / f"{name}.npz") as arrays:
        return Dataset.of(name, VERSION, read("train"), read("test"))
