"""`keras.fit` on arrays, with its defaults or tuned: compiled by XLA, with all steps of an epoch in one execution.

XLA on CPUs is slow for convolutions, so `keras-cnn` is trained without it.
"""

import sys

import keras
import tensorflow as tf
from stopwatch import BATCH_SIZE, CLASSES, HIDDEN_UNITS, digits, measure

from benchmarks.augmented import Augmented
from mnist_lib.models.augmentation import shifted
from mnist_lib.models.keras_models import keras_cnn
from mnist_lib.models.layers import to_predict

tuned, network = sys.argv[3] == "tuned", sys.argv[5]
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[4]))
keras.utils.set_random_seed(0)
data = digits()
if network == "keras-cnn":
    network_layers = map(to_predict, keras_cnn((28, 28, 1), CLASSES, 256))
    layers = [Augmented([shifted]), *network_layers, keras.layers.Softmax()]
else:
    layers = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Flatten(),
        keras.layers.Dense(HIDDEN_UNITS, activation="relu"),
        keras.layers.Dense(CLASSES, activation="softmax"),
    ]
model = keras.Sequential([keras.Input((28, 28, 1)), *layers])
steps = -(-len(data.train_labels) // BATCH_SIZE)
options = {"jit_compile": network != "keras-cnn", "steps_per_execution": steps} if tuned else {}
optimizer = "adam" if network == "keras-cnn" else "rmsprop"
model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"], **options)


def train_epoch(epoch: int) -> None:
    model.fit(data.train_images, data.train_labels, batch_size=BATCH_SIZE, epochs=1, verbose=0)


measure(
    train_epoch,
    lambda: int((model.predict(data.test_images, verbose=0).argmax(axis=1) == data.test_labels).sum()),
)
