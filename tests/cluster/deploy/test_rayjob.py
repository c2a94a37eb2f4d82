"""What the CronJob's pod does, against a small fake of Kubernetes' API server."""

import json
import shlex
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from cluster.deploy import rayjob
from jobs.console import exit_codes
from tests.support.deploy_files import CRON, CRON_JOB, JOB_SCHEMA, LONGEST_RAYJOB, RAYJOB, parse_submit, parse_train


class Kubernetes(ThreadingHTTPServer):
    """An API server that knows RayJobs and nothing else. Each look at one takes the next of its states."""

    def __init__(self, *, there: Mapping[str, Any] | None = None, then: Sequence[Mapping[str, Any]] = ()) -> None:
        self.job: Any = {"metadata": {}, "status": dict(there)} if there is not None else None
        self.then = list(then)
        self.refuses = 0
        self.asked: list[tuple[str, str]] = []
        self.created: list[Any] = []
        super().__init__(("127.0.0.1", 0), _Answers)


class _Answers(BaseHTTPRequestHandler):
    server: Kubernetes

    def do_GET(self) -> None:
        job = self.server.job
        if job is not None and self.server.created and self.server.then:
            job["status"] = self.server.then.pop(0)
        self._answer(404 if job is None else 200, job or {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refuses:
            self._answer(self.server.refuses, {"kind": "Status", "status": "Failure", "message": "no"})
            return
        self.server.created.append(body)
        self.server.job = {**body, "status": {}}
        self._answer(201, self.server.job)

    def do_DELETE(self) -> None:
        self.server.job = None
        self._answer(200, {})

    def _answer(self, code: int, document: Any) -> None:
        self.server.asked.append((self.command, self.path))
        if len(self.server.asked) > 50:  # it goes round in circles: silence ends it
            code = 500
        assert self.headers["Authorization"] == "Bearer secret"
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class BeganError(Exception):
    """In the place of the process that the pod's becomes."""


RUNS = {"jobStatus": "RUNNING", "jobDeploymentStatus": "Running", "jobId": "x-1", "dashboardURL": "head:8265"}
FAILED = {**RUNS, "jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}
(CONTAINER,) = CRON_JOB["template"]["spec"]["containers"]
RUN = f"{CRON['metadata']['name']}-29401234"  # as a CronJob names its Jobs: by the minute


def start(kubernetes: Kubernetes | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Does what the pod does, with its command -> the exit code. Raises BeganError with the command that it becomes."""

    def become(_: str, command: list[str]) -> None:
        raise BeganError(*command)

    for name, text in (("token", "secret"), ("namespace", "night"), ("rayjob.yaml", yaml.safe_dump(RAYJOB))):
        (folder / name).write_text(text)
    *module, manifest, command = CONTAINER["command"]
    assert module == ["python", "-m", "cluster.deploy.rayjob"]
    arguments = [str(folder / Path(manifest).name), command]
    # Where nobody listens, if there is no Kubernetes.
    api = f"http://127.0.0.1:{kubernetes.server_port if kubernetes else 9}"
    for name, value in (("API", api), ("ACCOUNT", folder), ("POLL_SECONDS", 0.01), ("SILENT_SECONDS", 0.2)):
        monkeypatch.setattr(rayjob, name, value)
    monkeypatch.setattr("os.execv", become)
    monkeypatch.setenv("RUN", RUN)
    monkeypatch.setenv("JOB_UID", "uid-1")
    if kubernetes is None:
        return rayjob.main(arguments)
    threading.Thread(target=kubernetes.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        return rayjob.main(arguments)
    finally:
        kubernetes.shutdown()
        kubernetes.server_close()


def test_the_pod_reads_the_rayjob_where_it_is_mounted() -> None:
    (place,) = [mount["mountPath"] for mount in CONTAINER["volumeMounts"] if mount["name"] == "retrain"]
    assert CONTAINER["command"][-2] == f"{place}/rayjob.yaml"


def test_a_job_of_the_cronjob_makes_a_rayjob_of_its_own_and_becomes_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = Kubernetes(then=[{}, {"jobDeploymentStatus": "Initializing"}, RUNS])
    with pytest.raises(BeganError) as began:
        start(kubernetes, tmp_path, monkeypatch)
    (made,) = kubernetes.created
    jsonschema.validate(made["spec"], JOB_SCHEMA)
    assert made["spec"]["rayClusterSpec"] == RAYJOB["spec"]["rayClusterSpec"]
    assert made["spec"]["backoffLimit"] == 0
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": RUN, "uid": "uid-1"}
    ]
    assert made["metadata"]["name"] != RUN, "KubeRay could take the Job for its own"
    assert len(made["metadata"]["name"]) <= LONGEST_RAYJOB
    assert parse_train(shlex.split(made["spec"]["entrypoint"])[3:]).run_name == RUN
    assert {path.rpartition("/rayjobs")[0] for _, path in kubernetes.asked} == {"/apis/ray.io/v1/namespaces/night"}
    python, minus_m, module, *arguments = began.value.args
    assert (python, minus_m, module) == ("python", "-m", "jobs.submit")
    parse_submit(arguments)
    assert arguments == ["logs", "x-1", "--follow", "--address", "http://head:8265"]


def test_a_rayjob_that_goes_on_is_followed_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes = Kubernetes(there=RUNS)
    with pytest.raises(BeganError):
        start(kubernetes, tmp_path, monkeypatch)
    assert {method for method, _ in kubernetes.asked} == {"GET"}


def test_a_rayjob_that_failed_under_an_earlier_pod_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes = Kubernetes(there=FAILED, then=[RUNS])
    with pytest.raises(BeganError):
        start(kubernetes, tmp_path, monkeypatch)
    assert [method for method, _ in kubernetes.asked if method != "GET"] == ["DELETE", "POST"]


def test_a_rayjob_that_fails_at_once_is_read_for_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BeganError):
        start(Kubernetes(then=[FAILED]), tmp_path, monkeypatch)


def test_a_run_that_an_earlier_pod_saw_through_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes = Kubernetes(there={**RUNS, "jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"})
    assert start(kubernetes, tmp_path, monkeypatch) == exit_codes.DONE
    assert not kubernetes.created


def test_a_cluster_that_does_not_come_up_is_a_lack_of_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = Kubernetes(then=[{"jobDeploymentStatus": "Failed", "message": "no node"}])
    assert start(kubernetes, tmp_path, monkeypatch) == exit_codes.EXIT_CODE_OF["E-RESOURCES"]


@pytest.mark.parametrize("code", [403, 404, 422])
def test_a_rayjob_that_is_refused_is_not_tried_again(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = Kubernetes()
    kubernetes.refuses = code
    assert start(kubernetes, tmp_path, monkeypatch) == exit_codes.EXIT_CODE_OF["E-USAGE"]


def test_a_kubernetes_that_only_answers_with_errors_of_its_own_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = Kubernetes()
    kubernetes.refuses = 500
    assert start(kubernetes, tmp_path, monkeypatch) == exit_codes.EXIT_CODE_OF["E-CLUSTER"]


def test_a_kubernetes_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start(None, tmp_path, monkeypatch) == exit_codes.EXIT_CODE_OF["E-CLUSTER"]
