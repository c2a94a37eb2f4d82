"""Write records of runs to an MLflow server. What it already has is not written again."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobs.console.exit_codes import UsageError
from jobs.track.records import Record, RunRecords
from mnist_lib.errors import MnistError
from mnist_lib.objects.protocol import MAX_FILE_BYTES
from mnist_lib.store.contents import classes_of, image_shape_of, read_manifest
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import RECORD_COPY, Version, commit_record, find, read_file, record_of, version_folder
from mnist_lib.wording import one_line

if TYPE_CHECKING:
    from mlflow.entities import Run

RUN_TAG, PART_TAG = "mnist_jobs.run", "mnist_jobs.part"  # by which a record is found again
BATCH = 1_000  # metrics in a request, the maximum of MLflow
MODEL, MODEL_DATA = "model", "storage"  # folders of a stored model among the artifacts of its trial
# MLflow would otherwise report its use to its makers, wait minutes for a server that does not answer, and print a link
# to each run with the credentials of the URI.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class TrackingError(MnistError):
    """The MLflow server refused a request or did not answer."""

    code = "E-TRACKING"


class Server:
    """An MLflow server, or a database that MLflow can use without one.

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

    def copy(self, folder: RunFolder, records: RunRecords, into: str) -> dict[str, Any]:
        """Copy a run into an experiment, and return its id, and how many of its parts were copied or there already."""
        with self._errors():
            found = self._client.get_experiment_by_name(into)
            experiment = found.experiment_id if found else self._client.create_experiment(into)
            whole = self._find(experiment, f"tags.`{RUN_TAG}` = '{records.key}'").get("")
            whole = whole or self._create(experiment, records.run, {RUN_TAG: records.key, PART_TAG: ""})
            parent = whole.info.run_id
            known = self._find(experiment, f"tags.`mlflow.parentRunId` = '{parent}'")
            copied = 0
            for part in records.parts:
                tags = {RUN_TAG: records.key, PART_TAG: part.name, "mlflow.parentRunId": parent}
                run = known.get(part.name) or self._create(experiment, part, tags)
                if not _is_complete(run):
                    copied += 1
                    self._write(run, part)
                    if part.version is not None:
                        self._write_model(folder, run, *part.version)
                    self._end(run, part)
            if not _is_complete(whole):
                self._write(whole, records.run)
                self._write_files(folder, whole, records.files)
                self._end(whole, records.run)
        return {"run_id": parent, "copied": copied, "known": len(records.parts) - copied}

    def _find(self, experiment: str, condition: str) -> dict[str, "Run"]:
        """Return the runs for which a condition is true, by the part that they are a record of."""
        found: dict[str, Run] = {}
        token: str | None = ""
        while token is not None:
            page = self._client.search_runs([experiment], condition, max_results=BATCH, page_token=token or None)
            found |= {run.data.tags.get(PART_TAG, ""): run for run in page}
            token = page.token or None
        return found

    def _create(self, experiment: str, record: Record, tags: Mapping[str, str]) -> "Run":
        begun = round(record.begun * 1000)
        return self._client.create_run(experiment, begun, {**tags, "mlflow.source.name": "mnist-jobs"}, record.name)

    def _write(self, run: "Run", record: Record) -> None:
        from mlflow.entities import Metric, Param

        parameters = [Param(name, value) for name, value in record.parameters.items() if name not in run.data.params]
        last = self._last_step(run)
        metrics = [
            Metric(metric.name, metric.value, round(metric.at * 1000), metric.step)
            for metric in record.metrics
            if metric.step > last or metric.step == 0
        ]
        for begin in range(0, max(1, len(metrics)), BATCH):
            self._client.log_batch(run.info.run_id, metrics[begin : begin + BATCH], parameters if begin == 0 else ())

    def _last_step(self, run: "Run") -> int:
        """Return the last epoch that the server has."""
        if "train_loss" not in run.data.metrics:
            return 0
        return max(metric.step for metric in self._client.get_metric_history(run.info.run_id, "train_loss"))

    def _write_files(self, folder: RunFolder, run: "Run", names: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory() as made:
            for name in names:
                _save(Path(made, name), folder.read(name, MAX_FILE_BYTES) or b"")
            self._client.log_artifacts(run.info.run_id, made)

    def _write_model(self, folder: RunFolder, run: "Run", model: str, number: int) -> None:
        """Copy a stored version as a model that `mlflow.pyfunc.load_model` loads where this package is installed."""
        version = find(folder.objects, model, number)
        if version is None:  # deleted since then
            return
        with tempfile.TemporaryDirectory() as made:
            # A storage with this one version, from which the Python API loads it.
            below = Path(made, MODEL_DATA)
            for name in version.files:
                _save(below / version_folder(model, number) / name, read_file(folder.objects, version, name))
            _save(below / version_folder(model, number) / RECORD_COPY, record_of(version))
            _save(below / commit_record(model, number), record_of(version))
            _save(Path(made, "MLmodel"), yaml.safe_dump(_description(folder, version, run), sort_keys=False).encode())
            self._client.log_artifacts(run.info.run_id, made, MODEL)

    def _end(self, run: "Run", record: Record) -> None:
        if record.ended is not None:
            status = "FAILED" if record.failed else "FINISHED"
            self._client.set_terminated(run.info.run_id, status, round(record.ended * 1000))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield
        except (MlflowException, RequestException) as error:
            raise TrackingError(f"{self._uri}: expected an answer of MLflow, got: {one_line(error)}") from error


def _description(folder: RunFolder, version: Version, run: "Run") -> dict[str, Any]:
    """Return the content of the file MLmodel."""
    manifest = read_manifest(folder.objects, version)
    shape = image_shape_of(manifest["dataset"], version.name)
    inputs, outputs = _tensor("uint8", *shape), _tensor("float32", len(classes_of(manifest)))
    python = manifest["versions"]["python"]
    return {
        "artifact_path": MODEL,
        "flavors": {
            "python_function": {"loader_module": "mnist_lib.api", "data": MODEL_DATA, "python_version": python}
        },
        "metadata": {"version": version.name, "weights_sha256": version.facts.weights_sha256},
        "run_id": run.info.run_id,
        "signature": {"inputs": inputs, "outputs": outputs},
        "utc_time_created": version.committed_at.replace("T", " ").removesuffix("Z"),
    }


def _tensor(dtype: str, *sides: int) -> str:
    """Return the part of a signature for a batch of arrays."""
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *sides]}}])


def _is_complete(run: "Run") -> bool:
    return run.info.status in ("FINISHED", "FAILED", "KILLED")


def _save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
