"""The convolutions and products of `keras-cnn`, forwards and backwards, by TensorFlow's kernels, which use oneDNN.

A lower bound for every loop of the same precision. In place of pooling, every other row and column is used.
"""

import sys

import tensorflow as tf
from stopwatch import BATCH_SIZE, CLASSES, digits, measure

tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[3]))
kind = tf.as_dtype(sys.argv[4])
data = digits()
steps = -(-len(data.train_labels) // BATCH_SIZE)


def random(*shape: int) -> tf.Tensor:
    return tf.cast(tf.random.stateless_uniform(shape, [0, 0]) / 10, kind)


images = random(BATCH_SIZE, 28, 28, 1)
kernels = [random(5, 5, 1, 24), random(3, 3, 24, 32), random(800, 256), random(256, CLASSES)]


@tf.function(autograph=False)
def products(kernels: list[tf.Tensor]) -> list[tf.Tensor]:
    def step(index: tf.Tensor, kernels: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(kernels)
            first = tf.nn.conv2d(images, kernels[0], 1, "VALID")
            second = tf.nn.conv2d(first[:, ::2, ::2], kernels[1], 1, "VALID")
            logits = tf.reshape(second[:, ::2, ::2], (BATCH_SIZE, 800)) @ kernels[2] @ kernels[3]
        # Each step depends on the one before it, so none can be left out.
        gradients = tape.gradient(logits, kernels)
        return index + 1, [kernel + 1e-9 * gradient for kernel, gradient in zip(kernels, gradients, strict=True)]

    return tf.while_loop(lambda index, _: index < steps, step, (0, kernels))[1]


measure(lambda _: products(kernels)[0].numpy() is None, lambda: 0)
