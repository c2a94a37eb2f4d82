"""All ways to run the steps of a chunk give the same result."""

import re
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from mnist_lib.catalog import OPTIMIZERS
from mnist_lib.data.batches import Plan, epochs
from mnist_lib.data.dataset import Dataset
from mnist_lib.models.building import build_model
from mnist_lib.models.keras_models import KerasModel
from mnist_lib.models.scratch import Optimizer
from mnist_lib.spec import TrialSpec
from mnist_lib.training.layouts import as_one_vector, with_narrow_transposed
from mnist_lib.training.steps import (
    Steps,
    Values,
    XlaScope,
    _no_totals,
    gradients_of,
)
from mnist_lib.training.trainer import learning_rates

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


@pytest.mark.parametrize(
    ("optimizer", "compile_gradients"),
    [*((name, False) for name in OPTIMIZERS), pytest.param("rmsprop", True, marks=pytest.mark.long)],
)
def test_step_by_step_gives_the_result_of_the_whole_chunk(
    digits: Dataset, optimizer: str, compile_gradients: bool
) -> None:
    spec, train = TrialSpec.of("keras", hidden_units=8), digits.train.take(np.arange(320))
    model = build_model(spec, digits.image_shape, 10)
    (chunk,) = epochs(train, Plan(len(train), 32, 1), seed=0, first=1, last=1)
    strategy = tf.distribute.MirroredStrategy(["/CPU:0"])
    rates = tf.constant(learning_rates(replace(spec, schedule="one-cycle", learning_rate=0.01, epochs=1), 10))
    weights, ours = model.initial_weights(seed=0), Optimizer(TrialSpec.of("keras", optimizer=optimizer))
    start = Values(weights.trainable, ours.initial_slots(weights.trainable), weights.state, step=tf.constant(0))
    gradients = partial(gradients_of, model, 0.1, [False] * len(weights.trainable))
    whole_chunk = Steps(gradients, ours, strategy, with_narrow_transposed, xla=["chunk"])
    scopes: list[XlaScope] = ["update", "gradients"] if compile_gradients else ["update"]
    step_by_step = Steps(gradients, ours, strategy, as_one_vector, xla=scopes)
    (once, totals, margins), (stepped, stepped_totals, stepped_margins) = (
        steps.run(start, chunk, rates) for steps in (whole_chunk, step_by_step)
    )
    assert once.step == stepped.step == 10
    assert totals[1:] == stepped_totals[1:]
    assert stepped_totals.loss.numpy() == pytest.approx(totals.loss.numpy(), rel=1e-5)
    for one, other in zip(tf.nest.flatten((once, margins)), tf.nest.flatten((stepped, stepped_margins)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def layers() -> list[keras.Layer]:
    return [keras.layers.Flatten(), keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(10)]


@pytest.mark.long
def test_a_chunk_whose_number_of_steps_xla_knows_gives_the_same_weights(digits: Dataset) -> None:
    """The loop of a GPU is compiled for the CPU here: steps beyond the last one change no weight, seed or sum."""
    model, ours = KerasModel(layers(), layers, digits.image_shape, "float32"), Optimizer(TrialSpec.of("keras"))
    train = digits.train.take(np.arange(320))
    (chunk,) = epochs(train, Plan(len(train), 32, 1), seed=0, first=1, last=1)
    chunk, rates = chunk._replace(steps=tf.constant(7)), tf.fill([10], 0.01)
    weights = model.initial_weights(seed=0)
    start = Values(weights.trainable, ours.initial_slots(weights.trainable), weights.state, step=tf.constant(0))
    gradients, strategy = partial(gradients_of, model, 0.0, [False] * 4), tf.distribute.MirroredStrategy(["/CPU:0"])
    results, programs = [], []
    for fixed in (False, True):
        steps = Steps(gradients, ours, strategy, with_narrow_transposed, xla=["chunk"], fixed_count=fixed)
        *after, margins = steps.run(start, chunk, rates)
        results.append(tf.nest.flatten([*after, margins[:7]]))
        ir = steps._compiled.experimental_get_compiler_ir(start, chunk, rates)
        programs.append(ir(stage="optimized_hlo"))
    assert all(map(np.array_equal, *results))
    assert [len(re.findall(r'"known_trip_count":{"n":"10"', program)) for program in programs] == [0, 1]


def test_the_sums_of_a_chunk_are_of_types_that_a_gpu_adds() -> None:
    """TensorFlow registers some types for GPUs with kernels that run on the host."""
    on_gpu = [kernel for kernel in kernels.get_registered_kernels_for_op("AddV2").kernel if kernel.device_type == "GPU"]
    added = {kernel.constraint[0].allowed_values.list.type[0] for kernel in on_gpu if not kernel.host_memory_arg}
    assert tf.int32.as_datatype_enum not in added
    assert {total.dtype.as_datatype_enum for total in _no_totals()} <= added
