"""The test images that an ensemble of trials gets wrong, as text and as a plot."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.dataset import Dataset
from mnist_lib.results import TrialResult

COLUMNS, CAPTION = 8, 9  # of the plot: images in a row, and pixels above each


@dataclass(frozen=True)
class Error:
    """A test image that the ensemble gets wrong."""

    index: int
    label: int
    predicted: int
    by_every_seed: bool  # whether each seed alone also gets it wrong


def errors_of(results: Sequence[TrialResult], dataset: Dataset) -> list[Error]:
    """Return the test images that the ensemble gets wrong."""
    labels = dataset.test.labels
    by_seed = np.stack([result.probabilities.argmax(axis=1) for result in results])
    ensemble = np.mean([result.probabilities for result in results], axis=0).argmax(axis=1)
    return [
        Error(int(at), int(labels[at]), int(ensemble[at]), bool((by_seed[:, at] != labels[at]).all()))
        for at in np.flatnonzero(ensemble != labels)
    ]


def errors_text(errors: Sequence[Error]) -> str:
    found = ", ".join(f"{error.index} ({error.label}, not {error.predicted})" for error in errors)
    always = sum(error.by_every_seed for error in errors)
    return f"The ensemble's errors, by index from 0: {found or 'none'}. Every seed makes {always} of them."


def draw_errors(errors: Sequence[Error], images: NDArray[np.uint8]) -> bytes:
    """Return a plot, as PNG, of these images with their labels and predictions."""
    from mnist_lib.report.plots import LOST, TEXT, new_figure, plot

    height, width = images.shape[1] + CAPTION, images.shape[2]
    rows = -(-len(errors) // COLUMNS)
    canvas = np.zeros((rows * height, COLUMNS * width), np.uint8)
    figure, axes = new_figure(0.75 * rows)
    for number, error in enumerate(errors):
        top, left = number // COLUMNS * height, number % COLUMNS * width
        canvas[top + CAPTION : top + height, left : left + width] = images[error.index, ..., 0]
        colour = LOST if error.by_every_seed else TEXT
        caption = f"{error.label}, not {error.predicted}"
        axes.text(left + width / 2, top + CAPTION / 2, caption, ha="center", va="center", fontsize=7, color=colour)
    axes.imshow(canvas, cmap="gray_r")
    axes.set_axis_off()
    return plot("errors", figure).png
