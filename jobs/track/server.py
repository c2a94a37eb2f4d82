"""Copies of runs in MLflow. A run is copied whole, and marked at the end; one that has the mark is not copied again."""

import contextlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobs.console.exit_codes import UsageError
from jobs.track.tracked import Part, key_of, tracked_run
from mnist_lib.errors import IntegrityError, MnistError
from mnist_lib.objects.protocol import MAX_DOCUMENT_BYTES
from mnist_lib.store.contents import read_manifest
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import RECORD_COPY, Version, commit_record, find, read_file, record_of, version_folder
from mnist_lib.wording import one_line

if TYPE_CHECKING:
    from mlflow.entities import Run

URI_VARIABLE = "MLFLOW_TRACKING_URI"
RUN_TAG = "mnist_jobs.run"  # of the copy of a run and of its parts
WHOLE_TAG = "mnist_jobs.part"  # with the value WHOLE_RUN, the mark of a whole copy
WHOLE_RUN = ""
MODEL, MODEL_DATA = "model", "storage"  # folders of a stored model among the artifacts of its trial
# By default, MLflow sends usage data to its vendor, waits minutes for a server that does not answer, prints links with
# the credentials of the URI, and logs each new experiment.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class TrackingError(MnistError):
    """MLflow refused a request or did not answer."""

    code = "E-TRACKING"


@dataclass(frozen=True)
class CopyResult:
    """The result of copying a run."""

    run: str
    experiment: str
    run_id: str  # in MLflow
    copied: int  # trials and configurations
    known: int  # those that were in MLflow already
    damaged: Sequence[str] = ()  # why stored models were not copied


class Server:
    """An MLflow server, or a database that MLflow uses without one.

    Args:
        uri: as MLflow expects it, such as http://localhost:5000. It may contain credentials.
    """

    def __init__(self, uri: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import mlflow
        except ImportError:
            raise UsageError(
                'expected the package mlflow, got none; install it: pip install "mnist-jobs[track]"'
            ) from None
        self._uri = uri
        with self._errors():
            mlflow.set_tracking_uri(uri)
        os.environ.pop(URI_VARIABLE, None)  # where MLflow puts it, with its credentials, for all child processes

    def copy(self, folder: RunFolder, experiment: str) -> CopyResult:
        """Copy a run, unless MLflow already has a whole copy.

        Args:
            experiment: its name; it is created if there is none.

        Raises:
            TrackingError: MLflow refuses a request or does not answer.
            IntegrityError, SpecError: as `tracked_run`.
        """
        import mlflow

        tags = {RUN_TAG: key_of(folder), "mlflow.source.name": "mnist-jobs"}
        condition = f"tags.`{RUN_TAG}` = '{tags[RUN_TAG]}'"
        damaged = []
        with self._errors():
            mlflow.set_experiment(experiment)
            earlier = mlflow.search_runs(experiment_names=[experiment], filter_string=condition, output_format="list")
            whole = next(filter(_is_whole, earlier), None)
            if whole is not None:
                return CopyResult(folder.run, experiment, whole.info.run_id, 0, len(earlier) - 1)
            tracked = tracked_run(folder)
            for run in earlier:  # of a copy that was interrupted
                mlflow.delete_run(run.info.run_id)
            with mlflow.start_run(run_name=tracked.name, tags=tags) as parent:
                for part in tracked.parts:
                    with mlflow.start_run(run_name=part.name, nested=True, tags=tags) as run:
                        _log(part)
                        try:
                            self._log_model(folder, run.info.run_id, part.version)
                        except IntegrityError as error:
                            damaged.append(str(error))
                        mlflow.end_run(_status(part))
                _log(tracked)
                self._log_files((name, folder.read(name, MAX_DOCUMENT_BYTES) or b"") for name in tracked.files)
                mlflow.set_tag(WHOLE_TAG, WHOLE_RUN)
                mlflow.end_run(_status(tracked))
        return CopyResult(folder.run, experiment, parent.info.run_id, len(tracked.parts), 0, damaged)

    def _log_model(self, folder: RunFolder, run_id: str, stored: tuple[str, int] | None) -> None:
        """Copy a stored version as a model that `mlflow.pyfunc.load_model` loads where this package is installed."""
        version = stored and find(folder.objects, *stored)
        if not version:  # none was stored, or it was deleted after the run
            return
        # `mnist_lib.api` loads models from a storage, so the files are laid out as a storage with only this version.
        below = f"{MODEL_DATA}/{version_folder(version.model, version.number)}"
        description = yaml.safe_dump(_description(folder, version, run_id), sort_keys=False).encode()
        records = (f"{below}/{RECORD_COPY}", f"{MODEL_DATA}/{commit_record(version.model, version.number)}")
        files = [("MLmodel", description), *((name, record_of(version)) for name in records)]
        contents = ((f"{below}/{name}", read_file(folder.objects, version, name)) for name in version.files)
        self._log_files(itertools.chain(files, contents), MODEL)

    def _log_files(self, files: Iterable[tuple[str, bytes]], below: str | None = None) -> None:
        """Log files, of which one at a time is in memory."""
        import mlflow

        with tempfile.TemporaryDirectory() as folder:
            for name, content in files:
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            try:
                mlflow.log_artifacts(folder, below)
            except Exception as error:  # an artifact store has its own exceptions, and may need a missing package
                raise TrackingError(
                    f"{self._uri}: expected to store files in MLflow, got: {one_line(error)}"
                ) from error

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield
        except (MlflowException, RequestException) as error:
            raise TrackingError(
                f"{self._uri}: expected MLflow to accept the request, got: {one_line(error)}"
            ) from error


def _description(folder: RunFolder, version: Version, run_id: str) -> dict[str, Any]:
    """Return the content of the file MLmodel."""
    manifest = read_manifest(folder.objects, version)
    flavor = {
        "loader_module": "mnist_lib.api",
        "data": MODEL_DATA,
        "python_version": manifest.record.versions.get("python"),
    }
    return {
        "artifact_path": MODEL,
        "flavors": {"python_function": flavor},
        "metadata": {"version": version.name, "weights_sha256": version.facts.weights_sha256},
        "run_id": run_id,
        "signature": {
            "inputs": _tensor("uint8", *manifest.dataset.image_shape),
            "outputs": _tensor("float32", len(manifest.dataset.classes)),
        },
        "utc_time_created": version.committed_at.replace("T", " ").removesuffix("Z"),
    }


def _tensor(dtype: str, *sides: int) -> str:
    """Return the part of a signature for a batch of arrays."""
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *sides]}}])


def _log(part: Part) -> None:
    """Log the parameters and metrics of a part in the active run."""
    import mlflow

    mlflow.log_params(dict(part.parameters))
    for metrics in part.metrics:
        mlflow.log_metrics(dict(metrics.values), step=metrics.step, timestamp=round(metrics.at * 1000))


def _status(part: Part) -> str:
    return "FAILED" if part.failed else "FINISHED"


def _is_whole(run: "Run") -> bool:
    return run.data.tags.get(WHOLE_TAG) == WHOLE_RUN and run.info.status in ("FINISHED", "FAILED")
