"""Reject pictures that do not show one digit: by their marks, and by a score calibrated on held-out digits.

A model of ten digits reads each picture as one of them: "314" as a 4, an A as a 4. Its probabilities do not show that.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from mnist_lib.pictures import detector
from mnist_lib.pictures.centring import centre
from mnist_lib.pictures.ink import Levels
from mnist_lib.pictures.marks import several_digits

NOT_ONE_DIGIT: Final = "not one digit"
UNSURE: Final = "unsure"
Rejection = Literal["not one digit", "unsure"]

# Shares of held-out digits. Below the first likeness, a picture is rejected; below the second, its class is unsure.
MIN_LIKENESS = 0.003
MIN_SURE_LIKENESS = 0.006
MIN_PROBABILITY = 0.5  # a lower one means that all other classes together are more probable


def likeness_of(ink: Levels, image: NDArray[np.uint8] | None = None) -> float:
    """Return how much a picture looks like one digit, as `detector.likeness`; 0 if it shows several digits.

    Args:
        ink: [height, width], from 0 on paper to 1 in full ink, which is reached somewhere.
        image: the ink centred as in MNIST, [28, 28], if that is known.
    """
    if several_digits(ink):
        return 0.0
    return detector.likeness(centre(ink, detector.SHAPE, detector.BOX) if image is None else image)


def rejection(likeness: float | None, probabilities: NDArray[np.float32]) -> Rejection | None:
    """Return why the model's answer is not to be relied on, or None.

    Args:
        likeness: of a `Picture`; None if the model's classes are not the digits.
        probabilities: of the classes.
    """
    if likeness is not None and likeness < MIN_LIKENESS:
        return NOT_ONE_DIGIT
    if probabilities.max() < MIN_PROBABILITY or (likeness is not None and likeness < MIN_SURE_LIKENESS):
        return UNSURE
    return None
