"""The five matrix products of a training step alone, by XLA or by TensorFlow's kernels, which use oneDNN.

No loop of the same precision can be faster than the faster of the two.
"""

import sys

import tensorflow as tf
from stopwatch import BATCH_SIZE, CLASSES, HIDDEN_UNITS, digits, measure

tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[3]))
library, kind = sys.argv[4], tf.as_dtype(sys.argv[5])
data = digits()
steps = -(-len(data.train_labels) // BATCH_SIZE)
inputs = tf.cast(tf.random.stateless_uniform((BATCH_SIZE, 28 * 28), [0, 0]), kind)
first, second = (
    tf.cast(tf.random.stateless_uniform(shape, [0, 1]) / shape[0], kind)
    for shape in ((28 * 28, HIDDEN_UNITS), (HIDDEN_UNITS, CLASSES))
)


@tf.function(jit_compile=library == "xla")
def products(inputs: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    def step(index: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        hidden = inputs @ first
        logits = hidden @ second
        hidden_gradient = tf.matmul(logits, second, transpose_b=True)
        second_gradient = tf.matmul(hidden, logits, transpose_a=True)
        first_gradient = tf.matmul(inputs, hidden_gradient, transpose_a=True)
        # Add a tiny part of each gradient, so that each step depends on the previous one and XLA removes no product.
        return index + 1, first + 1e-9 * first_gradient, second + 1e-9 * second_gradient

    _, first, second = tf.while_loop(lambda index, *_: index < steps, step, (0, first, second))
    return first, second


measure(lambda _: products(inputs, first, second)[0].numpy() is None, lambda: 0)
