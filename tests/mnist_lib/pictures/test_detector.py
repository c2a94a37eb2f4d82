"""The network that NumPy computes is the one that Keras would compute with the same weights."""

import numpy as np
import pytest

from mnist_lib.pictures import rejecting
from tests.support.digits import DIGITS


@pytest.mark.slow
def test_the_score_is_that_of_the_same_network_in_keras(tensorflow: None) -> None:
    import keras

    with np.load(rejecting.FILE) as arrays:
        weights = {name: arrays[name].astype(np.float32) for name in arrays.files}
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(weights["conv1_bias"].size, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(weights["conv2_bias"].size, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(weights["dense_bias"].size, activation="relu", name="dense"),
            layers.Dense(11, name="output"),
        ]
    )
    for name in ("conv1", "conv2", "dense", "output"):
        model.get_layer(name).set_weights([weights[f"{name}_kernel"], weights[f"{name}_bias"]])
    images = DIGITS[::50]
    outputs = np.asarray(model(images[..., None].astype(np.float32) / 255))
    expected = np.logaddexp.reduce(outputs[:, :10], axis=1) - outputs[:, 10]
    np.testing.assert_allclose([rejecting.score(image, weights) for image in images], expected, rtol=1e-3, atol=1e-3)


def test_the_likeness_is_a_share_of_held_out_digits() -> None:
    with np.load(rejecting.FILE) as arrays:
        held_out = arrays["held_out"]
    assert len(held_out) == 5_000
    assert (np.diff(held_out) >= 0).all()
    likeness = np.array([rejecting.likeness(image) for image in DIGITS[::4]])
    assert ((likeness >= 0) & (likeness <= 1)).all()
    assert np.quantile(likeness, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.1)


def test_the_file_is_small_and_holds_numbers_only() -> None:
    assert rejecting.FILE.stat().st_size < 200_000
    with np.load(rejecting.FILE, allow_pickle=False) as arrays:
        assert {arrays[name].dtype for name in arrays.files} == {np.dtype(np.float16)}
