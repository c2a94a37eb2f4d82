"""Lanes in real workers that train nothing: tests that are not about training start in half the time.

The weights are a hash of the epochs, and checkpoints carry them, as in a simulation. So equal weights still show that a
trial resumed where it stopped.
"""

import os
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import ray
from msgspec.structs import replace

from mnist_lib.environment import package_versions
from mnist_lib.results import Accuracy, LaneStarted, TrialEvent, TrialResult, TrialStarted
from mnist_lib.spec import trial_grid
from mnist_lib.training.assignment import Assignment
from tests.support.results import with_fields
from tests.support.simulation.trials import Durations, trial_script, undisturbed_weights

DURATIONS = Durations(compiling=0.0, epoch=0.1, evaluating=0.0)
UNTRAINED = """
from jobs.train import worker
from tests.support.untrained import run_lane
worker.run_lane = run_lane
"""


def run_lane(assignments: Iterable[Assignment], dataset: list[Any], *_: Any) -> Iterator[TrialEvent]:
    """Replace `jobs.train.worker.run_lane`, by means of `UNTRAINED`, a prelude for `tests.support.job`.

    Every model predicts the first half of the test images correctly, and the class after the right one for the rest.
    """
    yield LaneStarted(trial="", host=socket.gethostname(), versions=package_versions())
    labels = ray.get(dataset[0]).test.labels
    half = len(labels) // 2
    probabilities = np.eye(10, dtype=np.float32)[(labels + (np.arange(len(labels)) >= half)) % 10]
    for assignment in assignments:
        for step in trial_script(assignment, DURATIONS, socket.gethostname()):
            match step:
                case float():
                    time.sleep(step)
                case TrialStarted():
                    yield replace(step, pid=os.getpid())
                case TrialResult():
                    test = Accuracy(half, len(labels))
                    step = with_fields(step, test=test, test_accuracy=test.value)
                    yield replace(step, probabilities=probabilities)
                case _:
                    yield step


def untrained_weights(model: str, seed: int = 0, *, epochs: int) -> str:
    """Return the hash of the weights that a trial ends with, however often it was resumed."""
    (spec,) = trial_grid((model,), [seed], dataset="mnist-mini", epochs=epochs)
    return undisturbed_weights(spec)
