"""The digits of a benchmark as one file of arrays, which every contender reads."""

import contextlib
import sys
from pathlib import Path

import numpy as np

from mnist_lib.data.embedded import FOLDER


def write_digits(file: Path, source: Path | None, images: int | None = None) -> tuple[int, int]:
    """Of the full MNIST, given a folder of its four original files; else the embedded ones; `images` of them, if given.

    -> the numbers of train and test images.
    """
    if source is None:
        arrays = dict(np.load(FOLDER / "mnist-mini.npz"))
    else:
        from mnist_lib.data.prepare import prepare

        with contextlib.redirect_stdout(sys.stderr):  # TFDS tells of its progress there
            dataset = prepare("mnist", None, source)
        arrays = {
            f"{split}_{kind}": getattr(getattr(dataset, split), kind)
            for split in ("train", "test")
            for kind in ("images", "labels")
        }
    stride = max(1, len(arrays["train_labels"]) // images) if images else 1  # the embedded ones are in order of class
    arrays |= {name: arrays[name][::stride][:images] for name in ("train_images", "train_labels")}
    np.savez(file, allow_pickle=False, **arrays)
    return len(arrays["train_labels"]), len(arrays["test_labels"])
