"""The program of the CronJob's pod, with a fake of Kubernetes' API server and with real processes for the log."""

import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from cluster.deploy import rayjob
from jobs.console import exit_codes
from tests.support.deploy_files import CRON, CRON_JOB, JOB_SCHEMA, MAX_RAYJOB_NAME, RAYJOB, parse_submit, parse_train

(CONTAINER,) = CRON_JOB["template"]["spec"]["containers"]
*MODULE, MANIFEST, COMMAND = CONTAINER["command"]
RUN = f"{CRON['metadata']['name']}-29401234"  # as a CronJob names its Jobs: by the minute
RUNS = {"jobStatus": "RUNNING", "jobDeploymentStatus": "Running", "jobId": "x-1", "dashboardURL": "head:8265"}
FAILED = {**RUNS, "jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}


class Kubernetes(ThreadingHTTPServer):
    """An API server that knows only RayJobs. Each GET of one that was created moves it to the next state."""

    def __init__(
        self,
        *,
        there: Mapping[str, Any] | None = None,
        then: Sequence[Mapping[str, Any]] = (),
        second: bool = False,
    ) -> None:
        self.job: Any = None
        if there is not None:
            spec = {"entrypoint": f"{COMMAND} --run-name {RUN}{'-2' if second else ''}"}
            self.job = {"metadata": {}, "spec": spec, "status": dict(there)}
        self.then = list(then)
        self.refusal = 0
        self.lost_deletions = 0  # how many of the next deletions fail
        self.requests: list[tuple[str, str]] = []
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
        if self.server.refusal:
            self._answer(self.server.refusal, {"kind": "Status", "status": "Failure", "message": "no"})
            return
        self.server.created.append(body)
        self.server.job = {**body, "status": {}}
        self._answer(201, self.server.job)

    def do_DELETE(self) -> None:
        if self.server.lost_deletions:
            self.server.lost_deletions -= 1
            self._answer(500, {})
            return
        self.server.job = None
        self._answer(200, {})

    def _answer(self, code: int, document: Any) -> None:
        self.server.requests.append((self.command, self.path))
        if len(self.server.requests) > 50:  # the program is in an endless loop: errors end it
            code = 500
        assert self.headers["Authorization"] == "Bearer secret"
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Pod:
    """Runs the program with the CronJob's command. A process of the test replaces the command that follows the log.

    Args:
        exit_codes: the exit code of the run for each call of the log command, in order.
        program: Python code of the log command, which gets the exit code as an argument.
    """

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *exit_codes: int,
        program: str = "import sys; sys.exit(int(sys.argv[1]))",
    ) -> None:
        self.followed: list[tuple[str, str]] = []  # job, address
        self._folder, self._codes, self._program = folder, list(exit_codes), program
        for name, text in (("token", "secret"), ("namespace", "night"), ("rayjob.yaml", yaml.safe_dump(RAYJOB))):
            (folder / name).write_text(text)
        settings = {"ACCOUNT": folder, "POLL_SECONDS": 0.01, "KUBERNETES_SILENCE_SECONDS": 0.2}
        for name, value in settings.items():
            monkeypatch.setattr(rayjob, name, value)
        monkeypatch.setattr(rayjob, "log_command", self._log_command)
        monkeypatch.setenv("RUN", RUN)
        monkeypatch.setenv("JOB_UID", "uid-1")
        self._monkeypatch = monkeypatch

    def _log_command(self, job: str, address: str) -> list[str]:
        self.followed.append((job, address))
        return [sys.executable, "-c", self._program, str(self._codes.pop(0))]

    def run(self, kubernetes: Kubernetes | None) -> int:
        """Return the exit code of the pod. With None, nothing listens at the address of Kubernetes."""
        arguments = [str(self._folder / Path(MANIFEST).name), COMMAND]
        port = kubernetes.server_port if kubernetes else 9
        self._monkeypatch.setattr(rayjob, "API", f"http://127.0.0.1:{port}")
        if kubernetes is None:
            return rayjob.main(arguments)
        threading.Thread(target=kubernetes.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            return rayjob.main(arguments)
        finally:
            kubernetes.shutdown()
            kubernetes.server_close()


def changes(kubernetes: Kubernetes) -> list[str]:
    return [method for method, _ in kubernetes.requests if method != "GET"]


def runs(kubernetes: Kubernetes) -> list[str]:
    """Return the names of the runs of the RayJobs that were created."""
    return [made["spec"]["entrypoint"].rpartition(" ")[2] for made in kubernetes.created]


def test_the_pod_reads_the_rayjob_where_it_is_mounted() -> None:
    (path,) = [mount["mountPath"] for mount in CONTAINER["volumeMounts"] if mount["name"] == "retrain"]
    assert f"{path}/rayjob.yaml" == MANIFEST
    assert MODULE == ["python", "-m", "cluster.deploy.rayjob"]


def test_the_pod_creates_a_rayjob_of_its_own_and_follows_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes, pod = (
        Kubernetes(then=[{}, {"jobDeploymentStatus": "Initializing"}, RUNS]),
        Pod(tmp_path, monkeypatch, 0),
    )
    assert pod.run(kubernetes) == exit_codes.DONE
    (made,) = kubernetes.created
    jsonschema.validate(made["spec"], JOB_SCHEMA)
    assert made["spec"]["rayClusterSpec"] == RAYJOB["spec"]["rayClusterSpec"]
    assert made["spec"]["backoffLimit"] == 0
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": RUN, "uid": "uid-1"}
    ]
    assert made["metadata"]["name"] != RUN, "KubeRay could take the Job for its own"
    assert len(made["metadata"]["name"]) <= MAX_RAYJOB_NAME
    assert parse_train(shlex.split(made["spec"]["entrypoint"])[3:]).run_name == RUN
    assert {path.rpartition("/rayjobs")[0] for _, path in kubernetes.requests} == {"/apis/ray.io/v1/namespaces/night"}
    assert pod.followed == [("x-1", "http://head:8265")]


def test_jobs_submit_follows_the_log() -> None:
    python, minus_m, module, *arguments = rayjob.log_command("x-1", "http://head:8265")
    assert (python, minus_m, module) == (sys.executable, "-m", "jobs.submit")
    parse_submit(arguments)
    assert arguments == ["logs", "x-1", "--follow", "--address", "http://head:8265"]


def test_a_running_rayjob_is_followed_and_not_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes, pod = Kubernetes(there=RUNS), Pod(tmp_path, monkeypatch, 0)
    assert pod.run(kubernetes) == exit_codes.DONE
    assert len(pod.followed) == 1
    assert not changes(kubernetes)


def test_a_rayjob_that_failed_under_an_earlier_pod_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes = Kubernetes(there=FAILED, then=[RUNS])
    assert Pod(tmp_path, monkeypatch, 0).run(kubernetes) == exit_codes.DONE
    assert changes(kubernetes) == ["DELETE", "POST"]
    assert runs(kubernetes) == [RUN]


def test_a_rayjob_of_this_pod_that_has_failed_is_followed_for_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = Pod(tmp_path, monkeypatch, 3)
    assert pod.run(Kubernetes(then=[FAILED])) == 3
    assert len(pod.followed) == 1


def test_a_run_that_was_completed_under_an_earlier_pod_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes = Kubernetes(there={**RUNS, "jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"})
    assert Pod(tmp_path, monkeypatch).run(kubernetes) == exit_codes.DONE
    assert not kubernetes.created


@pytest.mark.parametrize("last", [0, 1, 3, 5, 9])
@pytest.mark.parametrize("first", rayjob.RETRY_ONCE)
def test_a_code_that_is_retried_once_is_followed_by_one_more_run(
    first: int, last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes, pod = Kubernetes(then=[RUNS, RUNS]), Pod(tmp_path, monkeypatch, first, last)
    assert pod.run(kubernetes) == last
    assert changes(kubernetes) == ["POST", "DELETE", "POST"]
    assert runs(kubernetes) == [RUN, f"{RUN}-2"]
    assert parse_train(shlex.split(kubernetes.created[1]["spec"]["entrypoint"])[3:]).run_name == f"{RUN}-2"
    assert kubernetes.created[0]["metadata"] == kubernetes.created[1]["metadata"]


@pytest.mark.parametrize("code", [row.number for row in exit_codes.TABLE if row.retry != "once"])
def test_a_code_that_is_not_retried_once_ends_the_pod(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = Kubernetes(then=[RUNS])
    assert Pod(tmp_path, monkeypatch, code).run(kubernetes) == code
    assert changes(kubernetes) == ["POST"]


def test_the_pod_exits_with_137_if_the_log_command_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert Pod(tmp_path, monkeypatch, 0, program=killed).run(Kubernetes(then=[RUNS])) == 137


@pytest.mark.parametrize("code", rayjob.RETRY_ONCE)
def test_a_second_rayjob_of_an_earlier_pod_is_not_followed_by_a_third(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = Kubernetes(there=RUNS, second=True)
    assert Pod(tmp_path, monkeypatch, code).run(kubernetes) == code
    assert not changes(kubernetes)


def test_a_second_rayjob_that_failed_under_an_earlier_pod_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = Kubernetes(there=FAILED, then=[RUNS], second=True)
    assert Pod(tmp_path, monkeypatch, 5).run(kubernetes) == 5
    assert runs(kubernetes) == [f"{RUN}-2"]


def test_a_failed_deletion_of_the_first_rayjob_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes, pod = Kubernetes(then=[RUNS, RUNS, RUNS]), Pod(tmp_path, monkeypatch, 5, 0)
    kubernetes.lost_deletions = 1
    assert pod.run(kubernetes) == exit_codes.DONE
    assert changes(kubernetes) == ["POST", "DELETE", "DELETE", "POST"]
    assert len(pod.followed) == 2


FORWARDS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
pathlib.Path("{ready}").touch()
time.sleep(60)
"""


def test_a_sigterm_is_forwarded_to_the_log_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = tmp_path / "ready"

    def terminate() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    pod = Pod(tmp_path, monkeypatch, 0, program=FORWARDS.format(ready=ready))
    assert pod.run(Kubernetes(then=[RUNS])) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_cluster_that_does_not_start_counts_as_a_lack_of_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = Kubernetes(then=[{"jobDeploymentStatus": "Failed", "message": "no node"}])
    assert Pod(tmp_path, monkeypatch).run(kubernetes) == exit_codes.exit_code_of("E-RESOURCES")


@pytest.mark.parametrize("code", [403, 404, 422])
def test_a_refused_rayjob_is_a_usage_error(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes = Kubernetes()
    kubernetes.refusal = code
    assert Pod(tmp_path, monkeypatch).run(kubernetes) == exit_codes.exit_code_of("E-USAGE")


def test_the_pod_ends_when_kubernetes_only_answers_with_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes = Kubernetes()
    kubernetes.refusal = 500
    assert Pod(tmp_path, monkeypatch).run(kubernetes) == exit_codes.exit_code_of("E-CLUSTER")


def test_the_pod_ends_when_kubernetes_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Pod(tmp_path, monkeypatch).run(None) == exit_codes.exit_code_of("E-CLUSTER")
