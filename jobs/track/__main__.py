"""`python -m jobs.track RUN...`: copy runs to MLflow. They are only read; training needs no MLflow."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.console import exit_codes
from jobs.console.options import option, parse
from jobs.console.output import as_text, print_result, print_stderr, run_command
from jobs.console.terminal import step
from jobs.track.records import records_of
from jobs.track.server import Server
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage
from mnist_lib.store.runs import RUN_RECORD, RunFolder, check_run_name
from mnist_lib.wording import counted

URI_VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """Copy runs and searches to MLflow, with their parameters, accuracies, reports and stored models. Repeating the
    command adds what is new."""

    runs: tuple[str, ...] = option(
        (), "names of runs (default: all of the storage)", str, "RUN", positional=True, several=True
    )
    storage: str = option("results", "folder or bucket with the runs", str, "DIR|URL")
    tracking_uri: str | None = option(
        None, f"MLflow server, such as http://localhost:5000 (default: {URI_VARIABLE})", str, "URI"
    )
    experiment: str | None = option(None, "experiment of MLflow (default: the name of the data set)", str, "NAME")
    json: bool = option(False, "print one JSON document instead of text")

    def uri(self) -> str:
        """Return where MLflow is. Raises UsageError if that is not known."""
        uri = self.tracking_uri or os.environ.get(URI_VARIABLE)
        if not uri:
            raise exit_codes.UsageError(
                f"tracking_uri: expected the URI of MLflow, or {URI_VARIABLE} to be set, got none"
            )
        return uri

    def run_names(self, objects: Objects) -> list[str]:
        """Return the runs to copy. Raises SpecError if one of them does not exist."""
        for run in self.runs:
            check_run_name(run)
            if not objects.exists(f"runs/{run}/{RUN_RECORD}"):
                raise SpecError(f"runs: expected names of runs in {objects.where('runs')}, got {run!r}")
        return [*self.runs] or sorted(objects.folders("runs"))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(track, sys.argv[1:] if arguments is None else arguments)


def track(arguments: Sequence[str]) -> int:
    options: TrackOptions = parse("jobs.track", TrackOptions, arguments)
    uri, objects = options.uri(), open_storage(options.storage)
    names = options.run_names(objects)
    copied: list[dict[str, Any]] = []
    damaged = False
    with step("connecting to MLflow") as progress:
        server = Server(uri)
        for number, name in enumerate(names, 1):
            progress(f"{name} ({number} of {len(names)})")
            try:
                folder = RunFolder(objects, name)
                records = records_of(folder)
                experiment = options.experiment or records.dataset
                copied.append({"run": name, "experiment": experiment, **server.copy(folder, records, experiment)})
            except IntegrityError as error:
                damaged = True
                print_stderr(f"error[{error.code}] {name} is not copied: {error}")
    lines = [_line(row) for row in copied] or [f"No run is stored in {options.storage}."]
    print_result(json.dumps(copied, indent=2) if options.json else as_text(*lines))
    return exit_codes.INTEGRITY if damaged else exit_codes.DONE


def _line(row: dict[str, Any]) -> str:
    known = f", {row['known']:,} were there" if row["known"] else ""
    parts = counted(row["copied"], "trial")
    return f"{row['run']}: {parts} copied{known}; experiment {row['experiment']}, run {row['run_id']}"


if __name__ == "__main__":
    sys.exit(main())
