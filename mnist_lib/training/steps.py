"""The compiled training steps of a chunk.

Steps return the values after the chunk, sums over its images, and the margin of each image (`mnist_lib.store.margins`).
Each step computes the gradients of every replica, adds them up, and updates the weights once. `steps_of` chooses what
XLA compiles, and the layout in which a chunk holds the weights. On one replica, if XLA is fast for the model, all steps
of a chunk are one XLA function.

AutoGraph is off where no Python loop or branch depends on a tensor, which saves 0.6 s at the start of a lane.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from mnist_lib.data.batches import Chunk, ReplicaPart
from mnist_lib.models.model import Model, Tensors, Weights
from mnist_lib.models.scratch import Optimizer, softmax_cross_entropy
from mnist_lib.training.layouts import Layout, as_one_vector, with_narrow_transposed

MADE_UP_WEIGHT = 0.25  # of the mean loss of made-up pictures; the loss of images has the weight 1


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


# A function such as `gradients_of` with its first three arguments bound.
Gradients = Callable[[Weights, ReplicaPart, int], tuple[Tensors, Tensors, Totals, tf.Tensor]]

XlaScope = Literal["chunk", "gradients", "update"]  # what XLA compiles as a function: all steps, or a part of each step


def steps_of(
    model: Model,
    gradients: Gradients,
    optimizer: Optimizer,
    strategy: tf.distribute.Strategy,
    *,
    xla: bool = True,
    compile_update: bool = True,
) -> Steps:
    """Return the steps of a model.

    Args:
        xla: whether XLA can compile the model.
        compile_update: whether it compiles the update of the weights, which consists of our own operations.
    """
    on_gpu = "GPU" in strategy.extended.worker_devices[0]
    if xla and strategy.num_replicas_in_sync == 1 and (on_gpu or model.fast_in_xla_on_cpu):
        return Steps(gradients, optimizer, strategy, with_narrow_transposed, xla=["chunk"], fixed_count=on_gpu)
    # Logical CPU devices share their threads. XLA functions that run on them together mostly wait for each other;
    # TensorFlow's own kernels do not.
    compiled: dict[XlaScope, bool] = {"gradients": xla and on_gpu, "update": compile_update}
    return Steps(gradients, optimizer, strategy, as_one_vector, xla=[scope for scope in compiled if compiled[scope]])


def refused_by_xla(error: tf.errors.OpError) -> str | None:
    """Return the operation that XLA cannot compile, if that is the cause of an error."""
    found = re.search(
        r"unsupported operations .*? on XLA_\w+: (\w+)|op (\w+) must be a compile-time constant", str(error)
    )
    return found and (found[1] or found[2])


class Steps:
    """The steps of a chunk on all replicas.

    Args:
        layout: returns the layout of weights within a chunk.
        xla: what XLA compiles. It can compile a whole chunk on one replica only.
        fixed_count: whether each chunk runs one step for each of its learning rates, where steps after its last real
            step change nothing. On a GPU, XLA waits for the host at each step unless the number of steps is a constant.
    """

    def __init__(
        self,
        gradients: Gradients,
        optimizer: Optimizer,
        strategy: tf.distribute.Strategy,
        layout: Callable[[Tensors], Layout],
        *,
        xla: Collection[XlaScope] = (),
        fixed_count: bool = False,
    ) -> None:
        self._gradients = gradients
        self._optimizer = optimizer
        self._strategy = strategy
        self._layout = layout
        self._xla = xla
        self._fixed_count = fixed_count
        self._device = strategy.extended.worker_devices[0]
        self._compiled = self._function("chunk", self._run)
        self._update = self._function("update", self._updated)

    def _function(self, scope: XlaScope, function: Callable[..., Any]) -> Any:
        return tf.function(function, jit_compile=scope in self._xla or None, autograph=False)

    def run(self, values: Values, chunk: Chunk, learning_rates: tf.Tensor) -> tuple[Values, Totals, tf.Tensor]:
        """Train a chunk at the learning rates, [steps] float32.

        Return the values after it, the sums over it, and the margins of its images, [steps, images of all replicas]
        float32.
        """
        with tf.device(self._device):
            after: tuple[Values, Totals, tf.Tensor] = self._compiled(values, chunk, learning_rates)
        return after

    def _run(self, values: Values, chunk: Chunk, learning_rates: tf.Tensor) -> tuple[Values, Totals, tf.Tensor]:
        layout = self._layout(values.trainable)
        replicas = self._strategy.num_replicas_in_sync

        def gradients_of_replica(
            packed: Tensors, state: Tensors, shard: ReplicaPart, index: tf.Tensor
        ) -> tuple[Tensors, Tensors, Totals, tf.Tensor]:
            batch = ReplicaPart(*(part[index] for part in shard))
            weights = Weights(layout.unpack(packed), state)
            gradients, after, totals, margins = self._gradients(weights, batch, replicas)
            changes = [self._change(new, old) for new, old in zip(after, state, strict=True)]
            return layout.pack(gradients), changes, totals, margins

        compute = self._function("gradients", gradients_of_replica)
        shards = self._strategy.experimental_distribute_values_from_function(
            lambda context: chunk.parts[context.replica_id_in_sync_group]
        )

        def body(
            index: tf.Tensor, values: Values, totals: Totals, margins: tf.TensorArray
        ) -> tuple[tf.Tensor, Values, Totals, tf.TensorArray]:
            gradients, changes, of_step, of_replicas = self._strategy.run(
                compute, args=(values.trainable, values.state, shards, index)
            )
            with tf.device(self._device):  # by default, `reduce` would put the sum on a CPU
                trainable, slots = self._update(values, [*map(self._sum, gradients)], learning_rates[index])
                state = [self._one(old, change) for old, change in zip(values.state, changes, strict=True)]
                of_step = _summed(of_step, self._sum, replicas)
                margins = margins.write(index, tf.concat(self._strategy.experimental_local_results(of_replicas), 0))
            after = Values(trainable, slots, state, values.step + 1), _add(totals, of_step)
            if self._fixed_count:
                kept = partial(tf.where, index < chunk.steps)
                after = tf.nest.map_structure(kept, after, (values, totals))
            return index + 1, *after, margins

        end = learning_rates.shape[0] if self._fixed_count else chunk.steps
        start = tf.constant(0), _map(values, layout.pack), _no_totals(), _no_margins(chunk.parts[0], replicas)
        _, values, totals, margins = tf.while_loop(lambda index, *_: index < end, body, start)
        return _map(values, layout.unpack), totals, margins.stack()

    def _updated(self, values: Values, gradients: Tensors, learning_rate: tf.Tensor) -> tuple[Tensors, list[Tensors]]:
        return self._optimizer.update(values.trainable, values.slots, gradients, learning_rate, values.step)

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

    The loss is the replica's share of the loss of the global batch, so that gradients add up over replicas. With
    made-up pictures, the loss includes a further class for them, whose logit is always 0: the level of the other
    logits, which softmax ignores, then says how much a picture looks like any class. Totals and margins do not include
    made-up pictures.

    Args:
        is_frozen: for each trainable weight, whether it is frozen in this step; its gradient is then 0.
    """
    trained = [weight for weight, frozen in zip(weights.trainable, is_frozen, strict=True) if not frozen]
    with tf.GradientTape() as tape:
        tape.watch(trained)
        logits, of_made_up, state, extra = _train_logits(model, weights, batch)
        losses = smoothed_losses(logits, batch.labels, label_smoothing)  # [replica batch]
        loss = tf.reduce_sum(losses * batch.weights) + extra / replicas
        if of_made_up.shape[0]:
            loss += tf.reduce_sum(batch.weights * tf.nn.softplus(-tf.reduce_logsumexp(logits, axis=1)))
            loss += MADE_UP_WEIGHT * tf.reduce_mean(tf.nn.softplus(tf.reduce_logsumexp(of_made_up, axis=1))) / replicas
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


def _train_logits(
    model: Model, weights: Weights, batch: ReplicaPart
) -> tuple[tf.Tensor, tf.Tensor, Tensors, tf.Tensor]:
    """Run `Model.train_logits` on images and made-up pictures as one batch with common statistics; split the logits."""
    if not batch.made_up.shape[0]:
        logits, state, extra = model.train_logits(weights, batch.images, batch.replica)
        return logits, logits[:0], state, extra
    images = tf.concat([batch.images, batch.made_up], axis=0)
    logits, state, extra = model.train_logits(weights, images, batch.replica)
    count = batch.labels.shape[0]
    return logits[:count], logits[count:], state, extra


def margins_of(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return by how much the logit of each image's label exceeds the highest other one: [batch] float32."""
    is_label = tf.one_hot(tf.cast(labels, tf.int32), logits.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    of_label = tf.reduce_sum(tf.where(is_label, logits, 0.0), axis=1)
    return of_label - tf.reduce_max(tf.where(is_label, logits.dtype.min, logits), axis=1)


def gradients_of_microbatches(
    gradients: Gradients, count: int, weights: Weights, batch: ReplicaPart, replicas: int
) -> tuple[Tensors, Tensors, Totals, tf.Tensor]:
    """Do what `gradients` does for microbatches, each of which counts as a replica, and add up the results.

    TensorFlow runs the operations of microbatches that do not depend on each other at the same time, which takes less
    time than to share each operation among threads. The state is the mean over the microbatches.

    Args:
        count: the number of microbatches; if there are fewer images, one microbatch per image.
    """
    num_images = batch.labels.shape[0]
    count = min(count, num_images)
    shards = [
        ReplicaPart(
            images=batch.images[_shard(num_images, number, count)],
            labels=batch.labels[_shard(num_images, number, count)],
            weights=batch.weights[_shard(num_images, number, count)],
            replica=batch.replica * count + number,
            made_up=batch.made_up[_shard(batch.made_up.shape[0], number, count)],  # at least one, if there are some
        )
        for number in range(count)
    ]
    *done, margins = zip(*(gradients(weights, shard, replicas * count) for shard in shards), strict=True)
    by_weight, states, totals = ([*zip(*each, strict=True)] for each in done)
    state = [tf.add_n(values) / count if values[0].dtype.is_floating else values[0] for values in states]
    return [*map(tf.add_n, by_weight)], state, _summed(totals, tf.add_n, count), tf.concat(margins, axis=0)


def _shard(size: int, number: int, count: int) -> slice:
    """Return the rows of one of `count` shards. If there are fewer rows than shards, some shards get the same row."""
    begin = size * number // count
    return slice(begin, max(begin + 1, size * (number + 1) // count))


def _no_totals() -> Totals:
    return Totals(tf.constant(0.0), *(tf.constant(0, tf.int64) for _ in range(3)))


def _summed(totals: Iterable[Any], add: Callable[[Any], tf.Tensor], shards: int) -> Totals:
    """Return the totals of a batch from those of its shards. `add`: returns a sum over the shards."""
    added = Totals(*map(add, totals))
    return added._replace(finite_steps=added.finite_steps // shards)  # the loss is finite if that of every shard is


def _no_margins(part: ReplicaPart, replicas: int) -> tf.TensorArray:
    """Return an array for the margins of each step of a chunk. `part`: that of one of the replicas."""
    steps, images = part.labels.shape
    return tf.TensorArray(tf.float32, steps, element_shape=[replicas * images])


def _add(totals: Totals, part: Totals) -> Totals:
    return Totals(*(a + b for a, b in zip(totals, part, strict=True)))


def _map(values: Values, change: Callable[[Tensors], Tensors]) -> Values:
    """Change the layout of the weights and, in the same way, of the slots."""
    return values._replace(trainable=change(values.trainable), slots=[change(slot) for slot in values.slots])
