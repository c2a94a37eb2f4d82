"""A schedule for Kubernetes: a CronJob that trains in its pod, or a RayCronJob that makes a cluster for each run."""

import hashlib
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cronsim import CronSim

from cluster.deploy.schedulers import COMMENT, Timer, require_portable, require_writable

CRONJOB = Path(__file__).with_name("cronjob.yaml")
RAYJOB = Path(__file__).parents[1] / "kubernetes/rayjob.yaml"
MAX_NAME_LENGTH = 52  # of a CronJob; Kubernetes appends a suffix for the name of each Job
NOTIFY = "MNIST_JOBS_NOTIFY"
STORAGE = Path("/storage")  # the only folder of the containers that outlives them, a volume in both manifests

Document = dict[str, Any]


def cronjob(timer: Timer, image: str) -> str:
    document: Document = yaml.safe_load(CRONJOB.read_text())
    spec = document["spec"]
    job = spec["jobTemplate"]["spec"]
    spec |= {"schedule": _schedule(timer.cron), "timeZone": timer.zone}
    if timer.starting_deadline is not None:
        spec["startingDeadlineSeconds"] = max(10, round(timer.starting_deadline))
    job["podFailurePolicy"]["rules"][-1]["onExitCodes"]["values"] = list(timer.final_exit_codes)
    container = job["template"]["spec"]["containers"][0]
    # Kubernetes replaces $(NAME) and turns $$ into $.
    container |= {"image": image, "command": [word.replace("$", "$$") for word in timer.command]}
    return _manifest(
        timer,
        document,
        container,
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
    head["env"] += [variable for variable in variables if variable["name"].startswith(NOTIFY)]
    spec: Document = {"schedule": _schedule(timer.cron), "jobTemplate": job}
    if timer.zone not in ("UTC", "Etc/UTC"):
        spec["timeZone"] = timer.zone
    return _manifest(
        timer,
        {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": template["metadata"], "spec": spec},
        head,
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


def _manifest(timer: Timer, document: Document, container: Document, *comments: str) -> str:
    """Return the object as YAML. If `timer.notify` is set, a Secret that holds it comes first.

    Args:
        container: the part of the document that runs the command.
    """
    require_writable("image", container["image"])
    name = _object_name(timer.name)
    document["metadata"] = {"name": name, **document["metadata"]}
    documents = [document]
    if timer.notify is not None:
        metadata = {**document["metadata"], "name": f"{name}-notify"}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"url": timer.notify}}
        documents.insert(0, secret)
        (variable,) = (variable for variable in container["env"] if variable["name"] == NOTIFY)
        variable["valueFrom"] = {"secretKeyRef": {"name": metadata["name"], "key": "url"}}
    header = f"# {timer.about}\n{COMMENT}" + "".join(f"# {line}\n" for line in comments)
    return header + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=110)


class _Dumper(yaml.SafeDumper):
    """Quotes text that begins like a number, such as 1e3 or 0o7, which YAML 1.2 reads as a number but 1.1 as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        style = '"' if re.match(r"[-+]?[0-9.]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.text)
