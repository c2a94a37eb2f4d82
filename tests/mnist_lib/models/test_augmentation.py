"""Each change of training images is a function of images and a seed, within the limits that a setting names."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.augment import EARLIER, Changes
from mnist_lib.models.augmentation import AugmentedModel, augmentations_of, distorted, erased, flipped, lit, shifted
from mnist_lib.models.building import augmentations_for, build_model
from mnist_lib.spec import TrialSpec
from tests.support.stored import small_spec

pytestmark = pytest.mark.usefixtures("tensorflow")

SEED = np.array([5, 0], np.int32)
IMAGES = np.random.default_rng(0).integers(0, 256, (200, 12, 8, 3), np.uint8)


def names(spec: TrialSpec, channels: int) -> list[str]:
    return [getattr(each, "func", each).__name__ for each in augmentations_for(spec, (32, 32, channels))]


@pytest.mark.parametrize("axis", [1, 2])
def test_half_of_the_images_are_mirrored(axis: int) -> None:
    changed = flipped(tf.constant(IMAGES), SEED, axis).numpy()
    mirrored = (changed == np.flip(IMAGES, axis)).all(axis=(1, 2, 3))
    assert ((changed == IMAGES).all(axis=(1, 2, 3)) ^ mirrored).all()
    assert 70 < mirrored.sum() < 130


def test_light_changes_within_its_limits_and_not_what_is_transparent() -> None:
    grey = np.full((200, 4, 4, 4), 100, np.uint8)
    grey[:, :2, :, :3] = 140  # the mean of the colours is 120
    changed = lit(tf.constant(grey), SEED, brightness=0.1, contrast=0.5).numpy()
    assert (changed[..., 3] == 100).all()
    means = changed[..., :3].mean(axis=(1, 2, 3))
    assert 94 < means.min() < 100
    assert 140 < means.max() < 146
    differences = changed[:, 0, 0, 0] - changed[:, 3, 0, 0]
    assert 20 <= differences.min() < 25
    assert 55 < differences.max() <= 60
    assert (lit(tf.constant(grey), SEED).numpy() == grey).all()
    bright = lit(tf.constant(np.full((200, 2, 2, 1), 250, np.uint8)), SEED, brightness=1.0).numpy()
    assert (bright.min(), bright.max()) == (pytest.approx(0, abs=5), 255)


def test_a_rectangle_gets_the_mean_colour() -> None:
    changed = erased(tf.constant(IMAGES), SEED, 0.5).numpy()
    is_changed = (changed != IMAGES).any(axis=3)
    for image, after, marks in zip(IMAGES, changed, is_changed, strict=True):
        rows, columns = np.flatnonzero(marks.any(axis=1)), np.flatnonzero(marks.any(axis=0))
        assert len(rows) <= 6
        assert len(columns) <= 4
        if len(rows):
            assert marks[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert np.allclose(after[marks], image.mean(axis=(0, 1)), atol=0.01)
    assert is_changed.any(axis=(1, 2)).sum() > 150


def test_what_comes_from_outside_an_image_is_what_is_at_its_edge() -> None:
    white = np.full((50, 12, 12, 3), 255, np.uint8)
    (augment,) = augmentations_of(Changes(shift=0.3, rotate=45.0, zoom=0.3, bend=0.05), (12, 12, 3))
    assert np.allclose(augment(tf.constant(white), SEED), 255, atol=0.01)
    assert distorted(tf.constant(white), SEED).numpy().min() == 0


@pytest.mark.parametrize(("pixels", "share"), [(2, 0.25), (8, 0.25)])
def test_lengths_are_shares_of_the_side(pixels: int, share: float) -> None:
    images = np.zeros((300, 4 * pixels, 4 * pixels, 1), np.float32)
    images[:, 2 * pixels, 2 * pixels] = 255
    (augment,) = augmentations_of(Changes(shift=share), (4 * pixels, 4 * pixels, 1))
    places = np.argwhere(augment(tf.constant(images), SEED).numpy().max(axis=3) > 120)[:, 1:]
    moved = np.abs(places - 2 * pixels)
    assert moved.max() == pixels


def test_the_default_is_photos_in_colour_what_suits_the_network_in_grey_and_nothing_for_other_models() -> None:
    photos = ["distorted", "lit", "erased"]
    for model, grey in (("keras-resnet", ["shifted"]), ("keras-best", ["stroked", "distorted"]), ("keras-fast", [])):
        assert names(TrialSpec.of(model), 1) == grey
        assert names(TrialSpec.of(model), 3) == photos
        assert names(replace(TrialSpec.of(model), augment=EARLIER), 3) == grey
    assert names(TrialSpec.of("keras-mobilenet"), 1) == photos
    for model in ("keras", "scratch"):
        assert names(TrialSpec.of(model), 3) == []
        assert names(TrialSpec.of(model, augment="photos,flip=horizontal"), 1) == ["flipped", *photos]
    own = TrialSpec.of("own", source_sha256="0" * 64)
    assert names(own, 3) == []
    assert names(replace(own, augment="digits"), 3) == ["stroked", "distorted"]
    assert names(TrialSpec.of("keras-cnn", augment="none"), 3) == []


@pytest.mark.parametrize("model", ["keras", "scratch", "keras-cnn"])
def test_any_model_is_augmented_in_training_alone_by_seeds_of_its_own_seed(model: str) -> None:
    spec = replace(small_spec(model), augment="photos,flip=both,bend=0.02,stroke=0.2")
    augmented = build_model(spec, (12, 8, 3), 4)
    plain = build_model(replace(spec, augment="none"), (12, 8, 3), 4)
    assert isinstance(augmented, AugmentedModel)
    weights, again = (augmented.initial_weights(7) for _ in range(2))
    for one, other in zip((*weights.trainable, *weights.state), (*again.trainable, *again.state), strict=True):
        assert np.array_equal(one, other)
    assert len(weights.state) == 6 + len(plain.initial_weights(7).state)
    images = tf.constant(IMAGES[:8])
    assert np.array_equal(augmented.logits(weights, images), plain.logits(plain.initial_weights(7), images))
    assert augmented.stored(weights).sha256() == plain.stored(plain.initial_weights(7)).sha256()
    read = augmented.read(augmented.files(weights))
    assert np.array_equal(augmented.logits(read, images), augmented.logits(weights, images))


def test_augmentations_are_functions_of_the_seed() -> None:
    changes: list[Callable[..., Any]] = augmentations_of(
        Changes(flip="both", stroke=0.3, shift=0.1, brightness=0.2, contrast=0.2, erase=0.25), (12, 8, 3)
    )
    assert len(changes) == 6
    for augment in (*changes, shifted):

        def changed(seed: tuple[int, int], augment: Callable[..., Any] = augment) -> NDArray[Any]:
            return np.asarray(augment(tf.constant(IMAGES), tf.constant(seed)))

        assert np.array_equal(changed((1, 2)), changed((1, 2)))
        assert not np.array_equal(changed((1, 2)), changed((1, 3)))
        assert not np.array_equal(changed((1, 2)), changed((2, 2)))
