"""For Kubernetes: a CronJob that trains in its own pod, or KubeRay's RayCronJob, which makes a cluster for each run."""

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cronsim import CronSim

from cluster.deploy.schedulers import FINAL_EXIT_CODES, Timer, require_plain

RAYJOB = Path(__file__).parents[1] / "kubernetes/rayjob.yaml"
LABELS = {"app.kubernetes.io/part-of": "mnist-jobs"}
LONGEST_NAME = 52  # of a CronJob; its Jobs are called after it
LONGEST_RUN_SECONDS = 8 * 3600

Document = dict[str, Any]

# Who is told: a secret that may be there.
NOTIFY: list[Document] = [
    {"name": variable, "valueFrom": {"secretKeyRef": {"name": "mnist-jobs-notify", "key": key, "optional": True}}}
    for variable, key in (("MNIST_JOBS_NOTIFY", "url"), ("MNIST_JOBS_NOTIFY_SECRET", "secret"))
]


def cronjob(timer: Timer, image: str) -> str:
    pod: Document = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(timer, image)],
        "volumes": [
            {"name": "storage", "persistentVolumeClaim": {"claimName": "digits-storage"}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "home", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ],
    }
    job: Document = {
        "backoffLimit": 5,
        "activeDeadlineSeconds": LONGEST_RUN_SECONDS,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "retrain", "operator": "In", "values": FINAL_EXIT_CODES},
                },
            ]
        },
        "template": {"metadata": {"labels": LABELS}, "spec": pod},
    }
    spec: Document = {
        "schedule": _schedule(timer.cron),
        "timeZone": timer.zone,
        "concurrencyPolicy": "Forbid",
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": job},
    }
    if timer.starting_deadline is not None:
        spec["startingDeadlineSeconds"] = max(10, round(timer.starting_deadline))
    return _manifest(
        timer,
        "batch/v1",
        "CronJob",
        spec,
        "It trains in its own pod. A run that was cut off goes on in the next one, from its checkpoints; a pod that",
        "comes while the lease of the one before lasts ends with 75 and is tried again. Forbid is per CronJob; that",
        "one run of the schedule goes on at a time, wherever, and none twice, the lease and the slot's own run see to.",
    )


def raycronjob(timer: Timer, image: str) -> str:
    job: Document = yaml.safe_load(RAYJOB.read_text())["spec"]
    job["entrypoint"] = shlex.join(timer.command)
    cluster = job["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        for container in group["template"]["spec"]["containers"]:
            container["image"] = image
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["env"] = [*head["env"], *NOTIFY]
    spec: Document = {"schedule": _schedule(timer.cron), "jobTemplate": job}
    if timer.zone not in ("UTC", "Etc/UTC"):
        spec["timeZone"] = timer.zone
    return _manifest(
        timer,
        "ray.io/v1",
        "RayCronJob",
        spec,
        "It needs KubeRay with the feature gate RayCronJob, and timeZone one that has that field. A RayCronJob has",
        "no concurrency policy and no deadline, and may start a slot twice: the slot's own run and the schedule's",
        "lease, in the storage, see to it that one run goes on at a time and none twice; another start ends with 75.",
    )


def _container(timer: Timer, image: str) -> Document:
    return {
        "name": "retrain",
        "image": image,
        "command": list(timer.command),
        "env": [
            {"name": "HOME", "value": "/home/ray"},
            {"name": "TFDS_DATA_DIR", "value": "/storage/tensorflow_datasets"},
            *NOTIFY,
        ],
        "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "storage", "mountPath": "/storage"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "home", "mountPath": "/home/ray"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }


def _schedule(cron: str) -> str:
    """As Kubernetes' parser has it, for which Sunday is 0 only."""
    require_plain(cron, "Kubernetes")
    *others, weekdays = cron.split()
    if "7" in weekdays:
        days = CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)).weekdays
        weekdays = ",".join(map(str, sorted({day % 7 for day in days if isinstance(day, int)})))
    return " ".join([*others, weekdays])


def _manifest(timer: Timer, api: str, kind: str, spec: Document, *comments: str) -> str:
    name = re.sub("[^a-z0-9]+", "-", f"mnist-{timer.name}".lower())[:LONGEST_NAME].strip("-")
    document = {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": LABELS}, "spec": spec}
    told = "".join(f"# {line}\n" for line in (timer.about, *comments))
    return told + yaml.dump(document, Dumper=_Plain, sort_keys=False, width=110)


class _Plain(yaml.SafeDumper):
    """Writes again what is used twice, in place of an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
