"""The options of `jobs.predict`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.deadlines import Limits
from jobs.console.datasets import DATA_DIR_HELP, DATA_SOURCE_HELP
from jobs.console.exit_codes import UsageError
from jobs.console.options import option
from jobs.console.values import existing_folder, folder, number, user_path, whole_number
from jobs.models.options import (
    CHAMPION_DATASET_HELP,
    MODEL_FILE_HELP,
    VERSION_DATASET_HELP,
    VERSION_HELP,
    model_arg_option,
)
from jobs.train.options import STORAGE_HELP
from mnist_lib.data.request import stored_name
from mnist_lib.objects.protocol import Objects
from mnist_lib.spec import MAX_SEED
from mnist_lib.store.champions.log import datasets_with_logs
from mnist_lib.store.versions import model_names

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # file types of --picture


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Predict the class of each picture, which may have any size. For a model of digits, it may be dark on light or
    light on dark: the digit is cropped, scaled and centred like those that the model was trained on. For a model of a
    folder of pictures, it is scaled and cropped as for training."""

    pictures: tuple[Path, ...] = option(
        (), "picture files, or folders of picture files", user_path, "PICTURE", positional=True, several=True
    )
    model: str | None = option(
        None, f"version, {VERSION_HELP} (default: the most accurate champion of the data set)", str, "VERSION"
    )
    model_file: Path | None = option(None, MODEL_FILE_HELP, user_path, "FILE.py", typed=True)
    model_arg: Mapping[str, Any] | None = model_arg_option()
    as_is: bool = option(
        False, "do not crop or invert pictures, which must show light digits on dark; only make them grey and resize"
    )
    accept_all: bool = option(
        False, "give the model's answer for every picture, even for one that does not show a single digit"
    )
    from_test: int | None = option(None, "predict N random test images instead of files", whole_number, "N")
    seed: int = option(0, "random seed that chooses the images of --from-test", whole_number, "N")
    dataset: str | None = option(
        None, f"{CHAMPION_DATASET_HELP}; or, for --from-test, the {VERSION_DATASET_HELP}", str, "NAME|DIR"
    )
    data_dir: Path | None = option(None, f"for --from-test: {DATA_DIR_HELP}", existing_folder, "DIR")
    data_source: Path | None = option(None, f"for --from-test: {DATA_SOURCE_HELP}", folder, "DIR")
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL")
    address: str | None = option(None, "Ray cluster to use (default: RAY_ADDRESS or none)", str, "HOST:PORT")
    wait_for_resources: float = option(Limits.wait_seconds, "seconds to wait for a free cluster node", number, "S")
    picture: Path | None = option(
        None, "image file to write: the pictures as the model sees them, and their predictions", user_path, "FILE.png"
    )
    csv: bool = option(False, "print CSV instead of a table")
    json: bool = option(False, "print one JSON document instead of a table")
    verbose: bool = option(False, "log more, and print the traceback of an error", short=["-v"])

    def check(self) -> None:
        """Raise UsageError for options that exclude each other or are out of range."""
        if bool(self.pictures) == (self.from_test is not None):
            got = "both" if self.pictures else "neither"
            raise UsageError(f"expected either pictures or --from-test N, got {got}; see --help")
        if self.from_test is not None and self.from_test < 1:
            raise UsageError(f"from_test: expected a whole number, 1 or more, got {self.from_test}")
        if self.from_test is not None and self.address is not None:
            raise UsageError("from_test: expected no --address, since test images are predicted here; omit --address")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed: expected a whole number from 0 to {MAX_SEED}, got {self.seed}")
        if self.csv and self.json:
            raise UsageError("expected --csv or --json, got both")
        if not self.wait_for_resources >= 0:
            raise UsageError(f"wait_for_resources: expected seconds, 0 or more, got {self.wait_for_resources}")
        if self.picture is not None:
            if self.picture.suffix.lower() not in PICTURE_SUFFIXES:
                raise UsageError(f"picture: expected one of {', '.join(PICTURE_SUFFIXES)}, got {self.picture}")
            if not self.picture.parent.is_dir() or self.picture.is_dir():
                raise UsageError(f"picture: expected a file in an existing folder, got {self.picture}")

    def champion_dataset(self, objects: Objects) -> str | None:
        """Return the data set whose champion is meant; None if --dataset only says where the test images are."""
        if self.dataset is None or (self.model is not None and "@" in self.model):
            return None
        models = [self.model] if self.model is not None else model_names(objects)
        name = stored_name(self.dataset)
        known = any(name in datasets_with_logs(objects, model) for model in models)
        return name if known or self.from_test is None else None

    def limits(self) -> Limits:
        return replace(Limits(), wait_seconds=self.wait_for_resources)
