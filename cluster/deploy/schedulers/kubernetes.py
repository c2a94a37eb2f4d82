"""A schedule for Kubernetes: a CronJob that trains in its pod, or a RayCronJob that makes a cluster for each run."""

import hashlib
import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cronsim import CronSim

from cluster.deploy.schedulers import COMMENT, Timer, require_portable

CRONJOB = Path(__file__).with_name("cronjob.yaml")
RAYJOB = Path(__file__).parents[1] / "kubernetes/rayjob.yaml"
MAX_NAME_LENGTH = 52  # of a CronJob; Kubernetes appends a suffix for the name of each Job

Document = dict[str, Any]


def cronjob(timer: Timer, image: str) -> str:
    document: Document = yaml.safe_load(CRONJOB.read_text())
    spec = document["spec"]
    job = spec["jobTemplate"]["spec"]
    spec |= {"schedule": _schedule(timer.cron), "timeZone": timer.zone}
    if timer.starting_deadline is not None:
        spec["startingDeadlineSeconds"] = max(10, round(timer.starting_deadline))
    job["podFailurePolicy"]["rules"][-1]["onExitCodes"]["values"] = list(timer.final_exit_codes)
    job["template"]["spec"]["containers"][0] |= {"image": image, "command": list(timer.command)}
    return _manifest(
        timer,
        document,
        "It trains in its own pod. After an interruption the next pod resumes the run from its checkpoints. Until the",
        "lease of the previous pod has expired, the new pod ends with 75 and is retried.",
    )


def raycronjob(timer: Timer, image: str) -> str:
    job: Document = yaml.safe_load(RAYJOB.read_text())["spec"]
    template: Document = yaml.safe_load(CRONJOB.read_text())
    job["entrypoint"] = shlex.join(timer.command)
    cluster = job["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        for container in group["template"]["spec"]["containers"]:
            container["image"] = image
    variables = template["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["env"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["env"] += [variable for variable in variables if variable["name"].startswith("MNIST_JOBS_NOTIFY")]
    spec: Document = {"schedule": _schedule(timer.cron), "jobTemplate": job}
    if timer.zone not in ("UTC", "Etc/UTC"):
        spec["timeZone"] = timer.zone
    return _manifest(
        timer,
        {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": template["metadata"], "spec": spec},
        "It needs KubeRay with the feature gate RayCronJob; older versions have no field timeZone. A RayCronJob has",
        "no concurrency policy and no starting deadline, and may start a slot twice: the second start ends with 75.",
    )


def _schedule(cron: str) -> str:
    """Return the timetable with Sunday as 0, since Kubernetes does not understand 7."""
    require_portable(cron, "Kubernetes")
    *others, weekdays = cron.split()
    if "7" in weekdays:
        days = CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)).weekdays
        weekdays = ",".join(map(str, sorted({day % 7 for day in days if isinstance(day, int)})))
    return " ".join([*others, weekdays])


def _object_name(schedule: str) -> str:
    """Return a name that Kubernetes accepts. A hash distinguishes schedules whose names would become the same."""
    name = f"mnist-{schedule}"
    if re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) <= MAX_NAME_LENGTH:
        return name
    suffix = "-" + hashlib.sha256(schedule.encode()).hexdigest()[:6]
    return re.sub("[^a-z0-9]+", "-", name.lower())[: MAX_NAME_LENGTH - len(suffix)].strip("-") + suffix


def _manifest(timer: Timer, document: Document, *comments: str) -> str:
    document["metadata"] = {"name": _object_name(timer.name), **document["metadata"]}
    header = f"# {timer.about}\n{COMMENT}" + "".join(f"# {line}\n" for line in comments)
    without_shared_values = json.loads(json.dumps(document))  # or YAML would write them as aliases
    return header + yaml.safe_dump(without_shared_values, sort_keys=False, width=110)
