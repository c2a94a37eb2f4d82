"""How the learning rate goes over a training, step by step."""

import numpy as np
from numpy.typing import NDArray

WARM_UP = 0.25  # of the steps of a cycle


def learning_rates(schedule: str, peak: float, steps: int) -> NDArray[np.float32]:
    """-> [steps], the rate of each step.

    "constant" is `peak` always; "one-cycle" goes linearly up to `peak` and down to 0 (Smith, 2018).
    """
    if schedule == "constant":
        return np.full(steps, peak, np.float32)
    done = np.arange(1, steps + 1) / (steps + 1)  # neither 0 nor 1: no step is for nothing
    return (peak * np.minimum(done / WARM_UP, (1 - done) / (1 - WARM_UP))).astype(np.float32)
