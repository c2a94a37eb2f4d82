"""A trial as an event file of TensorBoard: the figures of each epoch, and the most confident mistakes as images.

The file is a TFRecord of TensorFlow's own messages. `tf.summary.scalar` needs tensorboard, which is not installed at
run time, and `tf.summary.write` would date every epoch at the end of the trial.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.table import Table
from mnist_lib.report.evidence import most_confident_mistakes
from mnist_lib.results import EpochDone

Event, Summary = tf.compat.v1.Event, tf.compat.v1.Summary

MAX_MISTAKES = 10


def event_file(
    history: Sequence[EpochDone],
    learning_rates: NDArray[np.float32],  # [epochs or more], at the last step of each epoch
    best_epoch: int,  # whose weights gave the probabilities
    probabilities: NDArray[np.float32],  # [test images, classes]
    test: Table,
    classes: Sequence[str],
) -> bytes:
    """Return the content of an event file, whose steps are epochs."""
    at = time.time() - sum(epoch.seconds for epoch in history)
    events = [Event(wall_time=at, file_version="brain.Event:2")]
    for epoch, learning_rate in zip(history, learning_rates.tolist(), strict=False):
        at += epoch.seconds
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(epoch, learning_rate).items()]
        events.append(Event(wall_time=at, step=epoch.epoch, summary=Summary(value=values)))
    events.append(Event(wall_time=at, step=best_epoch, summary=Summary(value=_mistakes(probabilities, test, classes))))
    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            for event in events:
                writer.write(event.SerializeToString())
        return file.read()


def _scalars(epoch: EpochDone, learning_rate: float) -> dict[str, float]:
    validation = {"accuracy/validation": epoch.validation.value} if epoch.validation else {}
    if epoch.validation and epoch.validation.balanced:
        validation["balanced_accuracy/validation"] = epoch.validation.score
    return {
        "loss": epoch.loss,
        "accuracy/train": epoch.train.value,
        **validation,
        "learning_rate": learning_rate,
        "images_per_second": epoch.images_per_second,
    }


def _mistakes(probabilities: NDArray[np.float32], test: Table, classes: Sequence[str]) -> Iterator[Any]:
    for rank, mistake in enumerate(most_confident_mistakes(probabilities, test.labels, MAX_MISTAKES), start=1):
        image = test.images[mistake.image]
        height, width, channels = image.shape
        png = tf.io.encode_png(image).numpy()
        picture = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
        tag = f"mistakes/{rank:02}: {mistake.text(classes)}, image {mistake.image}"
        yield Summary.Value(tag=tag, image=picture)
