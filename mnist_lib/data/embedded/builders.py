"""TFDS builders for the small files in this folder, whose README.md names their sources.

TFDS registers a builder when its module is imported, so import this before naming `mnist_mini`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mnist_lib.data.embedded import FOLDER


class _EmbeddedDigits(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The images and labels of a .npz file with the keys {train,test}_{images,labels}."""

    VERSION = tfds.core.Version("1.0.0")
    file: str
    image_shape: tuple[int, int, int]
    description: str
    citation: str

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.description,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=self.image_shape),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            citation=self.citation,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        with np.load(FOLDER / self.file) as arrays:
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}


class MnistMini(_EmbeddedDigits):
    file = "mnist-mini.npz"
    image_shape = (28, 28, 1)
    description = "5,000 handwritten digits of MNIST's training set, 400 of each class to train and 100 to test."
    citation = "LeCun, Cortes, Burges: The MNIST database of handwritten digits, 1998. CC BY-SA 3.0."


class SklearnDigits(_EmbeddedDigits):
    file = "sklearn-digits.npz"
    image_shape = (8, 8, 1)
    description = (
        "1,797 handwritten digits of 8x8 pixels, the test set of UCI's Optical Recognition of Handwritten Digits."
    )
    citation = "Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI, 1998. CC BY 4.0."
