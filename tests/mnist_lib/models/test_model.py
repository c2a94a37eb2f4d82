"""Every model of the catalog satisfies the interface `Model`, and its stored files give the same predictions."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_lib.catalog import MODELS
from mnist_lib.data.dataset import Dataset
from mnist_lib.models.building import build_model
from mnist_lib.models.model import Weights
from mnist_lib.spec import TrialSpec
from tests.support.stored import LARGEST, small_spec

pytestmark = pytest.mark.usefixtures("tensorflow")


SMALL = ("keras", "scratch")  # the others are built in seconds


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.long] if name == LARGEST else [pytest.mark.slow] if name not in SMALL else []


each_model = pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in MODELS])


@each_model
def test_initial_weights_are_a_function_of_the_seed(name: str) -> None:
    model = build_model(small_spec(name), (28, 28, 1), 10)
    first, again, other = (model.initial_weights(seed).sha256() for seed in (1, 1, 2))
    assert first == again != other


SHAPES = [((8, 8, 1), 10), ((5, 7, 4), 3), ((64, 48, 3), 1_000)]


@pytest.mark.parametrize(
    ("name", "image_shape", "classes"),
    [
        *(pytest.param(name, *SHAPES[number % 3], marks=marks_of(name)) for number, name in enumerate(MODELS)),
        pytest.param("keras-best", (5, 7, 4), 3, marks=pytest.mark.slow),
    ],
)
def test_a_model_takes_the_image_shape_and_the_classes_of_its_dataset(
    name: str, image_shape: tuple[int, int, int], classes: int
) -> None:
    model = build_model(small_spec(name), image_shape, classes)
    images = tf.zeros((3, *image_shape), tf.uint8)
    weights = model.initial_weights(0)
    logits, state, loss = model.train_logits(weights, images, tf.constant(0))
    assert logits.shape == model.logits(weights, images).shape == (3, classes)
    assert [value.shape for value in state] == [value.shape for value in weights.state]
    assert loss == 0


@pytest.mark.parametrize("name", ["keras", "scratch"])
def test_a_model_scales_pixels_to_0_to_1(name: str) -> None:
    """The logits of a white image are those that NumPy computes from inputs of 1."""
    model = build_model(TrialSpec.of(name, hidden_units=3), (2, 2, 1), 10)
    weights = model.initial_weights(0)
    logits = model.logits(weights, tf.fill((1, 2, 2, 1), tf.constant(255, tf.uint8)))
    kernel, bias, kernel2, bias2 = (value.numpy() for value in weights.trainable)
    np.testing.assert_allclose(logits, np.maximum(np.ones((1, 4)) @ kernel + bias, 0) @ kernel2 + bias2, rtol=1e-5)


def stored_probabilities(name: str, folder: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the probabilities by each way in which a stored model can be used without this project."""
    if name.startswith("keras"):
        return {"keras": keras.saving.load_model(folder / "model.keras").predict(images, verbose=0)}
    arrays = np.load(folder / "weights.npz")
    hidden = np.maximum(images.reshape(len(images), -1) / np.float32(255) @ arrays["kernel_0"] + arrays["bias_0"], 0)
    logits = hidden @ arrays["kernel_1"] + arrays["bias_1"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    served = tf.saved_model.load(str(folder / "saved_model"))
    (signature,) = served.signatures["serving_default"](pixels=tf.constant(images)).values()
    return {
        "numpy": exponentials / exponentials.sum(axis=1, keepdims=True),
        "saved_model": served.serve(images).numpy(),
        "signature": signature.numpy(),
    }


@pytest.mark.slow
@each_model
def test_a_stored_model_predicts_the_same_as_the_trained_one(name: str, digits: Dataset, tmp_path: Path) -> None:
    model, images = build_model(small_spec(name), digits.image_shape, 10), digits.test.images[::10]
    weights = model.initial_weights(3)
    for path, content in model.files(weights).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    expected = tf.nn.softmax(model.logits(weights, tf.constant(images))).numpy()
    for way, probabilities in stored_probabilities(name, tmp_path, images).items():
        np.testing.assert_allclose(probabilities, expected, atol=2e-6, err_msg=way)


def test_the_hash_of_weights_depends_on_every_value_type_and_shape() -> None:
    def hashed(*values: np.ndarray) -> str:
        return Weights([tf.constant(value) for value in values], []).sha256()

    ones = np.ones((2, 3), np.float32)
    changed = ones.copy()
    changed[1, 2] = np.nextafter(np.float32(1), np.float32(2))
    assert len({hashed(ones), hashed(changed), hashed(ones.reshape(3, 2)), hashed(ones.astype(np.float64))}) == 4
