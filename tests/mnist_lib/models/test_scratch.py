"""Each part written from scratch computes the same as its counterpart in Keras with equal weights."""

import io
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_lib.models.building import build_model
from mnist_lib.models.scratch import Dense, Optimizer, Sequential, softmax_cross_entropy
from mnist_lib.spec import TrialSpec
from mnist_lib.training.steps import smoothed_losses

pytestmark = pytest.mark.usefixtures("tensorflow")

INPUTS = np.random.default_rng(0).normal(size=(32, 20)).astype(np.float32)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_dense_computes_what_dense_of_keras_computes(activation: str | None) -> None:
    ours = Dense(20, 7, tf.nn.relu if activation else None)
    theirs = keras.layers.Dense(7, activation=activation)
    theirs.build((None, 20))
    weights = ours.initial_weights([1, 2])
    theirs.set_weights([w.numpy() for w in weights])
    np.testing.assert_allclose(ours(weights, INPUTS), theirs(INPUTS), rtol=1e-6)


def test_sequential_computes_what_sequential_of_keras_computes() -> None:
    ours = Sequential([Dense(20, 9, tf.nn.relu), Dense(9, 4)])
    theirs = keras.Sequential(
        [
            keras.Input((5, 4, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(9, activation="relu"),
            keras.layers.Dense(4),
        ]
    )
    weights = ours.initial_weights(5)
    theirs.set_weights([w.numpy() for w in weights.values()])
    images = np.random.default_rng(0).integers(0, 256, (32, 5, 4, 1)).astype(np.uint8)
    np.testing.assert_allclose(ours(weights, tf.constant(images)), theirs(images), rtol=1e-5)


def test_an_initial_kernel_is_uniform_from_0_to_a_tenth_and_an_initial_bias_is_0() -> None:
    kernel, bias = Dense(1_000, 100).initial_weights([0, 0])
    assert 0 <= kernel.numpy().min() < 1e-5
    assert 0.1 - 1e-5 < kernel.numpy().max() <= 0.1
    assert kernel.numpy().mean() == pytest.approx(0.05, abs=1e-3)
    assert not bias.numpy().any()


def test_initial_weights_are_a_function_of_the_seed_and_differ_between_layers() -> None:
    network = Sequential([Dense(5, 5), Dense(5, 5)])
    first, again, other = (network.initial_weights(seed) for seed in (1, 1, 2))
    assert (first["kernel_0"].numpy() == again["kernel_0"].numpy()).all()
    assert (first["kernel_0"].numpy() != other["kernel_0"].numpy()).any()
    assert (first["kernel_0"].numpy() != first["kernel_1"].numpy()).any()


@settings(max_examples=settings().max_examples // 2)
@given(scale=st.floats(1e-3, 1e4), seed=st.integers(0, 1_000), smoothing=st.sampled_from([0.0, 0.1, 0.9]))
def test_the_loss_and_its_gradient_are_those_of_keras(scale: float, seed: int, smoothing: float) -> None:
    generator = np.random.default_rng(seed)
    logits = tf.constant(generator.normal(scale=scale, size=(16, 10)).astype(np.float32))
    labels = tf.constant(generator.integers(0, 10, 16).astype(np.uint8))
    weights = tf.constant([0.0, 1 / 16, 1.0, 2.0] * 4)
    values, gradients = [], []
    for loss in (
        smoothed_losses,
        lambda z, y, label_smoothing: keras.losses.categorical_crossentropy(
            tf.one_hot(y, 10), z, from_logits=True, label_smoothing=label_smoothing
        ),
    ):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits, labels, smoothing)
        values.append(value.numpy())
        gradients.append(tape.gradient(value, logits, output_gradients=weights).numpy())
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5, atol=1e-6 * max(1, scale))
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-5)


def test_the_loss_of_a_confident_mistake_is_finite() -> None:
    assert softmax_cross_entropy(tf.constant([[1e4, 0.0]]), tf.constant([1])).numpy() == pytest.approx([1e4])


def test_a_class_that_is_ruled_out_has_no_gradient() -> None:
    logits = tf.constant([[-np.inf, 2.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = softmax_cross_entropy(logits, tf.constant([1]))
    np.testing.assert_allclose(loss, [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, logits), [[0, -0.5, 0.5]])


@pytest.mark.parametrize(
    ("name", "keras_class"),
    [
        ("sgd", keras.optimizers.SGD),
        ("rmsprop", keras.optimizers.RMSprop),
        ("adam", keras.optimizers.Adam),
    ],
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"global_clipnorm": 0.5},
        {"momentum": 0.5, "weight_decay": 0.01, "global_clipnorm": 2.0},
    ],
    ids=str,
)
def test_an_optimizer_takes_the_same_steps_as_its_keras_counterpart(
    name: str, keras_class: type[keras.optimizers.Optimizer], settings: dict[str, Any]
) -> None:
    if name == "adam":
        settings = {field: value for field, value in settings.items() if field != "momentum"}
    ours, theirs = Optimizer(TrialSpec.of("keras", optimizer=name, **settings)), keras_class(0.05, **settings)
    generator = np.random.default_rng(0)
    start = [generator.normal(size=shape).astype(np.float32) for shape in ((3, 4), (4,))]
    weights = [tf.constant(value) for value in start]
    slots = ours.initial_slots(weights)
    variables = [keras.Variable(value) for value in start]
    for step in range(8):
        gradients = [tf.constant(generator.normal(size=w.shape).astype(np.float32)) for w in start]
        weights, slots = ours.update(weights, slots, gradients, tf.constant(0.05), tf.constant(step))
        theirs.apply(gradients, variables)
    for mine, variable in zip(weights, variables, strict=True):
        np.testing.assert_allclose(mine, variable.numpy(), rtol=1e-5, atol=1e-6)


def test_the_weights_file_contains_no_pickled_objects() -> None:
    model = build_model(TrialSpec.of("scratch", hidden_units=16), (8, 8, 1), 10)
    content = model.files(model.initial_weights(0))["weights.npz"]
    arrays = np.load(io.BytesIO(content), allow_pickle=False)
    assert sorted(arrays) == ["bias_0", "bias_1", "kernel_0", "kernel_1"]
