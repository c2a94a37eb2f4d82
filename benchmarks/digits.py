"""The digits of a benchmark in one file of arrays that every contender reads."""

import argparse
import contextlib
import sys
from pathlib import Path

import numpy as np

from mnist_lib.data.embedded import FOLDER


def parser_with_source(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option --source, whose value is that of `write_digits`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--source", type=Path, help="a folder with the four original MNIST files")
    return parser


def write_digits(file: Path, source: Path | None, images: int | None = None) -> tuple[int, int]:
    """Write the digits, and return the numbers of train and test images.

    Args:
        source: a folder with the four original MNIST files; None writes the embedded digits.
        images: write only this many train images.
    """
    if source is None:
        arrays = dict(np.load(FOLDER / "mnist-mini.npz"))
    else:
        from mnist_lib.data.prepare import prepare
        from mnist_lib.data.request import DataRequest

        with contextlib.redirect_stdout(sys.stderr):  # TFDS prints its progress
            dataset = prepare(DataRequest(dataset="mnist", data_source=source))
        arrays = {
            f"{split}_{kind}": getattr(getattr(dataset, split), kind)
            for split in ("train", "test")
            for kind in ("images", "labels")
        }
    stride = max(1, len(arrays["train_labels"]) // images) if images else 1  # the embedded digits are sorted by class
    arrays |= {name: arrays[name][::stride][:images] for name in ("train_images", "train_labels")}
    np.savez(file, allow_pickle=False, **arrays)
    return len(arrays["train_labels"]), len(arrays["test_labels"])
