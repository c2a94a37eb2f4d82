"""The learning rate of each step of a trial."""

import numpy as np
from numpy.typing import NDArray

from mnist_lib.spec import TrialSpec

WARM_UP = 0.25  # the share of the steps in which the rate of one-cycle rises
UNFROZEN_RATE = 0.5  # the share of the learning rate after the epochs of `freeze_epochs`, as in fastai's fine_tune


def learning_rates(spec: TrialSpec, steps_per_epoch: int) -> NDArray[np.float32]:
    """Return the learning rate of each step of a trial, [steps].

    "constant" is always the peak; "one-cycle" rises linearly to the peak, then falls linearly to 0 (Smith, 2018). After
    the epochs of `freeze_epochs`, the schedule begins anew, at a lower peak.
    """
    frozen = min(spec.freeze_epochs or 0, spec.epochs)
    parts = (frozen, spec.learning_rate), (spec.epochs - frozen, spec.learning_rate * (UNFROZEN_RATE if frozen else 1))
    return np.concatenate([_schedule(spec.schedule, peak, epochs * steps_per_epoch) for epochs, peak in parts])


def _schedule(schedule: str, peak: float, steps: int) -> NDArray[np.float32]:
    if schedule == "constant":
        return np.full(steps, peak, np.float32)
    done = np.arange(1, steps + 1) / (steps + 1)  # excludes 0 and 1, where the rate would be 0
    return (peak * np.minimum(done / WARM_UP, (1 - done) / (1 - WARM_UP))).astype(np.float32)
