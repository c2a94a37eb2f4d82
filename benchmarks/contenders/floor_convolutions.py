"""The convolutions and products of `keras-cnn`, forwards and backwards, by TensorFlow's kernels, which use oneDNN.

No loop of the same precision can be faster. Each layer has inputs of its own; its outputs also serve as its gradients.
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


inputs = [
    random(BATCH_SIZE, 28, 28, 1),
    random(BATCH_SIZE, 12, 12, 24),
    random(BATCH_SIZE, 800),
    random(BATCH_SIZE, 256),
]
kernels = [random(5, 5, 1, 24), random(3, 3, 24, 32), random(800, 256), random(256, CLASSES)]


@tf.function(autograph=False)
def products(kernels: list[tf.Tensor]) -> list[tf.Tensor]:
    def step(index: tf.Tensor, kernels: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        after = []
        for number, (images, kernel) in enumerate(zip(inputs, kernels, strict=True)):
            if len(kernel.shape) == 4:
                outputs = tf.nn.conv2d(images, kernel, 1, "VALID")
                gradient = tf.raw_ops.Conv2DBackpropFilter(
                    input=images, filter_sizes=kernel.shape, out_backprop=outputs, strides=[1] * 4, padding="VALID"
                )
                before = number and tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=images.shape, filter=kernel, out_backprop=outputs, strides=[1] * 4, padding="VALID"
                )
            else:
                outputs = images @ kernel
                gradient = tf.matmul(images, outputs, transpose_a=True)
                before = tf.matmul(outputs, kernel, transpose_b=True)
            # Each step depends on the one before it, so no operation can be left out.
            after.append(kernel + 1e-9 * gradient + (1e-9 * tf.reduce_max(before) if number else 0))
        return index + 1, after

    return tf.while_loop(lambda index, _: index < steps, step, (0, kernels))[1]


measure(lambda _: products(kernels)[0].numpy() is None, lambda: 0)
