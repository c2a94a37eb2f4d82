"""The options of `jobs.review`."""

import getpass
from dataclasses import dataclass, replace
from typing import Annotated

from msgspec import Meta

from jobs.console.datasets import DATASET_HELP, VERSION_HELP, DataOptions, ModelFileOptions
from jobs.console.exit_codes import UsageError
from jobs.console.options import StorageOptions, VerboseOptions
from jobs.console.values import UserPath
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import SpecError
from mnist_lib.settings import Seed, option

DEFAULT_DATASET = "mnist-mini"
MAX_USER_LENGTH = 200  # as in `Correction`


@dataclass(frozen=True, kw_only=True)
class ReviewOptions(DataOptions, StorageOptions, VerboseOptions, ModelFileOptions):
    """Review pictures in the browser: correct their labels, or give labels to new ones, with one key each. Half of the
    pictures are chosen at random, half are those whose label the model finds least probable or, without a label, those
    of which it is least certain. Without pictures, those of the dataset are reviewed."""

    pictures: tuple[UserPath, ...] = option(
        (), "picture files, or folders of picture files", "PICTURE", positional=True
    )
    run: str | None = option(
        None, "review the test images that models of this run dispute: confident mistakes, differing answers"
    )
    dataset: str | None = option(  # type: ignore[assignment]  # here, the default depends on the run
        None, f"{DATASET_HELP} (default: that of --run, or {DEFAULT_DATASET})", "NAME|DIR"
    )
    model: str | None = option(
        None,
        f"version, {VERSION_HELP} (default: the most accurate champion of the dataset, or of the one trained last)",
        "VERSION",
    )
    seed: Seed | None = option(None, "random seed that chooses the random pictures (default: other pictures each time)")
    port: Annotated[int, Meta(ge=0, lt=1 << 16)] = option(
        0, "port of the page on this machine (default: a free one)", "PORT"
    )
    browser: bool = option(True, "open the page in the browser; --no-browser only prints its address")
    user: str | None = option(None, "author of the labels, which is stored with each (default: the login name)")

    def author(self) -> str:
        """Return who decides about labels. Raises UsageError if that cannot be known or is too long."""
        try:
            name = self.user if self.user is not None else getpass.getuser()
        except (KeyError, OSError):  # a user without a name, as in a container
            raise UsageError("user: expected a login name, got none; name the author with --user") from None
        if not 1 <= len(name.strip()) <= MAX_USER_LENGTH or not name.isprintable():
            raise UsageError(f"user: expected 1 to {MAX_USER_LENGTH} printable characters, got {len(name):,}")
        return name

    def request(self, dataset: str) -> DataRequest:
        """Return the request for a dataset. Raises SpecError for an invalid value."""
        return replace(self, dataset=dataset).data()

    def check(self) -> None:
        """Raise UsageError or SpecError for options that exclude each other or are out of range."""
        self.author()
        if self.run is not None and self.pictures:
            raise UsageError("expected pictures or --run NAME, got both; omit one")
        if self.run is None or self.dataset is not None:
            request = self.request(self.dataset or DEFAULT_DATASET)
            if self.pictures and request.folder is None and request.url is None:
                raise SpecError(
                    f"pictures: expected a folder of pictures as --dataset, got {request.dataset}, which takes no new"
                    " pictures; name the folder that they belong to, or omit the pictures to review the dataset's own"
                )
