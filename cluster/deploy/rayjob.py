"""`python -m cluster.deploy.rayjob MANIFEST COMMAND`: what the CronJob's pod does between Kubernetes and the run's log.

It makes the RayJob of its Job, waits until that has begun, then becomes `jobs.submit logs`, which exits as the run did.

A RayJob that is there already is that of an earlier pod of this Job: one that goes on is followed, one that failed is
replaced.
"""

import argparse
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

API = "https://kubernetes.default.svc"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POLL_SECONDS = 5.0
SILENT_SECONDS = 300.0  # Kubernetes may be upgraded meanwhile
DONE, USAGE, RESOURCES, CLUSTER = 0, 2, 4, 8  # as in jobs/exits.py
MADE, MISSING, REFUSALS = 201, 404, (400, 401, 403, 404, 422)  # of HTTP

Document = dict[str, Any]


def rayjob_of(run: str, uid: str, manifest: Path, command: str) -> Document:
    """That of the manifest, with this run's name and command. It goes when its Job goes.

    Args:
        run: the Job's name; uid: the Job's own.
        manifest: YAML, a RayJob.
        command: of a shell; the run's name is added.
    """
    job: Document = yaml.safe_load(manifest.read_text())
    job["metadata"]["name"] = f"{run}-ray"  # not the Job's own: KubeRay may make a Job of the RayJob's name
    job["metadata"]["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", "name": run, "uid": uid}]
    job["spec"]["entrypoint"] = f"{command} --run-name {run}"
    job["spec"]["backoffLimit"] = 0  # the Job's own policy decides, by the exit code
    return job


def see_through(job: Document, run: str) -> int:
    """Makes the RayJob where it is missing, and waits until it has begun; then another process takes this one's place.

    Returns:
        An exit code, if it does not come to that.
    """
    name, ours, told, answered_at = job["metadata"]["name"], False, "", time.monotonic()
    while time.monotonic() - answered_at < SILENT_SECONDS:
        code, found = _find_or_make(name, job)
        ours = ours or code == MADE
        if code in REFUSALS:
            return _end(USAGE, f"the RayJob {name} was refused: {found.get('message', code)}")
        if 200 <= code < 300:  # else it is no RayJob, but why there is none
            state = found.get("status", {}).get("jobDeploymentStatus") or "not begun"
            if state != told:
                print(f"the RayJob {name}: {state}", file=sys.stderr, flush=True)
                told = state
            exit_code = _act_on(found, name, run, ours=ours)
            if exit_code is not None:
                return exit_code
            ours = ours or _goes_on(found)
        if 200 <= code < 500:
            answered_at = time.monotonic()
        time.sleep(POLL_SECONDS)
    return _end(CLUSTER, f"Kubernetes has not answered for {SILENT_SECONDS:.0f} s")


def _find_or_make(name: str, job: Document) -> tuple[int, Document]:
    code, found = _ask("GET", name)
    if code == MISSING:
        code, found = _ask("POST", body=job)
        if code == MISSING:
            found = {"message": "Kubernetes knows no RayJobs; is KubeRay installed?"}
    return code, found


def _act_on(found: Document, name: str, run: str, *, ours: bool) -> int | None:
    """Follows the RayJob if it has begun, deletes it if it failed under an earlier pod.

    Returns:
        An exit code, or None while there is something to wait for.
    """
    status = found.get("status", {})
    if status.get("jobDeploymentStatus") == "ValidationFailed":
        return _end(USAGE, f"KubeRay refuses the RayJob {name}: {status.get('message')}")
    if _is_being_deleted(found):
        return None
    began = status.get("jobStatus")
    if began == "SUCCEEDED" and not ours:
        print(f"run {run} was completed by an earlier pod")
        return DONE
    if _has_ended(found) and not ours:
        _ask("DELETE", name)
    elif began and status.get("dashboardURL"):
        _become_the_log(status["jobId"], f"http://{status['dashboardURL']}")
    elif _has_ended(found):
        return _end(RESOURCES, f"the RayJob {name} failed before its job began: {status.get('message')}")
    return None


def _goes_on(found: Document) -> bool:
    return not _is_being_deleted(found) and not _has_ended(found)


def _is_being_deleted(found: Document) -> bool:
    return "deletionTimestamp" in found["metadata"]


def _has_ended(found: Document) -> bool:
    return found.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed")


def _become_the_log(job: str, address: str) -> NoReturn:
    sys.stdout.flush()
    os.execv(sys.executable, ["python", "-m", "jobs.submit", "logs", job, "--follow", "--address", address])


def _end(exit_code: int, why: str) -> int:
    print(why, file=sys.stderr)
    return exit_code


def _ask(method: str, name: str = "", body: Document | None = None) -> tuple[int, Document]:
    """-> HTTP status and document; 0 if there is no answer."""
    namespace, token = ((ACCOUNT / file).read_text() for file in ("namespace", "token"))
    place = f"{API}/apis/ray.io/v1/namespaces/{namespace}/rayjobs/{name}".rstrip("/")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(place, data, headers, method=method)
    trusted = ssl.create_default_context(cafile=ACCOUNT / "ca.crt") if API.startswith("https:") else None
    try:
        with urllib.request.urlopen(request, timeout=30, context=trusted) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            return error.code, json.load(error)
        except ValueError:
            return error.code, {}
    except (OSError, ValueError):
        return 0, {}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.deploy.rayjob",
        description=__doc__,
        epilog="RUN and JOB_UID in the environment are the Job's name and uid.",
    )
    parser.add_argument("manifest", type=Path, help="the RayJob, whose name and command are replaced")
    parser.add_argument("command", help="what it runs, as one argument; --run-name is added")
    given = parser.parse_args(arguments)
    run = os.environ["RUN"]
    return see_through(rayjob_of(run, os.environ["JOB_UID"], given.manifest, given.command), run)


if __name__ == "__main__":
    sys.exit(main())
