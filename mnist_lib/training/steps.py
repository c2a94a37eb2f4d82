"""The compiled training steps of a chunk.

Steps return the values after the chunk, sums over its images, and the margin of each image, see `mnist_lib.margins`.
`steps_of` chooses one of two ways. On one replica, if XLA is fast for the model, all steps of a chunk are one XLA
function (`WholeChunk`). Otherwise, each step computes the gradients of every replica, adds them up in one all-reduce of
a flat vector, and makes one compiled update (`StepByStep`).

AutoGraph is off where no Python loop or branch depends on a tensor, which saves 0.6 s at the start of a lane.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import tensorflow as tf

from mnist_lib.data.batches import Chunk, ReplicaPart
from mnist_lib.models.model import Model, Tensors, Weights
from mnist_lib.models.scratch import Optimizer, softmax_cross_entropy

# `WholeChunk` transposes kernels with at most this many columns: XLA on CPUs takes 9 times as long for the gradient
# inputs^T @ g with 10 columns as for g^T @ inputs, 6 times with 16, and equally long with 32.
NARROW = 16


class Values(NamedTuple):
    """Everything that training changes. A step returns new values."""

    trainable: Tensors
    slots: list[Tensors]  # the optimizer's memory: lists of tensors shaped like `trainable`
    state: Tensors
    step: tf.Tensor  # [] int32: the number of steps so far


class Totals(NamedTuple):
    """Sums over images, which are added over steps, chunks and replicas."""

    loss: tf.Tensor  # [] float32
    # Not int32, which TensorFlow adds in the memory of the host, also on a GPU.
    correct: tf.Tensor  # [] int64
    seen: tf.Tensor  # [] int64
    finite_steps: tf.Tensor  # [] int64: steps with a finite loss; once a loss is not finite, no later loss is


# `gradients_of` for a model.
Gradients = Callable[[Weights, ReplicaPart, int], tuple[Tensors, Tensors, Totals, tf.Tensor]]


def steps_of(
    model: Model,
    gradients: Gradients,
    optimizer: Optimizer,
    strategy: tf.distribute.Strategy,
    *,
    xla: bool = True,
    compile_update: bool = True,
) -> WholeChunk | StepByStep:
    """Return the steps of a model.

    Args:
        xla: whether XLA can compile the model.
        compile_update: whether it compiles the update of the weights, which consists of our own operations.
    """
    on_gpu = "GPU" in strategy.extended.worker_devices[0]
    if xla and strategy.num_replicas_in_sync == 1 and (on_gpu or model.fast_in_xla_on_cpu):
        return WholeChunk(gradients, optimizer, strategy, fixed_count=on_gpu)
    # Logical CPU devices share their threads. XLA functions that run on them together mostly wait for each other;
    # TensorFlow's own kernels do not.
    return StepByStep(gradients, optimizer, strategy, compile_gradients=xla and on_gpu, compile_update=compile_update)


def refused_by_xla(error: tf.errors.OpError) -> str | None:
    """Return the operation that XLA cannot compile, if that is the cause of an error."""
    found = re.search(
        r"unsupported operations .*? on XLA_\w+: (\w+)|op (\w+) must be a compile-time constant", str(error)
    )
    return found and (found[1] or found[2])


class WholeChunk:
    """Steps that are one XLA function.

    `run`, here and in `StepByStep`, trains a chunk at the learning rates, [steps] float32. It returns the values after
    it, the sums over it, and the margins of its images, [steps, images of all replicas] float32.

    Args:
        fixed_count: whether each chunk runs all steps for which it has learning rates, of which those beyond its last
            one change nothing. On a GPU, XLA waits for the host at each step unless the number of steps is a constant.
    """

    def __init__(
        self, gradients: Gradients, optimizer: Optimizer, strategy: tf.distribute.Strategy, *, fixed_count: bool = False
    ) -> None:
        self._gradients, self._optimizer, self._strategy = gradients, optimizer, strategy
        self._fixed_count = fixed_count
        self._compiled = tf.function(self._run_steps, jit_compile=True, autograph=False)

    @tf.function(autograph=False)
    def run(self, values: Values, chunk: Chunk, learning_rates: tf.Tensor) -> tuple[Values, Totals, tf.Tensor]:
        after: tuple[Values, Totals, tf.Tensor] = self._strategy.run(
            self._compiled, args=(values, chunk.steps, *chunk.parts, learning_rates)
        )
        return after

    def _run_steps(
        self, values: Values, steps: tf.Tensor, shard: ReplicaPart, learning_rates: tf.Tensor
    ) -> tuple[Values, Totals, tf.Tensor]:
        narrow = [len(tensor.shape) == 2 and tensor.shape[1] <= NARROW for tensor in values.trainable]

        def transposed(tensors: Tensors) -> Tensors:
            return [tf.transpose(t) if is_narrow else t for t, is_narrow in zip(tensors, narrow, strict=True)]

        def body(
            index: tf.Tensor, values: Values, totals: Totals, margins: tf.TensorArray
        ) -> tuple[tf.Tensor, Values, Totals, tf.TensorArray]:
            weights = Weights(transposed(values.trainable), values.state)
            batch = ReplicaPart(*(part[index] for part in shard))
            gradients, state, part, of_batch = self._gradients(weights, batch, 1)
            trainable, slots = self._optimizer.update(
                values.trainable, values.slots, transposed(gradients), learning_rates[index], values.step
            )
            after = Values(trainable, slots, state, values.step + 1), _add(totals, part)
            if self._fixed_count:
                kept = partial(tf.where, index < steps)
                after = tf.nest.map_structure(kept, after, (values, totals))
            return index + 1, *after, margins.write(index, of_batch)

        end = learning_rates.shape[0] if self._fixed_count else steps
        start = (tf.constant(0), _map(values, transposed), _no_totals(), _no_margins(shard))
        _, values, totals, margins = tf.while_loop(lambda index, *_: index < end, body, start)
        return _map(values, transposed), totals, margins.stack()


class StepByStep:
    """Steps that run one by one. XLA compiles the gradients only with `compile_gradients`."""

    def __init__(
        self,
        gradients: Gradients,
        optimizer: Optimizer,
        strategy: tf.distribute.Strategy,
        *,
        compile_gradients: bool,
        compile_update: bool = True,
    ) -> None:
        self._gradients, self._optimizer, self._strategy = gradients, optimizer, strategy
        self._compile_gradients = compile_gradients
        self._update = tf.function(self._updated, jit_compile=compile_update or None, autograph=False)

    @tf.function(autograph=False)  # which would leave a file for each function among the temporary ones
    def run(self, values: Values, chunk: Chunk, learning_rates: tf.Tensor) -> tuple[Values, Totals, tf.Tensor]:
        shapes = [tensor.shape for tensor in values.trainable]

        @tf.function(jit_compile=self._compile_gradients or None, autograph=False)
        def gradients_of_replica(
            flat: tf.Tensor, state: Tensors, shard: ReplicaPart, index: tf.Tensor
        ) -> tuple[tf.Tensor, Tensors, Totals, tf.Tensor]:
            weights = Weights(_split(flat, shapes), state)
            batch = ReplicaPart(*(part[index] for part in shard))
            replicas = self._strategy.num_replicas_in_sync
            gradients, after, totals, margins = self._gradients(weights, batch, replicas)
            changes = [self._change(new, old) for new, old in zip(after, state, strict=True)]
            return _concat(gradients), changes, totals, margins

        shards = self._strategy.experimental_distribute_values_from_function(
            lambda context: chunk.parts[context.replica_id_in_sync_group]
        )

        def body(
            index: tf.Tensor, values: Values, totals: Totals, margins: tf.TensorArray
        ) -> tuple[tf.Tensor, Values, Totals, tf.TensorArray]:
            gradients, changes, part, of_replicas = self._strategy.run(
                gradients_of_replica, args=(*values.trainable, values.state, shards, index)
            )
            with tf.device(self._strategy.extended.worker_devices[0]):  # `reduce` takes a CPU by default
                trainable, slots = self._update(values, self._sum(gradients), learning_rates[index])
                state = [self._one(old, change) for old, change in zip(values.state, changes, strict=True)]
                values = Values(trainable, slots, state, values.step + 1)
                part = Totals(*map(self._sum, part))
                # The loss of a step is finite if that of every replica is.
                part = part._replace(finite_steps=part.finite_steps // self._strategy.num_replicas_in_sync)
                margins = margins.write(index, tf.concat(self._strategy.experimental_local_results(of_replicas), 0))
            return index + 1, values, _add(totals, part), margins

        start = (
            tf.constant(0),
            _map(values, lambda tensors: [_concat(tensors)]),
            _no_totals(),
            _no_margins(chunk.parts[0], self._strategy.num_replicas_in_sync),
        )
        _, values, totals, margins = tf.while_loop(lambda index, *_: index < chunk.steps, body, start)
        return _map(values, lambda flat: _split(flat[0], shapes)), totals, margins.stack()

    def _updated(self, values: Values, gradients: tf.Tensor, learning_rate: tf.Tensor) -> tuple[Tensors, list[Tensors]]:
        return self._optimizer.update(values.trainable, values.slots, [gradients], learning_rate, values.step)

    def _sum(self, parts: tf.Tensor) -> tf.Tensor:
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

    def _change(self, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
        """Return what `_one` needs: the change of a value that is averaged over replicas, otherwise the new value."""
        return new - old if self._is_averaged(old) else new

    def _one(self, old: tf.Tensor, changes: tf.Tensor) -> tf.Tensor:
        """Return one state for all replicas: floats change by the mean change; other values are already equal.

        The mean of changes, not of values, leaves frozen weights as they are: (a + a + a) / 3 is not always a.
        """
        if self._is_averaged(old):
            return old + self._strategy.reduce(tf.distribute.ReduceOp.MEAN, changes, axis=None)
        first: tf.Tensor = self._strategy.experimental_local_results(changes)[0]
        return first

    def _is_averaged(self, state: tf.Tensor) -> bool:
        return bool(state.dtype.is_floating and self._strategy.num_replicas_in_sync > 1)


def smoothed_losses(logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float) -> tf.Tensor:
    """Return the loss of each image if `label_smoothing` of its label is spread evenly over all classes: [batch]."""
    losses = softmax_cross_entropy(logits, labels)
    if not label_smoothing:
        return losses
    even = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_mean(logits, axis=1)  # the mean loss of all classes
    return losses + label_smoothing * (even - losses)


def gradients_of(
    model: Model, label_smoothing: float, is_frozen: Sequence[bool], weights: Weights, batch: ReplicaPart, replicas: int
) -> tuple[Tensors, Tensors, Totals, tf.Tensor]:
    """Return the gradients of one step of a shard, the state after it, its totals, and the margins of its images.

    The loss is the replica's share of the loss of the global batch, so that gradients add up over replicas.

    Args:
        is_frozen: whether each of the trainable weights is not trained in this step: its gradient is then 0.
    """
    trained = [weight for weight, frozen in zip(weights.trainable, is_frozen, strict=True) if not frozen]
    with tf.GradientTape() as tape:
        tape.watch(trained)
        logits, state, extra = model.train_logits(weights, batch.images, batch.replica)
        losses = smoothed_losses(logits, batch.labels, label_smoothing)  # [replica batch]
        loss = tf.reduce_sum(losses * batch.weights) + extra / replicas
    real = batch.weights > 0
    correct = real & (tf.argmax(logits, axis=1, output_type=tf.int32) == tf.cast(batch.labels, tf.int32))
    totals = Totals(
        loss=tf.reduce_sum(tf.where(real, losses, 0.0)),
        correct=tf.math.count_nonzero(correct),
        seen=tf.math.count_nonzero(real),
        finite_steps=tf.cast(tf.math.is_finite(loss), tf.int64),
    )
    found = iter(tape.gradient(loss, trained, unconnected_gradients=tf.UnconnectedGradients.ZERO))
    pairs = zip(weights.trainable, is_frozen, strict=True)
    gradients = [tf.zeros_like(weight) if frozen else next(found) for weight, frozen in pairs]
    return gradients, state, totals, margins_of(logits, batch.labels)


def margins_of(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return by how much the logit of each image's label exceeds the highest other one: [batch] float32."""
    is_label = tf.one_hot(tf.cast(labels, tf.int32), logits.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    of_label = tf.reduce_sum(tf.where(is_label, logits, 0.0), axis=1)
    return of_label - tf.reduce_max(tf.where(is_label, logits.dtype.min, logits), axis=1)


def gradients_of_parts(
    gradients: Gradients, parts: int, weights: Weights, batch: ReplicaPart, replicas: int
) -> tuple[Tensors, Tensors, Totals, tf.Tensor]:
    """Do what `gradients` does for parts of a batch, each of which counts as a replica, and add up the results.

    TensorFlow runs the operations of parts that do not depend on each other at the same time, which takes less time
    than to share each operation among threads. The state is the mean over the parts.
    """
    edges = [batch.labels.shape[0] * part // parts for part in range(parts + 1)]
    shards = [
        batch._replace(
            images=batch.images[begin:end],
            labels=batch.labels[begin:end],
            weights=batch.weights[begin:end],
            replica=batch.replica * parts + part,
        )
        for part, (begin, end) in enumerate(itertools.pairwise(edges))
    ]
    *done, margins = zip(*(gradients(weights, shard, replicas * parts) for shard in shards), strict=True)
    summed, states, totals = ([*zip(*each, strict=True)] for each in done)
    state = [tf.add_n(values) / parts if values[0].dtype.is_floating else values[0] for values in states]
    added = Totals(*map(tf.add_n, totals))
    added = added._replace(finite_steps=added.finite_steps // parts)
    return [*map(tf.add_n, summed)], state, added, tf.concat(margins, axis=0)


def _no_totals() -> Totals:
    return Totals(tf.constant(0.0), *(tf.constant(0, tf.int64) for _ in range(3)))


def _no_margins(part: ReplicaPart, replicas: int = 1) -> tf.TensorArray:
    """Return an array for the margins of each step of a chunk. `part`: that of one of the replicas."""
    steps, images = part.labels.shape
    return tf.TensorArray(tf.float32, steps, element_shape=[replicas * images])


def _add(totals: Totals, part: Totals) -> Totals:
    return Totals(*(a + b for a, b in zip(totals, part, strict=True)))


def _map(values: Values, change: Callable[[Tensors], Tensors]) -> Values:
    """Change the layout of the weights and, in the same way, of the slots."""
    return values._replace(trainable=change(values.trainable), slots=[change(slot) for slot in values.slots])


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
