"""`keras.fit` on arrays, with its defaults or tuned: compiled by XLA, with all steps of an epoch in one execution."""

import sys

import keras
import tensorflow as tf
from stopwatch import BATCH_SIZE, CLASSES, HIDDEN_UNITS, digits, measure

tuned = sys.argv[3] == "tuned"
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[4]))
keras.utils.set_random_seed(0)
data = digits()
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Flatten(),
        keras.layers.Dense(HIDDEN_UNITS, activation="relu"),
        keras.layers.Dense(CLASSES, activation="softmax"),
    ]
)
steps = -(-len(data.train_labels) // BATCH_SIZE)
options = {"jit_compile": True, "steps_per_execution": steps} if tuned else {}
model.compile("rmsprop", loss="sparse_categorical_crossentropy", metrics=["accuracy"], **options)


def train_epoch(epoch: int) -> None:
    model.fit(data.train_images, data.train_labels, batch_size=BATCH_SIZE, epochs=1, verbose=0)


measure(
    train_epoch,
    lambda: int((model.predict(data.test_images, verbose=0).argmax(axis=1) == data.test_labels).sum()),
)
