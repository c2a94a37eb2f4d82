"""Which dataset a command means: one of the catalog, one of TFDS, or the user's own pictures."""

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from msgspec import Meta

from mnist_lib.catalog import DATASETS, DatasetEntry, require_known
from mnist_lib.data.groups import check_group_by
from mnist_lib.documents import Count, Document, Rate
from mnist_lib.errors import SpecError
from mnist_lib.model_file import ModelFile
from mnist_lib.settings import require

MAX_SIDE = 224  # pixels, for the images of a folder
DEFAULT_SIDE = 32  # pixels, for pictures that differ in size or are larger: see benchmarks/README.md
TFDS = "tfds:"
MAX_NAME = 60  # characters: run names, limited to 100, contain it
DATASET_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}", re.ASCII)
MAX_CLASSES = 1_000
TABLE = "metadata.csv"  # of labels, which is found in a folder of pictures

Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
ImageSize = Annotated[tuple[Side, Side], Meta(description=f"sides from 1 to {MAX_SIDE}")]  # height, width
Channels = Literal[1, 3, 4]  # grey, colour, colour and transparency
ImageShape = tuple[Side, Side, Channels]  # height, width, channels
ClassName = Annotated[str, Meta(max_length=1_000)]
ClassNames = Annotated[tuple[ClassName, ...], Meta(min_length=2, max_length=MAX_CLASSES)]
SplitName = Annotated[str, Meta(pattern=r"\A(?:train|test)\Z")]
CountsBySplit = dict[SplitName, Annotated[dict[ClassName, Count], Meta(max_length=MAX_CLASSES)]]


class Growth(Document, frozen=True, kw_only=True):
    """A class to which more images were added than is likely."""

    added: Count  # number of new images
    usual: Rate  # mean number of new images of earlier runs


def stored_name(dataset: str) -> str:
    """Return the name under which a dataset is stored, which for a folder, a URL or tfds:NAME is derived from it."""
    is_name = "/" not in dataset and not dataset.startswith(TFDS)
    return dataset if is_name else DataRequest(dataset=dataset).name


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """A dataset, and where its files are.

    Args:
        dataset: a name of the catalog; "tfds:NAME[/CONFIG][:VERSION]"; or, with a "/", a folder of pictures, a table of
            labels (`FILE.csv`) of pictures that are in its folder, or the URL of a folder in a bucket.
        data_dir: the folder of prepared datasets, which other programs may share. None stands for TFDS' default, or for
            a temporary folder if that cannot be written, as in a container without a home.
        data_source: a folder with the original files of a dataset of the catalog, which are read instead of downloaded.
        image_size: height and width of the images, except in the catalog; None: the pictures' own, or 32 x 32.
        channels: number of channels of the images, except in the catalog; None: that of the pictures.
        tfds_import: the content of a Python file that registers the user's own builder with TFDS.
        splits: the names of the train and the test split of a dataset of TFDS.
        group_by: what decides the split of a picture of a folder instead of its pixels: "folder", "groups.csv",
            "column" or a regular expression, see `data.groups`.
        none: the name of a class folder whose pictures are counter-examples: they show none of the classes.
        dataset_name: what trials, runs and versions call a folder; by default, it is made from the folder's name.

    Raises:
        SpecError: the dataset is not known, or an option does not apply to it.
    """

    dataset: str = "mnist-mini"
    data_dir: Path | None = None
    data_source: Path | None = None
    image_size: ImageSize | None = None
    channels: Channels | None = None
    group_by: str | None = None
    none: str | None = None
    dataset_name: str | None = None
    tfds_import: ModelFile | None = None
    splits: tuple[str, str] = ("train", "test")

    def __post_init__(self) -> None:
        if self._path is not None:  # absolute, since a worker has another working folder
            object.__setattr__(self, "dataset", str(self._path))
        has_pictures = self.folder is not None or self.url is not None
        is_named = not has_pictures and self.tfds is None
        if is_named:
            self._require_known()
        is_downloaded = self.entry is not None and not self.entry.embedded
        for expected, fits, options in (
            ("a folder of pictures", has_pictures, ("dataset_name", "group_by", "none")),
            ("tfds:NAME", self.tfds is not None, ("tfds_import", "splits")),
            ("a folder or tfds:NAME", not is_named, ("image_size", "channels")),
            ("a dataset of the catalog that is not part of this package", is_downloaded, ("data_source",)),
        ):
            for option in options if not fits else ():
                if getattr(self, option) != getattr(type(self), option):  # its default
                    name = "train_split, test_split" if option == "splits" else option
                    raise SpecError(f"{name}: expected {expected} as --dataset, got {self.dataset}; omit it")
        if self.dataset_name is not None and (
            not DATASET_NAME.fullmatch(self.dataset_name) or self.dataset_name in DATASETS
        ):
            expected = f"up to {MAX_NAME} letters, digits, '.', '_' or '-', beginning with a letter or digit"
            got = f"got {self.dataset_name[: 2 * MAX_NAME]!r}"
            raise SpecError(f"dataset_name: expected {expected}, and no name of the catalog, {got}; choose another")
        if self.group_by is not None:
            check_group_by(self.group_by)
        require("image_size", self.image_size, ImageSize | None)
        require("channels", self.channels, Channels | None)

    def _require_known(self) -> None:
        """Raise SpecError if the catalog has no dataset of this name."""
        with contextlib.suppress(OSError):  # such as a name that is too long
            if self.dataset not in DATASETS and Path(self.dataset).exists():
                hint = f"did you mean ./{self.dataset}? known: {', '.join(DATASETS)}"
                raise SpecError(f"dataset: {self.dataset!r} is not known; {hint}")
        require_known("dataset", self.dataset, DATASETS)

    def shaped(self, image_shape: Sequence[int] | None) -> Self:
        """Return the request with this shape of images. A size or a number of channels that it already names stays.

        Args:
            image_shape: height, width and channels; None changes nothing.
        """
        if image_shape is None or self.entry is not None:
            return self
        height, width, channels = image_shape
        shape = {"image_size": self.image_size or (height, width), "channels": self.channels or channels}
        return replace(self, **shape)  # type: ignore[arg-type]  # it checks them

    @property
    def entry(self) -> DatasetEntry | None:
        """The entry of the catalog, or None for any other dataset."""
        return DATASETS.get(self.dataset)

    @property
    def tfds(self) -> str | None:
        """The name of a dataset of TFDS that is not in the catalog, with its configuration and version, or None."""
        return self.dataset.removeprefix(TFDS) if self.dataset.startswith(TFDS) else None

    @property
    def tfds_name(self) -> str:
        """The name by which TFDS knows the dataset: in the catalog, it has underscores."""
        return self.tfds or self.dataset.replace("-", "_")

    @property
    def url(self) -> str | None:
        """The URL of a folder of pictures, or None."""
        return self.dataset.rstrip("/") if self.tfds is None and "://" in self.dataset else None

    @property
    def folder(self) -> Path | None:
        """The folder of pictures, or None."""
        return self._path if self._path is None or self.table is None else self._path.parent

    @property
    def table(self) -> str | None:
        """The name of the table of labels in the folder, or None if none is named."""
        return self._path.name if self._path is not None and self._path.suffix.lower() == ".csv" else None

    @property
    def _path(self) -> Path | None:
        if self.tfds is not None or self.url is not None or "/" not in self.dataset:
            return None
        try:
            return Path(self.dataset).expanduser().absolute()
        except RuntimeError as error:  # no such user, as in ~nobody/letters
            got = f"{self.dataset}, in the home of an unknown user"
            raise SpecError(f"dataset: expected a folder, got {got}; correct the path") from error

    @property
    def name(self) -> str:
        """The name of the dataset in trials, runs and versions. That of a folder is made from the folder's name."""
        if self.dataset_name is not None:
            return self.dataset_name
        if self.tfds is not None:
            own = self.tfds
        elif self.url is not None:
            own = self.url.rpartition("/")[2]
        elif self.table not in (None, TABLE):
            own = Path(self.dataset).stem
        elif self.folder is not None:
            own = Path(os.path.realpath(self.folder)).name  # unlike `resolve`, without an error in a loop of links
        else:
            return self.dataset
        name = re.sub("[^A-Za-z0-9._-]+", "-", own).strip("-._")[:MAX_NAME] or "pictures"
        return f"{name}-folder" if name in DATASETS else name
