"""The options of `jobs.predict`."""

from dataclasses import dataclass, replace
from pathlib import Path

from cluster.lanes.deadlines import Limits
from jobs.console.exit_codes import UsageError
from jobs.console.options import option
from jobs.console.values import folder, number, user_path, whole_number
from jobs.train.options import STORAGE_HELP
from mnist_lib.catalog import MODELS
from mnist_lib.spec import LARGEST_SEED

GRID_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Tells which digit is on each picture. It may be of any size, dark on light or light on dark: what stands out from
    the border is cut out, fitted and centred as the digits are that the model was trained on."""

    pictures: tuple[Path, ...] = option(
        (),
        "files, and folders with all pictures in them whose name does not begin with a dot",
        user_path,
        "PICTURE",
        positional=True,
        several=True,
    )
    model: str | None = option(
        None,
        f"a version, as in keras@3, or a model's champion: {', '.join(MODELS)} (default: of all champions the one with"
        " the highest test accuracy)",
        str,
        "MODEL|VERSION",
    )
    as_is: bool = option(
        False,
        "cut out and centre nothing, and take dark for dark: pictures are like the model's own, light on dark, and only"
        " made grey and of its size",
    )
    from_test: int | None = option(
        None, "in place of files, N random test images of the model's dataset, with their labels", whole_number, "N"
    )
    seed: int = option(0, "which of them", whole_number, "N")
    data_dir: Path | None = option(None, "for --from-test, as for jobs.train", folder, "DIR")
    data_source: Path | None = option(None, "for --from-test, as for jobs.train", folder, "DIR")
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL")
    address: str | None = option(
        None,
        "a running Ray cluster, which gets the pictures and the model sent (default: RAY_ADDRESS, or this machine)",
        str,
        "HOST:PORT",
    )
    wait_for_resources: float = option(Limits.wait_seconds, "seconds to wait while every node is busy", number, "S")
    picture: Path | None = option(
        None, "draw the pictures as the model sees them, with its answers, into that file", user_path, "FILE.png"
    )
    csv: bool = option(False, "print CSV instead of a table")
    json: bool = option(False, "print one JSON document instead of a table")
    verbose: bool = option(False, "show tracebacks", short=["-v"])

    def check(self) -> None:
        """Raises UsageError for what does not go together, or is out of range."""
        if bool(self.pictures) == (self.from_test is not None):
            raise UsageError("expected pictures, or --from-test N: one of the two; --help tells more")
        if self.from_test is not None and self.from_test < 1:
            raise UsageError(f"from_test: expected a whole number from 1, got {self.from_test}")
        if self.from_test is not None and self.address is not None:
            raise UsageError("from_test: expected no --address with it: these images are predicted here; leave it out")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"seed: expected a whole number from 0 to {LARGEST_SEED}, got {self.seed}")
        if self.csv and self.json:
            raise UsageError("expected --csv or --json, got both")
        if not self.wait_for_resources >= 0:
            raise UsageError(f"wait_for_resources: expected seconds, 0 or more, got {self.wait_for_resources}")
        if self.picture is not None:
            if self.picture.suffix.lower() not in GRID_SUFFIXES:
                raise UsageError(f"picture: expected a name with {', '.join(GRID_SUFFIXES)}, got {self.picture}")
            if not self.picture.parent.is_dir() or self.picture.is_dir():
                raise UsageError(f"picture: expected a file in a folder that is there, got {self.picture}")

    def limits(self) -> Limits:
        return replace(Limits(), wait_seconds=self.wait_for_resources)
