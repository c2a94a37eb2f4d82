"""Both ways to run the steps of a chunk give the same result."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from mnist_lib.catalog import OPTIMIZERS
from mnist_lib.data.batches import Plan, epochs
from mnist_lib.data.split import Dataset
from mnist_lib.models.building import build_model
from mnist_lib.models.scratch import Optimizer
from mnist_lib.spec import TrialSpec
from mnist_lib.training.steps import StepByStep, Values, WholeChunk, gradients_of, learning_rates

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
    step_by_step = StepByStep(gradients, ours, strategy, compile_gradients=compile_gradients)
    (once, totals), (stepped, stepped_totals) = (
        steps.run(start, chunk, rates) for steps in (WholeChunk(gradients, ours, strategy), step_by_step)
    )
    assert once.step == stepped.step == 10
    assert totals[1:] == stepped_totals[1:]
    assert stepped_totals.loss.numpy() == pytest.approx(totals.loss.numpy(), rel=1e-5)
    for one, other in zip(tf.nest.flatten(once), tf.nest.flatten(stepped), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
