"""A picture of training images and of what augmentation makes of them."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from mnist_lib.data.dataset import Dataset
from mnist_lib.models.building import augmentations_for
from mnist_lib.report.dataset import GAP, draw_image, scale_for
from mnist_lib.spec import TrialSpec

IMAGES, PER_ROW = 12, 6


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
    scale = scale_for(height, width)
    column = width * scale + GAP
    row = 2 * height * scale + 2 * GAP
    picture = Image.new("RGB", (PER_ROW * column + GAP, -(-len(chosen) // PER_ROW) * row + GAP), "white")
    for number, pair in enumerate(zip(before, changed, strict=True)):
        left = GAP + number % PER_ROW * column
        top = GAP + number // PER_ROW * row
        for line, image in enumerate(pair):
            draw_image(picture, image, (left, top + line * (height * scale + 2)), scale)
    picture.save(path, format="PNG", optimize=True)
