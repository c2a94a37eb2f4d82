"""The options of `jobs.predict`."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from cluster.deadlines import Limits
from jobs.console.datasets import CHAMPION_DATASET_HELP, VERSION_HELP, ModelFileOptions
from jobs.console.exit_codes import UsageError
from jobs.console.options import JsonOptions, StorageOptions, VerboseOptions
from jobs.console.values import UserPath
from mnist_lib.pictures.likeness import REJECT_SHARE
from mnist_lib.settings import Seconds, option


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ModelFileOptions, StorageOptions, JsonOptions, VerboseOptions):
    """Predict the class of each picture, which may have any size. For a model of digits, a picture may be dark on light
    or light on dark: the digit is cropped, scaled and centred like those that the model was trained on. For a model of
    a folder of pictures, pictures are scaled and cropped as for training."""

    pictures: tuple[UserPath, ...] = option(
        None, "picture files, or folders of picture files", "PICTURE", positional=True, required=True
    )
    model: str | None = option(
        None, f"version, {VERSION_HELP} (default: the most accurate champion of the dataset)", "VERSION"
    )
    as_is: bool = option(
        False, "do not crop or invert pictures, which must show light digits on dark; only make them grey and resize"
    )
    accept_all: bool = option(False, "answer every picture with a class, even one that shows none of the classes")
    reject_percent: Annotated[float, Meta(ge=0, le=50)] = option(
        100 * REJECT_SHARE,
        'percentage of real pictures that may be answered with "none of these"; a higher one rejects more other'
        " pictures; 0 for none. It does not apply to models of the ten digits",
        "PERCENT",
    )
    dataset: str | None = option(None, CHAMPION_DATASET_HELP, "NAME|DIR")
    address: str | None = option(None, "Ray cluster to use (default: RAY_ADDRESS or none)", "HOST:PORT")
    wait_for_resources: Seconds = option(Limits.wait_seconds, "seconds to wait for a free cluster node")
    csv: bool = option(False, "print CSV instead of a table")

    @property
    def reject_share(self) -> float:
        """The share of real pictures that may be rejected, see `rejection`."""
        return 0.0 if self.accept_all else self.reject_percent / 100

    def check(self) -> None:
        """Raise UsageError for options that exclude each other."""
        if self.csv and self.json:
            raise UsageError("expected --csv or --json, got both")
