"""A trial as an event file of TensorBoard: what each epoch came to, and the mistakes that it was surest of.

The file is a TFRecord of TensorFlow's own messages. `tf.summary.scalar` needs tensorboard, which is not there at run
time, and `tf.summary.write` would give every epoch the time at which the trial ended.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.split import Split
from mnist_lib.results import EpochDone

Event, Summary = tf.compat.v1.Event, tf.compat.v1.Summary

MISTAKES_SHOWN = 10


def event_file(
    history: Sequence[EpochDone],
    learning_rates: NDArray[np.float32],
    best_epoch: int,
    probabilities: NDArray[np.float32],
    test: Split,
) -> bytes:
    """
    Args:
        history: every epoch; its number is the step.
        learning_rates: [epochs or more], with which each of them ended.
        best_epoch: whose weights the probabilities are of.
        probabilities: [test images, classes].
    """
    at = time.time() - sum(epoch.seconds for epoch in history)
    events = [Event(wall_time=at, file_version="brain.Event:2")]
    for epoch, learning_rate in zip(history, learning_rates.tolist(), strict=False):
        at += epoch.seconds
        values = [Summary.Value(tag=tag, simple_value=of) for tag, of in _scalars(epoch, learning_rate).items()]
        events.append(Event(wall_time=at, step=epoch.epoch, summary=Summary(value=values)))
    mistakes = Summary(value=_mistakes(probabilities, test))
    events.append(Event(wall_time=at, step=best_epoch, summary=mistakes))
    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            for event in events:
                writer.write(event.SerializeToString())
        return file.read()


def _scalars(epoch: EpochDone, learning_rate: float) -> dict[str, float]:
    validation = {"accuracy/validation": epoch.validation.value} if epoch.validation else {}
    return {
        "loss": epoch.loss,
        "accuracy/train": epoch.train.value,
        **validation,
        "learning_rate": learning_rate,
        "images_per_second": epoch.images_per_second,
    }


def _mistakes(probabilities: NDArray[np.float32], test: Split) -> Iterator[Any]:
    """The surest first."""
    answers, sureness = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != test.labels)
    for place, index in enumerate(wrong[np.argsort(-sureness[wrong], kind="stable")][:MISTAKES_SHOWN], start=1):
        image = test.images[index]  # [height, width, 1]
        height, width, _ = image.shape
        yield Summary.Value(
            tag=f"mistakes/{place:02}: a {test.labels[index]}, taken for a {answers[index]} at {sureness[index]:.1%}"
            f" (image {index})",
            image=Summary.Image(
                height=height, width=width, colorspace=1, encoded_image_string=tf.io.encode_png(image).numpy()
            ),
        )
