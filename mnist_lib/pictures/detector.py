"""A small network that says how much an image looks like one digit. It is independent of the model that predicts.

`benchmarks/detector.py` trains it and writes `detector.npz`. NumPy computes it, since TensorFlow would take seconds to
load in each process that reads pictures.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

FILE = Path(__file__).parent / "detector.npz"
SHAPE, BOX = (28, 28), 20  # height and width of an image, and the longer side of its ink: the layout of MNIST
OTHER = 10  # the output for what is not one digit; those before it are for the digits

Array = NDArray[np.float32]


def likeness(image: NDArray[np.uint8]) -> float:
    """Return the share of held-out MNIST digits that look less like one digit than this image does.

    For any x, at most a share x of all digits like those of MNIST has a likeness of x or less.

    Args:
        image: [28, 28], 0-255, the ink light and centred as in MNIST.
    """
    weights = _weights()
    held_out = weights["held_out"]
    return float(np.searchsorted(held_out, score(image, weights)) / len(held_out))


def score(image: NDArray[np.uint8], weights: Mapping[str, Array]) -> float:
    """Return the logarithm of the odds that the image shows one digit."""
    hidden = np.asarray(image[..., None] / np.float32(255), np.float32)
    for layer in ("conv1", "conv2"):
        hidden = _convolved(hidden, weights[f"{layer}_kernel"], weights[f"{layer}_bias"])
    hidden = np.maximum(hidden.ravel() @ weights["dense_kernel"] + weights["dense_bias"], 0)
    outputs = hidden @ weights["output_kernel"] + weights["output_bias"]
    return float(np.logaddexp.reduce(outputs[:OTHER]) - outputs[OTHER])


def _convolved(values: Array, kernel: Array, bias: Array) -> Array:
    """Return the convolution without padding, reduced to the maximum of each 2 x 2 positions, then ReLU."""
    side = kernel.shape[0]
    windows = sliding_window_view(values, (side, side), axis=(0, 1))  # [height, width, channels, side, side]
    height, width = windows.shape[:2]
    columns = windows.transpose(0, 1, 3, 4, 2).reshape(height * width, -1)
    convolved = columns @ kernel.reshape(-1, kernel.shape[-1]) + bias
    pooled: Array = convolved.reshape(height // 2, 2, width // 2, 2, -1).max(axis=(1, 3))
    return np.maximum(pooled, 0)


@functools.cache
def _weights() -> dict[str, Array]:
    """Return the arrays of the file, which holds them as float16."""
    with np.load(FILE) as arrays:
        return {name: arrays[name].astype(np.float32) for name in arrays.files}
