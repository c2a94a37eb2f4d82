"""The options that name a dataset or a stored version, shared by all commands that read one."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from jobs.console.options import Options
from jobs.console.values import ExistingFolder, Folder, UserPath, height_and_width
from mnist_lib.catalog import DATASETS
from mnist_lib.data.request import DEFAULT_SIDE, MAX_SIDE, Channels, DataRequest, ImageSize
from mnist_lib.model_file import ModelFile
from mnist_lib.settings import option

DATA_DIR_HELP = "folder of prepared and cached datasets (default: TFDS_DATA_DIR or ~/tensorflow_datasets)"
TFDS_IMPORT_HELP = "Python file that defines your own TFDS builder, for the dataset tfds:NAME"
DATASET_HELP = (
    "dataset: a folder of pictures, such as ./letters or s3://bucket/letters, which contains CLASS/picture, or"
    " train/CLASS/picture and test/CLASS/picture, or a table of labels, metadata.csv; a table with another name, such"
    " as ./letters/two.csv; tfds:NAME for a dataset of TensorFlow Datasets; or "
    + "; ".join(f"{name}: {entry.about}" for name, entry in DATASETS.items())
)
VERSION_HELP = "such as keras (the champion), keras@latest (the newest version) or keras@3 (version 3)"
MODEL_FILE_HELP = (
    "Python file of your own model; its code is run only if the version was trained from this file, and with the"
    " arguments in --model-arg (default: files that models were trained from on this machine)"
)
VERSION_DATASET_HELP = "dataset of the version, if it is not in the catalog: a folder of pictures or tfds:NAME"
CHAMPION_DATASET_HELP = "dataset whose champion is meant, such as mnist or ./letters (default: the one trained last)"


@dataclass(frozen=True, kw_only=True)
class OriginalFiles(Options):
    """The folders with the files of a dataset of the catalog."""

    GROUP = "dataset"

    data_dir: ExistingFolder | None = option(None, DATA_DIR_HELP)
    data_source: Folder | None = option(
        None, "folder with the original *-ubyte.gz files of the dataset (default: download them)"
    )


@dataclass(frozen=True, kw_only=True)
class SourceOptions(OriginalFiles):
    """The location of a dataset whose image shape is already known, such as that of a stored version."""

    GROUP = "dataset"

    dataset: str | None = option(None, DATASET_HELP, "NAME|DIR")
    tfds_import: Folder | None = option(None, TFDS_IMPORT_HELP, "FILE.py", in_file=False)
    train_split: str = option("train", "split of a TFDS dataset to train on")
    test_split: str = option("test", "split of a TFDS dataset to test on")
    group_by: str | None = option(
        None,
        "group of each picture of a folder; a group, such as all pictures of one object, is never in two splits."
        " folder: the folder below that of the class; groups.csv: this file in the folder, with the columns path and"
        " group; column: the column named group in a table of labels; any other value: a regular expression, whose"
        " first parentheses enclose the group's name in the path inside the folder (default: column, if a table of"
        " labels has groups; otherwise only equal pictures are a group)",
        "folder|groups.csv|column|REGEX",
        in_terms=True,
    )

    none: str | None = option(
        None,
        "class folder whose pictures show none of the classes (counter-examples): models learn to answer pictures like"
        " them with `none of these`",
        "NAME",
        in_terms=True,
    )

    @functools.cached_property
    def builder_file(self) -> ModelFile | None:
        """The file of --tfds-import. Raises ModelError if it cannot be read, or is not valid Python."""
        return None if self.tfds_import is None else ModelFile.read(self.tfds_import, "tfds_import")

    def source(self) -> dict[str, Any]:
        """Return the arguments of `DataRequest` that say where the dataset is."""
        return {
            "data_dir": self.data_dir,
            "data_source": self.data_source,
            "tfds_import": self.builder_file,
            "splits": (self.train_split, self.test_split),
            "group_by": self.group_by,
            "none": self.none,
        }


@dataclass(frozen=True, kw_only=True)
class DataOptions(SourceOptions):
    """A dataset, and how its pictures are read."""

    GROUP = "dataset"

    dataset: str = option("mnist-mini", DATASET_HELP, "NAME|DIR")
    image_size: Annotated[ImageSize, height_and_width, Meta(title="N|HxW")] | None = option(
        None,
        "size in pixels of the images of a folder or tfds:NAME, such as 28 or 32x48 (default: that of the dataset's"
        " champion or last run in this storage; for a new dataset, that of the pictures, or"
        f" {DEFAULT_SIDE} if they differ or are larger than {MAX_SIDE})",
        in_terms=True,
    )
    channels: Channels | None = option(
        None,
        "channels of the images, 1: grey, 3: colour, 4: with transparency (default: those of the dataset's champion or"
        " last run in this storage; for a new dataset, as in the pictures)",
        in_terms=True,
    )
    dataset_name: str | None = option(
        None,
        "name under which runs, versions and champions of a folder are stored; if you rename a folder, give its earlier"
        " name here to keep it the same dataset (default: made from the name of the folder)",
        "NAME",
        in_terms=True,
    )

    def data(self) -> DataRequest:
        """Return the requested dataset. Raises SpecError for an invalid value."""
        return DataRequest(
            dataset=self.dataset,
            image_size=self.image_size,
            channels=self.channels,
            dataset_name=self.dataset_name,
            **self.source(),
        )


@dataclass(frozen=True, kw_only=True)
class ModelFileOptions(Options):
    """The code from which a version of the user's own model was trained."""

    model_file: UserPath | None = option(None, MODEL_FILE_HELP, "FILE.py", in_file=False)
    model_arg: Mapping[str, Any] | None = option(
        None,
        "argument with which the function in --model-file built the version, such as width=64; can be repeated",
        in_file=False,
    )
