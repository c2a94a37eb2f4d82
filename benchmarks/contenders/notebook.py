"""The two cells of the notebook as a script: `fit`, then the network from scratch in eager mode. It stores both."""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from stopwatch import BATCH_SIZE, CLASSES, HIDDEN_UNITS

from mnist_lib.data.prepare import prepare
from mnist_lib.data.request import DataRequest

epochs, folder = int(sys.argv[2]), Path(sys.argv[3])
data = prepare(DataRequest(dataset=sys.argv[1]))  # prepared by TFDS, as for the job
train_images, test_images = (
    np.asarray(split.images).reshape(len(split), -1).astype("float32") / 255 for split in (data.train, data.test)
)

model = keras.Sequential(
    [keras.layers.Dense(HIDDEN_UNITS, activation="relu"), keras.layers.Dense(CLASSES, activation="softmax")]
)
model.compile(optimizer="rmsprop", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train_images, data.train.labels, epochs=epochs, batch_size=BATCH_SIZE, verbose=0)
_, keras_accuracy = model.evaluate(test_images, data.test.labels, verbose=0)
model.save(folder / "model.keras")

weights = [
    tf.Variable(tf.random.uniform((28 * 28, HIDDEN_UNITS), maxval=0.1)),
    tf.Variable(tf.zeros(HIDDEN_UNITS)),
    tf.Variable(tf.random.uniform((HIDDEN_UNITS, CLASSES), maxval=0.1)),
    tf.Variable(tf.zeros(CLASSES)),
]


def logits(images: np.ndarray) -> tf.Tensor:
    return tf.nn.relu(images @ weights[0] + weights[1]) @ weights[2] + weights[3]


for _ in range(epochs):
    for begin in range(0, len(train_images), BATCH_SIZE):
        batch = slice(begin, begin + BATCH_SIZE)
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(
                data.train.labels[batch], logits(train_images[batch]), from_logits=True
            )
            loss = tf.reduce_mean(losses)
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(1e-2 * gradient)
scratch_accuracy = np.mean(logits(test_images).numpy().argmax(axis=1) == data.test.labels)
np.savez(folder / "weights.npz", *(weight.numpy() for weight in weights))
print(f"{keras_accuracy:.4f} {scratch_accuracy:.4f}")
