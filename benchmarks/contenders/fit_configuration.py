"""What the rivals of `jobs.search` share: the space, and the training of a configuration with `keras.fit`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LEARNING_RATES = (1e-4, 1e-1)  # each order of magnitude is as likely as the others
HIDDEN_UNITS, BATCH_SIZES, OPTIMIZERS = (64, 128, 256, 512), (32, 64, 128, 256), ("sgd", "adam", "rmsprop")
CLASSES, VALIDATION_SHARE = 10, 0.1

Report = Callable[[int, float], None]  # takes the number of epochs and the validation accuracy; may raise to stop


def fit(settings: dict[str, Any], images: np.ndarray, labels: np.ndarray, epochs: int, report: Report) -> None:
    """Train a configuration on one thread."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    keras.backend.clear_session()
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(settings["hidden_units"], activation="relu"),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    optimizer = keras.optimizers.get(
        {"class_name": settings["optimizer"], "config": {"learning_rate": settings["learning_rate"]}}
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    ends = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: report(epoch + 1, logs["val_accuracy"]))
    held_out = round(len(labels) * VALIDATION_SHARE)
    model.fit(
        images[held_out:],
        labels[held_out:],
        batch_size=settings["batch_size"],
        epochs=epochs,
        validation_data=(images[:held_out], labels[:held_out]),
        callbacks=[ends],
        verbose=0,
    )


def shuffled(digits: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images and labels in random order."""
    with np.load(digits) as arrays:
        order = np.random.default_rng(seed).permutation(len(arrays["train_labels"]))
        return arrays["train_images"][order], arrays["train_labels"][order]
