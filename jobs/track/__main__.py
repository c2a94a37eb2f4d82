"""`python -m jobs.track RUN...`: copy runs to MLflow. It only reads the storage, so training needs no MLflow."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.console import exit_codes
from jobs.console.options import JsonOptions, StorageOptions, parse
from jobs.console.output import CommandResult, entry_point, print_error
from jobs.console.terminal import step
from jobs.track.server import URI_VARIABLE, CopyResult, Server, TrackingError
from mnist_lib.errors import IntegrityError, MnistError, SpecError
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage
from mnist_lib.settings import option
from mnist_lib.store.runs import RUN_RECORD, RunFolder, check_run_name
from mnist_lib.wording import counted


@dataclass(frozen=True, kw_only=True)
class TrackOptions(StorageOptions, JsonOptions):
    """Copy complete runs and searches to MLflow, with their parameters, accuracies, reports and stored models. Repeat
    the command to add what is new."""

    runs: tuple[str, ...] = option(
        (), "names of the runs to copy (default: all complete runs in the storage)", "RUN", positional=True
    )
    tracking_uri: str | None = option(
        None, f"MLflow server, such as http://localhost:5000 (default: {URI_VARIABLE})", "URI"
    )
    experiment: str | None = option(None, "MLflow experiment (default: the name of the dataset)")

    def uri(self) -> str:
        """Return the URI of the MLflow server. Raises UsageError if none is given."""
        uri = self.tracking_uri or os.environ.get(URI_VARIABLE)
        if not uri:
            raise exit_codes.UsageError(
                "tracking_uri: expected the URI of an MLflow server, got none;"
                f" use --tracking-uri URI or set {URI_VARIABLE}"
            )
        return uri

    def run_names(self, objects: Objects) -> list[str]:
        """Return the runs to copy. Raises SpecError if one of them does not exist."""
        for run in self.runs:
            check_run_name(run)
            if not objects.exists(f"runs/{run}/{RUN_RECORD}"):
                raise SpecError(f"runs: expected names of runs in {objects.where('runs')}, got {run!r}")
        return [*self.runs] or [run for run in sorted(objects.folders("runs")) if RunFolder(objects, run).is_complete]


OPTIONS = {"": TrackOptions}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    options: TrackOptions = parse("jobs.track", TrackOptions, arguments)
    uri = options.uri()
    objects = open_storage(options.storage)
    names = options.run_names(objects)
    copied: list[CopyResult] = []
    exit_code = exit_codes.DONE
    with step("connecting to MLflow") as progress:
        server = Server(uri)
        for number, name in enumerate(names, 1):
            progress(f"{name} ({number} of {len(names)})")
            try:
                folder = RunFolder(objects, name)
                experiment = options.experiment or folder.dataset()
                copied.append(server.copy(folder, experiment))
                problems: list[MnistError] = [IntegrityError(text) for text in copied[-1].damaged]
            except (IntegrityError, SpecError, TrackingError) as error:
                problems = [error]
            for problem in problems:
                print_error(problem.code, f"{name} is not copied completely: {problem}")
                exit_code = exit_code or exit_codes.exit_code_of(problem.code)
            if any(isinstance(problem, TrackingError) for problem in problems):
                break  # the other runs would probably fail, too, each after a timeout
    lines = [_line(row) for row in copied] or ([] if names else [f"No complete run is stored in {options.storage}."])
    return CommandResult(copied, lines, exit_code, json=options.json)


def _line(row: CopyResult) -> str:
    known = f", {row.known:,} already in MLflow" if row.known else ""
    return f"{row.run}: {counted(row.copied, 'trial')} copied{known}; experiment {row.experiment}, run {row.run_id}"


if __name__ == "__main__":
    sys.exit(main())
