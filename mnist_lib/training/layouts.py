"""How a chunk of training holds the weights, their gradients and the slots of the optimizer."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from mnist_lib.models.model import Tensors

# `with_narrow_transposed` transposes kernels with at most this many columns: XLA on CPUs takes 9 times as long for the
# gradient inputs^T @ g with 10 columns as for g^T @ inputs, 6 times with 16, and equally long with 32.
NARROW = 16


class Layout(NamedTuple):
    """A way to hold tensors that are shaped like the weights."""

    pack: Callable[[Tensors], Tensors]  # takes tensors as the model has them
    unpack: Callable[[Tensors], Tensors]


def with_narrow_transposed(weights: Tensors) -> Layout:
    """Return the layout in which XLA is fast on CPUs: kernels with few columns are transposed."""
    is_narrow = [len(weight.shape) == 2 and weight.shape[1] <= NARROW for weight in weights]

    def transposed(tensors: Tensors) -> Tensors:
        return [tf.transpose(t) if narrow else t for t, narrow in zip(tensors, is_narrow, strict=True)]

    return Layout(transposed, transposed)


def as_one_vector(weights: Tensors) -> Layout:
    """Return the layout in which one all-reduce and one update are enough for all weights."""
    shapes = [weight.shape for weight in weights]
    return Layout(lambda tensors: [_concat(tensors)], lambda vector: _split(vector[0], shapes))


def _concat(tensors: Tensors) -> tf.Tensor:
    if not tensors:  # a user's model may have no weights, or only frozen ones
        return tf.zeros([0])
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def _split(flat: tf.Tensor, shapes: Sequence[tf.TensorShape]) -> Tensors:
    # tf.slice does not copy aligned memory; tf.split does.
    sizes = [shape.num_elements() for shape in shapes]
    begins = itertools.accumulate(sizes, initial=0)
    return [
        tf.reshape(tf.slice(flat, [begin], [size]), shape)
        for begin, size, shape in zip(begins, sizes, shapes, strict=False)
    ]
