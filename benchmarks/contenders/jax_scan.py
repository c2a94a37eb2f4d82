"""The same network in JAX, with an epoch as one compiled scan over its steps."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from stopwatch import BATCH_SIZE, CLASSES, HIDDEN_UNITS, digits, measure

optimizer = sys.argv[3]
data = digits()
images, labels = (
    jnp.asarray(data.train_images.reshape(len(data.train_images), -1)),
    jnp.asarray(data.train_labels, jnp.int32),
)
generator = np.random.default_rng(0)


def kernel(units_in: int, units_out: int) -> jax.Array:
    """Return initial weights drawn as in Keras for RMSprop, and as in the notebook for SGD."""
    limit = (6 / (units_in + units_out)) ** 0.5
    low, high = (-limit, limit) if optimizer == "rmsprop" else (0.0, 0.1)
    return jnp.asarray(generator.uniform(low, high, (units_in, units_out)), jnp.float32)


weights = [
    kernel(images.shape[1], HIDDEN_UNITS),
    jnp.zeros(HIDDEN_UNITS),
    kernel(HIDDEN_UNITS, CLASSES),
    jnp.zeros(CLASSES),
]
slots = [jnp.zeros_like(value) for value in weights]


def logits(weights: list[jax.Array], pixels: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(pixels.astype(jnp.float32) / 255 @ weights[0] + weights[1])
    return hidden @ weights[2] + weights[3]


def loss(weights: list[jax.Array], pixels: jax.Array, labels: jax.Array) -> jax.Array:
    values = logits(weights, pixels)
    return jnp.mean(jax.nn.logsumexp(values, axis=1) - jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0])


@jax.jit
def scan_epoch(weights, slots, order):  # type: ignore[no-untyped-def]
    def step(carry, batch):  # type: ignore[no-untyped-def]
        weights, slots = carry
        gradients = jax.grad(loss)(weights, images[batch], labels[batch])
        if optimizer == "sgd":
            return ([w - 0.01 * g for w, g in zip(weights, gradients, strict=True)], slots), None
        slots = [0.9 * v + 0.1 * g * g for v, g in zip(slots, gradients, strict=True)]
        moved = [w - 0.001 * g * jax.lax.rsqrt(v + 1e-7) for w, g, v in zip(weights, gradients, slots, strict=True)]
        return (moved, slots), None

    return jax.lax.scan(step, (weights, slots), order)[0]


def train_epoch(epoch: int) -> None:
    """Train an epoch of full batches. The last one is filled up with the first images of the epoch."""
    global weights, slots
    order = np.random.default_rng(epoch).permutation(len(images))
    order = np.resize(order, (-(-len(order) // BATCH_SIZE), BATCH_SIZE))
    weights, slots = jax.block_until_ready(scan_epoch(weights, slots, jnp.asarray(order)))


test_pixels = jnp.asarray(data.test_images.reshape(len(data.test_images), -1))
measure(train_epoch, lambda: int((np.asarray(logits(weights, test_pixels)).argmax(axis=1) == data.test_labels).sum()))
