"""The compiled training steps: a chunk of them -> the values after it, and sums over its images.

Two ways, and `steps_of` chooses: on one replica all steps of a chunk are one XLA function (`WholeChunk`); else each
step is the gradients of every replica, one all-reduce of one flat vector, and one compiled update (`StepByStep`).

Where no Python loop or branch depends on a tensor, AutoGraph is off: looking for one takes 0.6 s of a lane's start.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import tensorflow as tf

from mnist_lib.data.batches import Chunk, Shard
from mnist_lib.models.model import Model, Weights
from mnist_lib.models.scratch import Optimizer, Tensors, softmax_cross_entropy

# A kernel of so few columns is held transposed in `WholeChunk`: XLA on CPUs takes 9 times as long for its gradient,
# inputs^T @ g with 10 columns, as for g^T @ inputs, and 6 times with 16; with 32 the difference is gone.
NARROW = 16


class Values(NamedTuple):
    """Everything that training changes. A step gives new ones."""

    trainable: Tensors
    slots: list[Tensors]  # the optimizer's memory; each like `trainable`
    state: Tensors
    step: tf.Tensor  # [] int32: how many were taken


class Totals(NamedTuple):
    """Sums over the images of some steps; they add up over steps, chunks and replicas."""

    loss: tf.Tensor  # [] float32
    correct: tf.Tensor  # [] int32
    seen: tf.Tensor  # [] int32
    finite_steps: tf.Tensor  # [] int32: steps whose loss is finite; once it is not, no later one is


class Steps(Protocol):
    def run(self, values: Values, chunk: Chunk, learning_rates: tf.Tensor) -> tuple[Values, Totals]:
        """learning_rates: [steps of a chunk] float32 -> (values after the chunk, sums over its steps)."""
        ...


def steps_of(model: Model, optimizer: Optimizer, strategy: tf.distribute.Strategy) -> Steps:
    on_gpu = "GPU" in strategy.extended.worker_devices[0]
    if strategy.num_replicas_in_sync == 1 and (on_gpu or model.fast_in_xla_on_cpu):
        return WholeChunk(model, optimizer, strategy)
    # Logical CPU devices share their threads: XLA functions that run at once there wait for each other more than they
    # compute. TensorFlow's own kernels do not.
    return StepByStep(model, optimizer, strategy, compile_gradients=on_gpu)


class WholeChunk:
    def __init__(self, model: Model, optimizer: Optimizer, strategy: tf.distribute.Strategy) -> None:
        self._model, self._optimizer, self._strategy = model, optimizer, strategy
        self._compiled = tf.function(self._run_steps, jit_compile=True, autograph=False)

    @tf.function(autograph=False)
    def run(self, values: Values, chunk: Chunk, learning_rates: tf.Tensor) -> tuple[Values, Totals]:
        after: tuple[Values, Totals] = self._strategy.run(
            self._compiled, args=(values, chunk.steps, *chunk.shards, learning_rates)
        )
        return after

    def _run_steps(
        self, values: Values, steps: tf.Tensor, shard: Shard, learning_rates: tf.Tensor
    ) -> tuple[Values, Totals]:
        narrow = [len(tensor.shape) == 2 and tensor.shape[1] <= NARROW for tensor in values.trainable]

        def turned(tensors: Tensors) -> Tensors:
            return [tf.transpose(t) if turn else t for t, turn in zip(tensors, narrow, strict=True)]

        def body(index: tf.Tensor, values: Values, totals: Totals) -> tuple[tf.Tensor, Values, Totals]:
            weights = Weights(turned(values.trainable), values.state)
            gradients, state, part = _gradients(self._model, weights, Shard(*(part[index] for part in shard)))
            trainable, slots = self._optimizer.update(
                values.trainable, values.slots, turned(gradients), learning_rates[index], values.step
            )
            return index + 1, Values(trainable, slots, state, values.step + 1), _add(totals, part)

        start = (tf.constant(0), _map(values, turned), _no_totals())
        _, values, totals = tf.while_loop(lambda index, *_: index < steps, body, start)
        return _map(values, turned), totals


class StepByStep:
    """`compile_gradients`: by XLA; the update always is."""

    def __init__(
        self, model: Model, optimizer: Optimizer, strategy: tf.distribute.Strategy, *, compile_gradients: bool
    ) -> None:
        self._model, self._optimizer, self._strategy = model, optimizer, strategy
        self._compile_gradients = compile_gradients

    @tf.function
    def run(self, values: Values, chunk: Chunk, learning_rates: tf.Tensor) -> tuple[Values, Totals]:
        shapes = [tensor.shape for tensor in values.trainable]

        @tf.function(jit_compile=self._compile_gradients or None, autograph=False)
        def gradients_of_replica(
            flat: tf.Tensor, state: Tensors, shard: Shard, index: tf.Tensor
        ) -> tuple[tf.Tensor, Tensors, Totals]:
            weights = Weights(_split(flat, shapes), state)
            gradients, state, totals = _gradients(self._model, weights, Shard(*(part[index] for part in shard)))
            return _concat(gradients), state, totals

        shards = self._strategy.experimental_distribute_values_from_function(
            lambda context: chunk.shards[context.replica_id_in_sync_group]
        )
        values, totals = _map(values, lambda tensors: [_concat(tensors)]), _no_totals()
        for index in tf.range(chunk.steps):
            gradients, state, part = self._strategy.run(
                gradients_of_replica, args=(*values.trainable, values.state, shards, index)
            )
            with tf.device(self._strategy.extended.worker_devices[0]):
                trainable, slots = self._update(values, self._sum(gradients), learning_rates[index])
            values = Values(trainable, slots, [self._one(tensor) for tensor in state], values.step + 1)
            part = Totals(*map(self._sum, part))
            # The loss of a step is finite when every replica's is.
            part = part._replace(finite_steps=part.finite_steps // self._strategy.num_replicas_in_sync)
            totals = _add(totals, part)
        return _map(values, lambda flat: _split(flat[0], shapes)), totals

    @tf.function(jit_compile=True, autograph=False)
    def _update(self, values: Values, gradients: tf.Tensor, learning_rate: tf.Tensor) -> tuple[Tensors, list[Tensors]]:
        return self._optimizer.update(values.trainable, values.slots, [gradients], learning_rate, values.step)

    def _sum(self, parts: tf.Tensor) -> tf.Tensor:
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

    def _one(self, parts: tf.Tensor) -> tf.Tensor:
        """Of the state of each replica: the mean, as of moving averages; what cannot have one is equal."""
        first: tf.Tensor = self._strategy.experimental_local_results(parts)[0]
        if not first.dtype.is_floating:
            return first
        return self._strategy.reduce(tf.distribute.ReduceOp.MEAN, parts, axis=None)


def _gradients(model: Model, weights: Weights, batch: Shard) -> tuple[Tensors, Tensors, Totals]:
    """Of one replica's share of the loss of the global batch, so that they add up over replicas; and the state after.

    batch: one step of a shard.
    """
    with tf.GradientTape() as tape:
        tape.watch(weights.trainable)
        logits, state = model.logits(weights, batch.images, training=True)
        losses = softmax_cross_entropy(logits, batch.labels)  # [replica batch]
        loss = tf.reduce_sum(losses * batch.weights)
    real = batch.weights > 0
    correct = real & (tf.argmax(logits, axis=1, output_type=tf.int32) == tf.cast(batch.labels, tf.int32))
    totals = Totals(
        loss=tf.reduce_sum(tf.where(real, losses, 0.0)),
        correct=tf.math.count_nonzero(correct, dtype=tf.int32),
        seen=tf.math.count_nonzero(real, dtype=tf.int32),
        finite_steps=tf.cast(tf.math.is_finite(loss), tf.int32),
    )
    return tape.gradient(loss, weights.trainable), state, totals


def _no_totals() -> Totals:
    return Totals(tf.constant(0.0), tf.constant(0), tf.constant(0), tf.constant(0))


def _add(totals: Totals, part: Totals) -> Totals:
    return Totals(*(a + b for a, b in zip(totals, part, strict=True)))


def _map(values: Values, change: Callable[[Tensors], Tensors]) -> Values:
    """Changes how the weights and what the optimizer holds beside each are laid out."""
    return values._replace(trainable=change(values.trainable), slots=[change(slot) for slot in values.slots])


def _concat(tensors: Tensors) -> tf.Tensor:
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def _split(flat: tf.Tensor, shapes: Sequence[tf.TensorShape]) -> Tensors:
    # By tf.slice: where memory is aligned it copies nothing, as tf.split would.
    sizes = [shape.num_elements() for shape in shapes]
    begins = itertools.accumulate(sizes, initial=0)
    return [
        tf.reshape(tf.slice(flat, [begin], [size]), shape)
        for begin, size, shape in zip(begins, sizes, shapes, strict=False)
    ]
