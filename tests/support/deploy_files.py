"""The files that deploy the job, parsed for their tests: their objects, their commands, and the schema of KubeRay."""

import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from jobs.console import exit_codes

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "cluster.md").read_text()
DOCKERFILE = (ROOT / "cluster" / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MANIFESTS = sorted((ROOT / "cluster" / "deploy" / "kubernetes").iterdir())
LAUNCHERS = sorted((ROOT / "cluster" / "deploy" / "launcher").iterdir())
MAX_RAYJOB_NAME = 47  # characters; KubeRay appends a suffix for the name of a Service
OBJECTS = {
    (made["kind"], made["metadata"]["name"]): made
    for file in MANIFESTS
    for made in yaml.safe_load_all(file.read_text())
}


def only(kind: str) -> Any:
    """Return the only object of the given kind."""
    (found,) = [made for (other, _), made in OBJECTS.items() if other == kind]
    return found


CLUSTER = only("RayCluster")
RAYJOB = only("RayJob")
CRON_JOBS = {name: made["spec"]["jobTemplate"]["spec"] for (kind, name), made in OBJECTS.items() if kind == "CronJob"}
HEAD = CLUSTER["spec"]["headGroupSpec"]
GROUPS = [HEAD, *CLUSTER["spec"]["workerGroupSpecs"]]
RAY_PODS = [group["template"] for group in GROUPS]
PODS = [*RAY_PODS, *(job["template"] for job in CRON_JOBS.values())]
CONTAINERS = [container for pod in PODS for container in pod["spec"]["containers"]]

# Exit codes that Kubernetes and systemd must not retry. They include those to retry "once", since neither scheduler can
# limit the number of retries for one exit code.
FINAL = {row.number for row in exit_codes.TABLE if row.retry != "yes"} - {exit_codes.DONE}


def fields(required: str = "", /, **properties: Any) -> dict[str, Any]:
    """Return the JSON schema of an object that has these properties and no others."""
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


TEXT, FLAG, COUNT, ANY = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
# From KubeRay's reference (docs/reference/api.md of v1.6.2, read on 2026-11-25), since no package has its CRDs. Pod
# templates are objects of Kubernetes and are validated as such.
GROUP = {"template": ANY, "resources": TEXTS, "labels": TEXTS, "rayStartParams": TEXTS}
CLUSTER_SCHEMA = fields(
    "headGroupSpec rayVersion",  # rayVersion is required by authOptions
    upgradeStrategy=ANY,
    authOptions=fields(enableK8sTokenAuth=FLAG, secretName=TEXT, mode={"enum": ["disabled", "token"]}),
    suspend=FLAG,
    managedBy=TEXT,
    autoscalerOptions=ANY,
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=ANY,
    headGroupSpec=fields("template", **GROUP, headService=ANY, enableIngress=FLAG, serviceType=TEXT),
    rayVersion=TEXT,
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            "groupName minReplicas maxReplicas template",
            **GROUP,
            suspend=FLAG,
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            idleTimeoutSeconds=COUNT,
            scaleStrategy=ANY,
            numOfHosts=COUNT,
        ),
    },
)
JOB_SCHEMA = fields(
    "rayClusterSpec",
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=COUNT,
    rayClusterSpec=CLUSTER_SCHEMA,
    submitterPodTemplate=ANY,
    metadata=TEXTS,
    clusterSelector=TEXTS,
    submitterConfig=fields(backoffLimit=COUNT),
    managedBy=TEXT,
    deletionStrategy=ANY,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypointResources=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=COUNT,
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
)


def simple_commands(script: str) -> Iterator[list[str]]:
    """Yield the commands of a shell script, including those in loops, without assignments and redirections."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        for is_operator, found in itertools.groupby(words, lambda word: set(word) <= set("&|;")):
            command = list(itertools.takewhile(lambda word: not set(word) & set("<>"), found))
            while command and (re.match(r"\w+=", command[0]) or command[0] in ("do", "export", "sudo")):
                del command[0]
            if command and not is_operator and command[0] not in ("for", "done"):
                yield command


def commands() -> dict[str, list[list[str]]]:
    """Return the commands of the guide and of each file, by the name of the file."""
    blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`((?:python -m|ray|kubectl) [^\s`]+ [^`\n]+)`", GUIDE)
    texts = {"cluster.md": "\n".join(blocks + inline).replace(" FILE", " aws.yaml")}
    for file in LAUNCHERS:
        content = yaml.safe_load(file.read_text())
        texts[file.name] = "\n".join(
            itertools.chain.from_iterable(content[key] for key in sorted(content) if key.endswith("_commands"))
        )
    texts["Dockerfile"] = shlex.join(json.loads(instructions("CMD")[0]))
    texts["rayjob.yaml"] = RAYJOB["spec"]["entrypoint"]
    for name, job in CRON_JOBS.items():
        texts[name] = shlex.join(job["template"]["spec"]["containers"][0]["command"])
    return {file: list(simple_commands(text)) for file, text in texts.items()}


def instructions(name: str) -> list[str]:
    """Return the arguments of each instruction of that name in the Dockerfile."""
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)
