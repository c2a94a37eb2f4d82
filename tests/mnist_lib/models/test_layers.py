"""Augmentations are functions of images and a seed; fused batch normalisation equals that of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_lib.models.augmentation import distorted, shifted, stroked
from mnist_lib.models.layers import AveragedOverAngles, FusedBatchNormalization, to_predict

pytestmark = pytest.mark.usefixtures("tensorflow")

SEED = np.array([5, 0], np.int32)


def test_a_random_shift_moves_every_pixel_of_a_part_of_the_batch_alike_and_reproducibly() -> None:
    images = np.zeros((200, 6, 6, 1), np.uint8)
    images[:, 2, 3] = 255
    moved = shifted(tf.constant(images), SEED, shifts=100).numpy()
    assert (moved[::2] == moved[1::2]).all()
    places = {tuple(place) for place in np.argwhere(moved[..., 0])[:, 1:]}
    assert places == {(row, column) for row in (1, 2, 3) for column in (2, 3, 4)}
    assert (moved.reshape(200, -1).sum(axis=1) == 255).all()
    assert (shifted(tf.constant(images), SEED, shifts=100).numpy() == moved).all()
    assert (shifted(tf.constant(images), tf.constant([5, 1]), shifts=100).numpy() != moved).any()
    assert shifted(tf.constant(images[:3]), SEED).shape == (3, 6, 6, 1)  # fewer images than shifts


def distorted_by(
    images: tf.Tensor, rotation: float = 0, scale: float = 0, shear: float = 0, shift: float = 0, bend: float = 0
) -> np.ndarray:
    return np.asarray(distorted(images, SEED, rotation, scale, shear, shift, bend))


def test_a_distortion_with_all_amounts_zero_changes_no_pixel() -> None:
    images = tf.random.stateless_uniform((5, 9, 7, 3), [0, 0], 0, 256, tf.int32)
    assert np.allclose(distorted_by(images), images, atol=1e-3)


def test_a_distortion_moves_turns_and_scales_images_within_its_limits() -> None:
    """Measure the centre of gravity of a square that is not at the centre of the image."""
    images = np.zeros((300, 21, 21, 1), np.uint8)
    images[:, 9:12, 14:17] = 255  # 5 pixels to the right of the centre
    above = np.roll(images, -5, axis=1)

    def centres(images: np.ndarray = images, **amounts: float) -> np.ndarray:
        made = distorted_by(tf.constant(images), **amounts)[..., 0]
        rows, columns = np.arange(21)[:, None] - 10, np.arange(21) - 10
        return np.stack([(made * axis).sum(axis=(1, 2)) / made.sum(axis=(1, 2)) for axis in (rows, columns)])

    rows, columns = centres(shift=2.0)
    assert np.abs(rows).max() == pytest.approx(2, abs=0.1)
    assert np.abs(columns - 5).max() == pytest.approx(2, abs=0.1)
    rows, columns = centres(rotation=0.2)
    assert np.abs(rows).max() == pytest.approx(5 * np.sin(0.2), abs=0.1)
    assert np.hypot(rows, columns) == pytest.approx(5, abs=0.1)
    rows, columns = centres(scale=0.1)
    assert np.abs(rows).max() < 0.1
    assert columns.max() == pytest.approx(5 * np.exp(0.1), abs=0.15)
    assert columns.min() == pytest.approx(5 * np.exp(-0.1), abs=0.15)
    assert np.abs(centres(shear=0.3)[1] - 5).max() < 0.1  # the middle row stays
    rows, columns = centres(above, shear=0.3)
    assert np.abs(rows + 5).max() < 0.1
    assert np.abs(columns - 5).max() == pytest.approx(0.3 * 5, abs=0.1)
    assert np.std(centres(bend=1.0)[0]) > 0.2


def test_a_distortion_is_reproducible_and_stays_within_the_range_of_pixels() -> None:
    images = tf.random.stateless_uniform((50, 28, 28, 1), [0, 1], 0, 256, tf.int32)
    amounts = {"rotation": 0.5, "scale": 0.3, "shear": 0.3, "shift": 9.0, "bend": 3.0}
    made = distorted_by(images, **amounts)
    assert (made == distorted_by(images, **amounts)).all()
    assert 0 <= made.min() <= made.max() <= 255
    assert np.isfinite(made).all()


@pytest.mark.parametrize("shape", [(16, 5, 7, 3), (16, 12)])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fused_batch_normalisation_computes_what_keras_does(shape: tuple[int, ...], policy: str) -> None:
    inputs = tf.random.stateless_normal(shape, [0, 2]) * 3 + 1
    found = []
    for kind in (keras.layers.BatchNormalization, FusedBatchNormalization):
        keras.config.set_dtype_policy(policy)
        layer = kind(momentum=0.9)
        keras.config.set_dtype_policy("float32")
        inputs = tf.cast(inputs, layer.compute_dtype)
        layer.build(shape)
        trainable = [tf.linspace(0.5, 2.0, shape[-1]), tf.linspace(-1.0, 1.0, shape[-1])]
        state = [variable.value for variable in layer.non_trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch([inputs, *trainable])
            outputs, state = layer.stateless_call(trainable, state, inputs, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 3)
        predicted, _ = layer.stateless_call(trainable, state, inputs, training=False)
        found.append([outputs, *tape.gradient(loss, [inputs, *trainable]), *state, predicted])
    for expected, got in zip(*found, strict=True):
        assert got.dtype == expected.dtype
        error = np.abs(tf.cast(got - expected, tf.float32)).max()
        assert error <= (1e-5 if policy == "float32" else 0.02) * np.abs(tf.cast(expected, tf.float32)).max()


def images_and_network(height: int, width: int) -> tuple[tf.Tensor, keras.Sequential]:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((height, width, 2)), keras.layers.Flatten(), keras.layers.Dense(3)]
    return tf.random.stateless_uniform((4, height, width, 2), [0, 3]), keras.Sequential(layers)


def turned(images: tf.Tensor, angle: float) -> tf.Tensor:
    """Turn images by TensorFlow's own operation, which not all formats of an export have."""
    height, width = images.shape[1:3]
    cos, sin, x, y = np.cos(angle), np.sin(angle), (width - 1) / 2, (height - 1) / 2
    matrix = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, 0.0, 0.0]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=[matrix],
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )


@pytest.mark.parametrize("size", [(9, 6), (8, 8)])
def test_predictions_are_averaged_over_angles(size: tuple[int, int]) -> None:
    images, network = images_and_network(*size)
    layer = AveragedOverAngles(network, (0.0, 0.3))
    expected = [tf.nn.log_softmax(network(view)) for view in (images, turned(images, 0.3))]
    assert np.allclose(layer(images), sum(expected) / 2, atol=1e-5)
    assert np.allclose(to_predict(layer)(images), layer(images), atol=1e-6)


def test_images_are_not_turned_in_training() -> None:
    images, network = images_and_network(5, 5)
    assert np.array_equal(AveragedOverAngles(network, (0.3,))(images, training=True), network(images))


def test_strokes_become_thicker_or_thinner() -> None:
    images = np.zeros((200, 9, 9, 1), np.uint8)
    images[:, :, 3:6] = 200
    made = stroked(tf.constant(images), SEED, thicker=0.5, thinner=0.25).numpy()
    beside, edge, middle = made[:, 4, 2, 0], made[:, 4, 3, 0], made[:, 4, 4, 0]
    assert beside.max() == pytest.approx(0.5 * 200, rel=0.05)
    assert edge.min() == pytest.approx(0.75 * 200, rel=0.05)
    assert ((beside == 0) | (edge == 200)).all()  # either thicker or thinner
    assert (middle == 200).all()
