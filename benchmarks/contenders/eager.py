"""The second cell of the notebook, rewritten: a network from scratch, trained eagerly, step by step in Python."""

import sys

import numpy as np
import tensorflow as tf
from stopwatch import BATCH_SIZE, CLASSES, HIDDEN_UNITS, digits, measure

tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[3]))
data = digits()
images, test_images = (
    part.reshape(len(part), -1).astype("float32") / 255 for part in (data.train_images, data.test_images)
)
generator = tf.random.Generator.from_seed(0)
weights = [
    tf.Variable(initial)
    for units_in, units_out in ((images.shape[1], HIDDEN_UNITS), (HIDDEN_UNITS, CLASSES))
    for initial in (generator.uniform((units_in, units_out), 0, 0.1), tf.zeros(units_out))
]


def logits(inputs: tf.Tensor) -> tf.Tensor:
    hidden = tf.nn.relu(inputs @ weights[0] + weights[1])
    return hidden @ weights[2] + weights[3]


def train_epoch(epoch: int) -> None:
    order = np.random.default_rng(epoch).permutation(len(images))
    for begin in range(0, len(order), BATCH_SIZE):
        batch = order[begin : begin + BATCH_SIZE]
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                data.train_labels[batch].astype("int32"), logits(images[batch])
            )
            loss = tf.reduce_mean(losses)
        for variable, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            variable.assign_sub(0.01 * gradient)


measure(train_epoch, lambda: int((logits(test_images).numpy().argmax(axis=1) == data.test_labels).sum()))
