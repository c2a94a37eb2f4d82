"""TFDS builders as a user would write them."""

from pathlib import Path

from mnist_lib.data.request import DataRequest
from mnist_lib.model_file import ModelFile

BUILDER = """
import numpy as np
import tensorflow_datasets as tfds


class {name}(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("2.1.0")

    def _info(self):
        features = tfds.features.FeaturesDict({{
            "image": tfds.features.Image(shape=({shape})),
            "label": tfds.features.ClassLabel(names=["oak", "beech", "ash"]),
        }})
        return self.dataset_info_from_configs(features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager):
        return {{"{train}": self._generate_examples(30, 0), "{test}": self._generate_examples(9, 1)}}

    def _generate_examples(self, count, seed):
        random = np.random.default_rng(seed)
        for number in range(count):
            size = (6, 5, 3) if number % 2 or {fixed} else (12, 10, 3)
            yield str(number), {{"image": random.integers(0, 256, size, np.uint8), "label": number % 3}}
"""


SPLITS = ("training", "evaluation")


def builder_file(folder: Path, name: str, *, fixed: bool, splits: tuple[str, str] = SPLITS) -> Path:
    """Write a builder of two splits, 30 and 9 pictures of three trees, all of one size if `fixed`; return its file."""
    path, (train, test) = folder / f"{name.lower()}.py", splits
    shape = "6, 5, 3" if fixed else "None, None, 3"
    path.write_text(BUILDER.format(name=name, shape=shape, fixed=fixed, train=train, test=test))
    return path


def trees(folder: Path) -> DataRequest:
    """Return a request for the dataset of a builder, prepared in `folder`."""
    file = ModelFile.read(builder_file(folder.parent, "Trees", fixed=True))
    return DataRequest(dataset="tfds:trees", data_dir=folder, tfds_import=file, splits=SPLITS)
