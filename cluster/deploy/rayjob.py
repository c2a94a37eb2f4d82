"""`python -m cluster.deploy.rayjob MANIFEST COMMAND`: the program of the CronJob's pod.

It creates the RayJob of its Job, prints the log of the run and exits with the exit code of the run, which a RayJob does
not show. After an exit code that deserves exactly one retry, it replaces the RayJob with a second one with a new run
name. Kubernetes itself cannot do this: a podFailurePolicy cannot limit the retries for a single exit code.

A RayJob that exists already was created by an earlier pod of this Job. If it is running, it is followed; if it failed,
it is replaced.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests
import yaml

from cluster.deadlines import KUBERNETES_REQUEST_SECONDS, KUBERNETES_SILENCE_SECONDS

API = "https://kubernetes.default.svc"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POLL_SECONDS = 5.0
# Exit codes. A test checks that they mean the same as in jobs/console/exit_codes.py.
DONE, USAGE, RESOURCES, CLUSTER = 0, 2, 4, 8
RETRY_ONCE = (5, 9)
CREATED, NOT_FOUND, REFUSALS = 201, 404, (400, 401, 403, 404, 422)  # HTTP

Document = dict[str, Any]


def rayjob_of(run: str, uid: str, manifest: Path) -> Document:
    """Return the RayJob in a YAML file, named after the Job `run`, which owns it: deleting the Job deletes it."""
    job: Document = yaml.safe_load(manifest.read_text())
    job["metadata"]["name"] = f"{run}-ray"  # not the Job's name, which KubeRay may use for a Job of its own
    job["metadata"]["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", "name": run, "uid": uid}]
    job["spec"]["backoffLimit"] = 0  # the Job's podFailurePolicy decides, by the exit code
    return job


class RunFollower:
    """Creates and follows the RayJob of a run, and of at most one retry (`run`-2), until the exit code is known."""

    def __init__(self, rayjob: Document, run: str, command: str) -> None:
        self._rayjob, self._name = rayjob, rayjob["metadata"]["name"]
        self._runs = (run, f"{run}-2")
        self._entrypoints = [f"{command} --run-name {shlex.quote(name)}" for name in self._runs]
        self._attempt = 0  # index of the current run
        self._is_ours = False  # whether this pod has created the RayJob or seen it running
        self._state = ""

    def follow(self) -> int:
        """Return the exit code of the run, or that of the error that made this program give up."""
        answered_at = time.monotonic()
        while time.monotonic() - answered_at < KUBERNETES_SILENCE_SECONDS:
            status, found = self._find_or_create()
            if status in REFUSALS:
                return _fail(USAGE, f"the RayJob {self._name} was refused: {found.get('message', status)}")
            if 200 <= status < 300:
                exit_code = self._advance(found)
                if exit_code is not None:
                    return exit_code
            if 200 <= status < 500:
                answered_at = time.monotonic()
            time.sleep(POLL_SECONDS)
        return _fail(CLUSTER, f"Kubernetes has not answered for {KUBERNETES_SILENCE_SECONDS:.0f} s")

    def _find_or_create(self) -> tuple[int, Document]:
        status, found = _request("GET", self._name)
        if status == NOT_FOUND:
            self._rayjob["spec"]["entrypoint"] = self._entrypoints[self._attempt]
            status, found = _request("POST", body=self._rayjob)
            self._is_ours = status == CREATED
            if status == NOT_FOUND:
                found = {"message": "Kubernetes knows no RayJobs; is KubeRay installed?"}
        return status, found

    def _advance(self, found: Document) -> int | None:
        """Follow or delete the RayJob, depending on its state; return the exit code, or None to look again."""
        status = found.get("status", {})
        state, job_status = status.get("jobDeploymentStatus"), status.get("jobStatus")
        if state and state != self._state:
            self._state = state
            print(f"the RayJob {self._name}: {state}", file=sys.stderr)
        if state == "ValidationFailed":
            return _fail(USAGE, f"KubeRay refuses the RayJob {self._name}: {status.get('message')}")
        if "deletionTimestamp" in found["metadata"]:
            return None
        attempt = int(found["spec"]["entrypoint"] == self._entrypoints[1])
        has_ended = state in ("Complete", "Failed")
        if job_status == "SUCCEEDED" and not self._is_ours:
            print(f"run {self._runs[attempt]} was completed under an earlier pod", file=sys.stderr)
            return DONE
        if attempt < self._attempt or (has_ended and not self._is_ours):
            self._attempt = max(attempt, self._attempt)
            _request("DELETE", self._name)
            return None
        self._attempt, self._is_ours = attempt, True
        if job_status and status.get("dashboardURL"):
            return self._end_or_retry(_follow_log(status["jobId"], f"http://{status['dashboardURL']}"))
        if has_ended:
            return _fail(RESOURCES, f"the RayJob {self._name} failed before its job began: {status.get('message')}")
        return None

    def _end_or_retry(self, exit_code: int) -> int | None:
        if exit_code not in RETRY_ONCE or self._attempt:
            return exit_code
        first, second = self._runs
        print(f"run {first} ended with exit code {exit_code}; trying once more, as run {second}", file=sys.stderr)
        self._attempt = 1
        _request("DELETE", self._name)
        return None


def log_command(job: str, address: str) -> list[str]:
    """Return the command that prints the log of a job to its end, and exits with its exit code."""
    return [sys.executable, "-m", "jobs.submit", "logs", job, "--follow", "--address", address]


def _follow_log(job: str, address: str) -> int:
    child = subprocess.Popen(log_command(job, address))
    before = signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    try:
        code = child.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code


def _fail(exit_code: int, why: str) -> int:
    print(why, file=sys.stderr)
    return exit_code


def _request(method: str, name: str = "", body: Document | None = None) -> tuple[int, Document]:
    """Return the HTTP status and the document of the answer; status 0 means no answer."""
    namespace, token = ((ACCOUNT / file).read_text() for file in ("namespace", "token"))
    try:
        answer = requests.request(
            method,
            f"{API}/apis/ray.io/v1/namespaces/{namespace}/rayjobs/{name}".rstrip("/"),
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            verify=str(ACCOUNT / "ca.crt"),
            timeout=KUBERNETES_REQUEST_SECONDS,
        )
    except OSError:
        return 0, {}
    try:
        return answer.status_code, answer.json()
    except ValueError:
        return 0 if answer.ok else answer.status_code, {}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.deploy.rayjob",
        description=__doc__,
        epilog="The environment variables RUN and JOB_UID hold the name and the uid of the Job.",
    )
    parser.add_argument("manifest", type=Path, help="YAML file with the RayJob, whose name and command are replaced")
    parser.add_argument("command", help="command of the run, as one argument; --run-name is added to it")
    given = parser.parse_args(arguments)
    run = os.environ["RUN"]
    return RunFollower(rayjob_of(run, os.environ["JOB_UID"], given.manifest), run, given.command).follow()


if __name__ == "__main__":
    # The first process of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
