"""Copies of runs in MLflow. What MLflow already has is not copied again."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

RUN_TAG, PART_TAG, PARENT_TAG = "mnist_jobs.run", "mnist_jobs.part", "mlflow.parentRunId"
WHOLE_RUN = ""  # the name of the part that is the run itself
PAGE_SIZE = 1_000  # of a search for runs
MODEL, MODEL_DATA = "model", "storage"  # folders of a stored model among the artifacts of its trial
# By default, MLflow sends usage data to its vendor, waits minutes for a server that does not answer, and prints links
# with the credentials of the URI.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
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
            from mlflow import MlflowClient
        except ImportError:
            raise UsageError(
                'expected the package mlflow, got none; install it: pip install "mnist-jobs[track]"'
            ) from None
        self._uri = uri
        with self._errors():
            self._client = MlflowClient(tracking_uri=uri)

    def copy(self, folder: RunFolder, into: str) -> CopyResult:
        """Copy a run, unless MLflow already has a complete copy.

        Args:
            into: the name of the experiment, which is created if there is none.

        Raises:
            TrackingError: MLflow refuses a request or does not answer.
            IntegrityError, SpecError: as `tracked_run`.
        """
        key = key_of(folder)
        with self._errors():
            experiment = self._experiment(into)
            known = self._known(experiment, key)
            parent = known.pop(WHOLE_RUN, None)
            if parent is not None and _is_complete(parent):
                return CopyResult(folder.run, into, parent.info.run_id, 0, len(known))
            tracked = tracked_run(folder)
            parent = parent or self._create(experiment, tracked, {RUN_TAG: key, PART_TAG: WHOLE_RUN})
            tags = {RUN_TAG: key, PARENT_TAG: parent.info.run_id}
            copied, damaged = 0, []
            for part in tracked.parts:
                run = known.get(part.name) or self._create(experiment, part, {**tags, PART_TAG: part.name})
                if run.data.tags.get(PARENT_TAG) != parent.info.run_id:  # the earlier parent was deleted
                    self._client.set_tag(run.info.run_id, PARENT_TAG, parent.info.run_id)
                if _is_complete(run):
                    continue
                copied += 1
                self._write(run, part)
                if part.version is not None:
                    try:
                        self._write_model(folder, run, *part.version)
                    except IntegrityError as error:
                        damaged.append(str(error))
                self._end(run, part)
            self._write(parent, tracked)
            self._write_files(parent, ((name, folder.read(name, MAX_DOCUMENT_BYTES) or b"") for name in tracked.files))
            self._end(parent, tracked)
        return CopyResult(folder.run, into, parent.info.run_id, copied, len(tracked.parts) - copied, damaged)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return str(self._client.create_experiment(name))
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"expected an experiment {name}, got one that was deleted; restore it or use --experiment"
            )
        return str(found.experiment_id)

    def _known(self, experiment: str, key: str) -> dict[str, "Run"]:
        """Return the MLflow runs of a run and its parts, by the name of the part."""
        found: dict[str, Run] = {}
        token: str | None = ""
        while token is not None:
            condition = f"tags.`{RUN_TAG}` = '{key}'"
            page = self._client.search_runs([experiment], condition, max_results=PAGE_SIZE, page_token=token or None)
            found |= {run.data.tags.get(PART_TAG, WHOLE_RUN): run for run in page}
            token = page.token or None
        return found

    def _create(self, experiment: str, part: Part, tags: Mapping[str, str]) -> "Run":
        begun = round(part.begun * 1000)
        return self._client.create_run(experiment, begun, {**tags, "mlflow.source.name": "mnist-jobs"}, part.name)

    def _write(self, run: "Run", part: Part) -> None:
        from mlflow.entities import Metric, Param

        # After an interruption, MLflow ignores the values that it has.
        parameters = [Param(name, value) for name, value in part.parameters.items()]
        metrics = [Metric(name, value, round(at * 1000), step) for name, value, at, step in part.metrics]
        self._client.log_batch(run.info.run_id, metrics, parameters)

    def _write_model(self, folder: RunFolder, run: "Run", model: str, number: int) -> None:
        """Copy a stored version as a model that `mlflow.pyfunc.load_model` loads where this package is installed."""
        version = find(folder.objects, model, number)
        if version is None:  # deleted after the run
            return
        # `mnist_lib.api` loads models from a storage, so the files are laid out as a storage with only this version.
        below = f"{MODEL_DATA}/{version_folder(model, number)}"
        for name in version.files:  # a damaged version is not copied in part
            read_file(folder.objects, version, name)
        description = yaml.safe_dump(_description(folder, version, run), sort_keys=False).encode()
        records = (f"{below}/{RECORD_COPY}", f"{MODEL_DATA}/{commit_record(model, number)}")
        files = [("MLmodel", description), *((name, record_of(version)) for name in records)]
        self._write_files(run, files, MODEL)
        stored = ((f"{below}/{name}", read_file(folder.objects, version, name)) for name in version.files)
        self._write_files(run, stored, MODEL)

    def _write_files(self, run: "Run", files: Iterable[tuple[str, bytes]], below: str | None = None) -> None:
        """Write files, of which one at a time is in memory and on the disk."""
        for name, content in files:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                try:
                    self._client.log_artifacts(run.info.run_id, folder, below)
                except Exception as error:  # an artifact store has its own exceptions, and may need a missing package
                    raise TrackingError(
                        f"{self._uri}: expected to store files in MLflow, got: {one_line(error)}"
                    ) from error

    def _end(self, run: "Run", part: Part) -> None:
        status = "FAILED" if part.failed else "FINISHED"
        self._client.set_terminated(run.info.run_id, status, round(part.ended * 1000))

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


def _description(folder: RunFolder, version: Version, run: "Run") -> dict[str, Any]:
    """Return the content of the file MLmodel."""
    manifest = read_manifest(folder.objects, version)
    flavor = {
        "loader_module": "mnist_lib.api",
        "data": MODEL_DATA,
        "python_version": manifest.versions.get("python"),
    }
    return {
        "artifact_path": MODEL,
        "flavors": {"python_function": flavor},
        "metadata": {"version": version.name, "weights_sha256": version.facts.weights_sha256},
        "run_id": run.info.run_id,
        "signature": {
            "inputs": _tensor("uint8", *manifest.dataset.image_shape),
            "outputs": _tensor("float32", len(manifest.dataset.classes)),
        },
        "utc_time_created": version.committed_at.replace("T", " ").removesuffix("Z"),
    }


def _tensor(dtype: str, *sides: int) -> str:
    """Return the part of a signature for a batch of arrays."""
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *sides]}}])


def _is_complete(run: "Run") -> bool:
    return run.info.status in ("FINISHED", "FAILED", "KILLED")
