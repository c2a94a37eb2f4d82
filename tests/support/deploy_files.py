"""The files that deploy the job, read for their tests: their objects, their commands, the fields that KubeRay knows."""

import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from jobs.console.options import parse
from jobs.submit import __main__ as submit
from jobs.submit.following import SubmitOptions
from jobs.train.options import TrainOptions
from mnist_lib.store.runs import check_run_name
from mnist_lib.store.storage import check_storage, is_url

ROOT = Path(__file__).parents[2]
README = (ROOT / "docs" / "cluster.md").read_text()
DOCKERFILE = (ROOT / "cluster" / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MANIFESTS = sorted((ROOT / "cluster" / "deploy" / "kubernetes").iterdir())
LAUNCHERS = sorted((ROOT / "cluster" / "deploy" / "launcher").iterdir())
LONGEST_RAYJOB = 47  # characters, in KubeRay: what it appends must fit a Service's name
OBJECTS = {
    (made["kind"], made["metadata"]["name"]): made
    for file in MANIFESTS
    for made in yaml.safe_load_all(file.read_text())
}


def only(kind: str) -> Any:
    (found,) = [made for (kind_of_it, _), made in OBJECTS.items() if kind_of_it == kind]
    return found


CLUSTER, RAYJOB, CRON = only("RayCluster"), only("RayJob"), only("CronJob")
CRON_JOB = CRON["spec"]["jobTemplate"]["spec"]
HEAD = CLUSTER["spec"]["headGroupSpec"]
GROUPS = [HEAD, *CLUSTER["spec"]["workerGroupSpecs"]]
RAY_PODS = [group["template"] for group in GROUPS]
PODS = [*RAY_PODS, CRON_JOB["template"]]
CONTAINERS = [container for pod in PODS for container in pod["spec"]["containers"]]


def fields(required: str = "", /, **properties: Any) -> dict[str, Any]:
    """A JSON schema: an object of these and no other."""
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


TEXT, FLAG, COUNT, ANY = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
# KubeRay's reference of its fields (docs/reference/api.md of v1.6.2, read on 2026-11-25) as far as they are used: no
# package has its CRDs. Pod templates in it are Kubernetes' own and are checked as such.
GROUP = {"template": ANY, "resources": TEXTS, "labels": TEXTS, "rayStartParams": TEXTS}
CLUSTER_SCHEMA = fields(
    "headGroupSpec rayVersion",  # the second only with authOptions
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
    """The commands of a shell script, also those in its loops, without assignments and redirections."""
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
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`((?:python -m|ray|kubectl) [^\s`]+ [^`\n]+)`", README)
    texts = {"README.md": "\n".join(blocks + inline).replace(" FILE", " aws.yaml")}
    for file in LAUNCHERS:
        told = yaml.safe_load(file.read_text())
        texts[file.name] = "\n".join(
            itertools.chain.from_iterable(told[key] for key in sorted(told) if key.endswith("_commands"))
        )
    texts["Dockerfile"] = shlex.join(json.loads(instructions("CMD")[0]))
    texts["rayjob.yaml"] = RAYJOB["spec"]["entrypoint"]
    texts["cronjob.yaml"] = CRON_JOB["template"]["spec"]["containers"][0]["command"][-1]
    return {file: list(simple_commands(text)) for file, text in texts.items()}


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction of the Dockerfile."""
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def parse_train(arguments: Sequence[str]) -> TrainOptions:
    options: TrainOptions = parse("jobs.train", TrainOptions, arguments)
    assert options.trials()
    options.check()
    check_storage(options.storage)
    if options.run_name:
        check_run_name(options.run_name)
    return options


def parse_submit(arguments: Sequence[str]) -> None:
    if arguments and not arguments[0].startswith("-"):
        kind, _ = submit.COMMANDS[arguments[0]]
        parse("jobs.submit", kind, arguments[1:])
        return
    own, _, train = " ".join(arguments).partition("-- ")
    parse("jobs.submit", SubmitOptions, shlex.split(own))
    options = parse_train(shlex.split(train))
    assert is_url(options.storage) or Path(options.storage).is_absolute(), "the job's working folder is deleted"
