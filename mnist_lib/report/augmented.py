"""A picture of training images and of what augmentation makes of them."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from mnist_lib.data.dataset import Dataset
from mnist_lib.models.building import augmentations_for
from mnist_lib.pictures.reading import as_picture
from mnist_lib.spec import TrialSpec

IMAGES, PER_ROW = 12, 6
MIN_SIDE, GAP = 84, 14  # pixels


def draw_augmented(dataset: Dataset, spec: TrialSpec, path: Path) -> None:
    """Write a PNG of random training images, each above what a step of training makes of it.

    Args:
        spec: a trial, whose seed chooses the images and the changes.
    """
    train = dataset.train
    chosen = np.random.default_rng(spec.seed).permutation(len(train))[:IMAGES]
    before = np.asarray(train.images[chosen])
    after = tf.cast(before, tf.float32)
    for number, augment in enumerate(augmentations_for(spec, dataset.image_shape)):
        after = tf.cast(augment(after, tf.constant([spec.seed, number])), tf.float32)
    changed = np.rint(np.clip(after.numpy(), 0, 255)).astype(np.uint8)
    height, width, _ = dataset.image_shape
    scale = max(1, MIN_SIDE // max(height, width))  # a whole number, so that pixels stay squares
    size = width * scale, height * scale
    rows = -(-len(chosen) // PER_ROW)
    canvas = Image.new("RGB", (PER_ROW * (size[0] + GAP) + GAP, rows * (2 * size[1] + 2 * GAP) + GAP), "white")
    for number, pair in enumerate(zip(before, changed, strict=True)):
        row, column = divmod(number, PER_ROW)
        for line, image in enumerate(pair):
            shown = as_picture(image).resize(size, Image.Resampling.NEAREST)
            place = GAP + column * (size[0] + GAP), GAP + row * (2 * size[1] + 2 * GAP) + line * (size[1] + 2)
            canvas.paste(shown, place, shown if shown.mode == "RGBA" else None)
    canvas.save(path, format="PNG", optimize=True)
