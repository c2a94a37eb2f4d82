"""The files that deploy the job are held to reality: published schemas, real parsers, the files they name, each other.

None of them is run here: there is no Docker, no Kubernetes, no cloud. Only start.py of the CronJob is, against a small
fake of an API server.
"""

import copy
import itertools
import json
import re
import shlex
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import ray
import yaml
from ray._private import ray_constants
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS
from ray.scripts.scripts import cli as ray_cli

from cluster import job_client, local
from jobs import exits, submit
from jobs.command_line import parse
from jobs.doctor import DoctorOptions
from jobs.models import COMMANDS as MODELS_COMMANDS
from jobs.options import TrainOptions
from jobs.submit_options import SubmitOptions
from mnist_lib.store.runs import check_run_name
from mnist_lib.store.storage import check_storage, is_url

ROOT = Path(__file__).parents[2]
README = (ROOT / "cluster" / "README.md").read_text()
DOCKERFILE = (ROOT / "cluster" / "Dockerfile").read_text().replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MANIFESTS = sorted((ROOT / "cluster" / "kubernetes").iterdir())
LAUNCHERS = sorted((ROOT / "cluster" / "launcher").iterdir())
KUBERNETES = ("1.31", kubernetes_validate.latest_version())  # podFailurePolicy is stable as of the first
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
SCRIPT = OBJECTS["ConfigMap", "digits-retrain"]["data"]["start.py"]
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


# Schemas


@pytest.mark.parametrize("made", [made for (kind, _), made in OBJECTS.items() if not kind.startswith("Ray")])
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_of_kubernetes_own_kinds_is_as_it_has_published_them(version: str, made: Any) -> None:
    kubernetes_validate.validate(made, version, strict=True)


@pytest.mark.parametrize("template", RAY_PODS)
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_pod_template_of_a_cluster_is_one(version: str, template: Any) -> None:
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": template}
    kubernetes_validate.validate(pod, version, strict=True)


def test_a_misspelt_field_deep_in_a_pod_is_found() -> None:
    wrong = copy.deepcopy(CRON)
    wrong["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


def test_the_cluster_and_the_job_have_only_fields_that_kuberay_knows() -> None:
    for made, schema in ((CLUSTER, CLUSTER_SCHEMA), (RAYJOB, JOB_SCHEMA)):
        assert made["apiVersion"] == "ray.io/v1"
        jsonschema.validate(made["spec"], schema)


def test_the_job_is_one_that_kuberay_accepts() -> None:
    """Rules of its `ValidateRayJobSpec` that no schema tells."""
    spec = RAYJOB["spec"]
    assert re.fullmatch(rf"[a-z][a-z0-9-]{{0,{LONGEST_RAYJOB - 2}}}[a-z0-9]", RAYJOB["metadata"]["name"])
    assert spec["shutdownAfterJobFinishes"], "without it ttlSecondsAfterFinished is refused"
    assert spec["submissionMode"] == "HTTPMode", "a submitter's Job would want a pod template, checked above"


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: str(file.name))
def test_every_launcher_file_is_valid_by_rays_own_schema(file: Path) -> None:
    validate_config(prepare_config(yaml.safe_load(file.read_text())))


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: str(file.name))
def test_a_misspelt_key_of_a_launcher_file_is_found(file: Path) -> None:
    with pytest.raises(jsonschema.ValidationError, match="file_mount"):
        validate_config(prepare_config({**yaml.safe_load(file.read_text()), "file_mount": {}}))


# Commands

# Programs whose flags nobody here can check; those of kubectl and docker name things that are checked below.
UNCHECKED = {"apt-get", "chmod", "docker", "kubectl", "mkdir", "pip", "scp", "ssh", "ulimit"}


def simple_commands(script: str) -> Iterator[list[str]]:
    """The commands of a shell script, without assignments and redirections."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        for is_operator, found in itertools.groupby(words, lambda word: set(word) <= set("&|;")):
            command = list(itertools.takewhile(lambda word: ">" not in word, found))
            while command and (re.match(r"\w+=", command[0]) or command[0] in ("export", "sudo")):
                del command[0]
            if command and not is_operator:
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
    texts["cronjob.yaml"] = CRON_JOB["template"]["spec"]["containers"][0]["command"][2]
    return {file: list(simple_commands(text)) for file, text in texts.items()}


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction of the Dockerfile."""
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def parse_ray(arguments: Sequence[str]) -> None:
    command: Any = ray_cli
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, list(arguments))


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


def parse_models(arguments: Sequence[str]) -> None:
    kind, _ = MODELS_COMMANDS[arguments[0]]
    parse("jobs.models", kind, arguments[1:])


def parse_local(arguments: Sequence[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "up", lambda **_: local.LocalCluster("host:1", "http://host:2"))
        patch.setattr(local, "down", lambda _: 0)
        patch.setenv("RAY_AUTH_MODE", "token")
        assert local.main(arguments) == 0


PARSERS: Mapping[str, Callable[[Sequence[str]], Any]] = {
    "jobs.train": parse_train,
    "jobs.submit": parse_submit,
    "jobs.models": parse_models,
    "jobs.doctor": lambda arguments: parse("jobs.doctor", DoctorOptions, arguments),
    "cluster.local": parse_local,
    "venv": lambda arguments: None,
}


@pytest.mark.parametrize(
    ("file", "command"), [(file, command) for file, found in commands().items() for command in found]
)
def test_every_command_is_understood_by_the_parser_that_it_is_for(file: str, command: list[str]) -> None:
    program, *arguments = command
    name = Path(program).name
    if name == "ray":
        parse_ray(arguments)
    elif name in ("python", "python3"):
        assert arguments[0] == "-m", "only then the packages are found"
        PARSERS[arguments[1]]([word for word in arguments[2:] if word != "--help"])
    else:
        assert name in UNCHECKED, f"{file}: nobody has looked at {name}"


def test_each_file_has_commands_to_check() -> None:
    assert {file for file, found in commands().items() if any("ray" in words[0] for words in found)} >= {
        "README.md",
        *(file.name for file in LAUNCHERS),
    }
    assert ["python", "-m", "jobs.submit", "list"] in commands()["README.md"]


@pytest.mark.parametrize("wrong", ["ray start --num-cpu=1", "ray job lst", "python -m jobs.train --epoch 1"])
def test_a_flag_that_does_not_exist_is_found(wrong: str) -> None:
    (command,) = simple_commands(wrong)
    with pytest.raises((click.NoSuchOption, KeyError, exits.UsageError)):
        test_every_command_is_understood_by_the_parser_that_it_is_for("any", command)


@pytest.mark.parametrize("group", GROUPS)
def test_ray_start_params_are_flags_of_ray_start(group: Any) -> None:
    parse_ray(["start", "--address=head:6379", *(f"--{key}={value}" for key, value in group["rayStartParams"].items())])


# The image


def is_in_build_context(path: str) -> bool:
    """As Docker reads .dockerignore: the last pattern that matches the path or a folder above it decides."""
    included = True
    folders = [path, *map(str, Path(path).parents)]
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        expression = re.escape(pattern.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, folder) for folder in folders):
            included = pattern.startswith("!")
    return included


def test_what_the_image_copies_exists_and_is_in_the_build_context() -> None:
    copied = [source for line in instructions("COPY") for source in line.split()[:-1]]
    expanded = {source.replace("${LOCK}", lock) for source in copied for lock in ("runtime", "gpu")}
    assert expanded >= {"requirements/runtime.lock", "requirements/gpu.lock", "pyproject.toml", "README.md"}
    for source in expanded:
        assert (ROOT / source).exists(), source
        files = [ROOT / source] if (ROOT / source).is_file() else (ROOT / source).rglob("*.py")
        for file in files:
            assert is_in_build_context(str(file.relative_to(ROOT))), file


def test_every_package_and_its_data_get_into_the_image() -> None:
    packages: list[str] = PROJECT["tool"]["setuptools"]["packages"]
    copied = {line.split()[0] for line in instructions("COPY")}
    assert {name.partition(".")[0] for name in packages} <= copied
    for name, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        folder = ROOT / name.replace(".", "/")
        data = [file for pattern in patterns for file in folder.glob(pattern)]
        assert data
        assert all(is_in_build_context(str(file.relative_to(ROOT))) for file in data)


@pytest.mark.parametrize(
    "path", [".git/config", "results/runs/a/run.json", ".venv/bin/python", "auth_token", "jobs/__pycache__/a.pyc"]
)
def test_nothing_else_gets_into_the_build_context(path: str) -> None:
    assert not is_in_build_context(path)


def test_the_image_installs_what_the_lock_file_has_and_knows_no_secret() -> None:
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert ["--require-hashes" in line or "--no-deps" in line for line in installs] == [True, True]
    assert instructions("FROM") == ["python:3.11-slim"]
    assert not re.search(r"TOKEN|SECRET|PASSWORD|ACCESS_KEY", " ".join(instructions("ENV") + instructions("ARG")))


def test_the_image_and_the_pods_agree_on_the_user() -> None:
    (user,) = instructions("USER")
    for pod in PODS:
        context = pod["spec"]["securityContext"]
        assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
        assert context["runAsNonRoot"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_every_container_is_of_the_image_of_this_version() -> None:
    image = f"{PROJECT['project']['name']}:{PROJECT['project']['version']}"
    assert {container["image"] for container in CONTAINERS} == {image}
    assert f"--tag {image} ." in README
    assert f"--tag {image} ." in DOCKERFILE


# The objects and what they refer to


def test_the_versions_of_ray_are_one() -> None:
    assert CLUSTER["spec"]["rayVersion"] == ray.__version__
    assert f"ray[default]=={ray.__version__}" in PROJECT["project"]["dependencies"]


def test_a_job_and_a_cluster_that_stays_are_the_same_cluster() -> None:
    assert RAYJOB["spec"]["rayClusterSpec"] == CLUSTER["spec"]


def test_the_token_is_one_secret_everywhere_and_its_value_nowhere() -> None:
    example = only("Secret")
    (key,) = example["stringData"]
    assert not example["stringData"][key]
    wanted = {(CLUSTER["spec"]["authOptions"]["secretName"], "auth_token")}  # KubeRay knows no other key
    for container in CONTAINERS:
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            wanted |= {(reference["name"], reference["key"])} if reference else set()
    assert wanted == {(example["metadata"]["name"], key)}
    assert f"kubectl create secret generic {example['metadata']['name']} --from-file={key}=" in README
    assert not any(file.suffix == ".yaml" and "kind: Secret" in file.read_text() for file in MANIFESTS)


@pytest.mark.parametrize("pod", PODS)
def test_every_volume_is_mounted_and_comes_from_something_that_is_made(pod: Any) -> None:
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounted = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
    assert mounted == set(volumes)
    made_by_hand = re.findall(r"kubectl create configmap (\S+) --from-file=cluster/kubernetes/(\S+)", README)
    known = {name for kind, name in OBJECTS if kind in ("PersistentVolumeClaim", "ConfigMap")}
    for source in re.findall(r"(?:claimName|configMap)\W+(?:name\W+)?([\w-]+)", json.dumps(volumes)):
        assert source in known | {name for name, _ in made_by_hand}
    assert all((ROOT / "cluster" / "kubernetes" / file).exists() for _, file in made_by_hand)


def test_runs_are_stored_on_the_volume() -> None:
    (container,) = HEAD["template"]["spec"]["containers"]
    (volume,) = [volume for volume in HEAD["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume]
    (place,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume["name"]]
    for file in ("rayjob.yaml", "cronjob.yaml"):
        (command,) = commands()[file]
        assert Path(parse_train(command[3:]).storage).is_relative_to(place)
    assert "fsGroup" in HEAD["template"]["spec"]["securityContext"], "or the volume is root's"


def test_the_account_of_the_cronjob_may_do_what_its_script_does_and_no_more() -> None:
    account, role, binding = only("ServiceAccount"), only("Role"), only("RoleBinding")
    assert CRON_JOB["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["metadata"]["name"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    verbs = {"POST": "create", "GET": "get", "DELETE": "delete"}
    (rule,) = role["rules"]
    assert (rule["apiGroups"], rule["resources"]) == (["ray.io"], ["rayjobs"])
    assert set(rule["verbs"]) == {verbs[method] for method in re.findall(r'ask\("([A-Z]+)"', SCRIPT)}


def test_what_kubectl_and_docker_are_told_about_exists() -> None:
    for command in commands()["README.md"]:
        if command[0] == "docker":
            assert all((ROOT / word).exists() for word in command if word.startswith("cluster/"))
            locks = [word.removeprefix("LOCK=") for word in command if word.startswith("LOCK=")]
            assert all((ROOT / "requirements" / f"{lock}.lock").exists() for lock in locks)
        if command[0] != "kubectl":
            continue
        for word in command:
            if word.startswith("cluster/"):
                assert (ROOT / word).exists()
            if word.startswith("service/"):  # KubeRay appends to the name of a cluster, and of a job
                assert word.removeprefix("service/").removesuffix("-head-svc") in {name for _, name in OBJECTS}
            if word.startswith("--from=cronjob/"):
                assert ("CronJob", word.removeprefix("--from=cronjob/")) in OBJECTS
        if "rayjob" in command:
            assert ("RayJob", command[command.index("rayjob") + 1]) in OBJECTS


def test_every_link_within_the_text_leads_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


# Ports, limits, rights


def test_the_ports_are_those_that_ray_listens_on() -> None:
    (head,) = HEAD["template"]["spec"]["containers"]
    ports = {port["containerPort"] for port in head["ports"]}
    assert ports == {ray_constants.DEFAULT_PORT, ray_constants.DEFAULT_DASHBOARD_PORT}
    assert f" {ray_constants.DEFAULT_DASHBOARD_PORT}:{ray_constants.DEFAULT_DASHBOARD_PORT}" in README
    assert job_client.DEFAULT_URL.endswith(f":{ray_constants.DEFAULT_DASHBOARD_PORT}")


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: str(file.name))
def test_a_launched_cluster_meets_at_one_port_wants_the_token_and_shows_its_dashboard_to_itself_alone(
    file: Path,
) -> None:
    told = yaml.safe_load(file.read_text())
    head, worker = (told[f"{role}_start_ray_commands"][-1] for role in ("head", "worker"))
    (port,) = re.findall(r"--port=(\d+)", head)
    assert f"--address=$RAY_HEAD_IP:{port}" in worker
    assert "--dashboard-host=127.0.0.1" in head
    assert all("RAY_AUTH_MODE=token ray start" in command for command in (head, worker))
    assert told["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    (lock,) = [remote for remote, here in told["file_mounts"].items() if here.endswith(".lock")]
    assert any(f"--require-hashes -r {lock}" in command for command in told["setup_commands"])
    assert all((ROOT / here).exists() for here in told["file_mounts"].values() if not here.startswith("~"))


@pytest.mark.parametrize("pod", RAY_PODS)
def test_the_probes_ask_what_answers_without_a_token(pod: Any) -> None:
    for container, probe in itertools.product(pod["spec"]["containers"], ("readinessProbe", "livenessProbe")):
        asked = container[probe]["httpGet"]
        assert asked["path"] in PUBLIC_EXACT_PATHS
        assert asked["port"] == ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: str(container["name"]))
def test_every_container_is_limited_and_has_no_rights(container: Any) -> None:
    for wanted in ("requests", "limits"):
        assert set(container["resources"][wanted]) == {"cpu", "memory"}
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("pod", RAY_PODS)
def test_a_pod_has_time_to_drain(pod: Any) -> None:
    spec = pod["spec"]
    assert spec["terminationGracePeriodSeconds"] > ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
    assert not spec["automountServiceAccountToken"]


# Trying again


def fatal_codes() -> set[int]:
    """What the same command under the same name does not cure: see the table in cluster/README.md."""
    complete = {exits.EXIT_CODES["E-TRAINING"], exits.SOME_TRIALS_FAILED}
    return complete | {exits.EXIT_CODES[code] for code in ("E-USAGE", "E-DATA", "E-STORE", "E-INTEGRITY")}


def test_the_cronjob_tries_again_what_trying_again_may_cure() -> None:
    rules = CRON_JOB["podFailurePolicy"]["rules"]
    by_code = [rule for rule in rules if "onExitCodes" in rule]
    assert [rule["action"] for rule in by_code] == ["FailJob"]
    codes = by_code[0]["onExitCodes"]
    assert codes["containerName"] == CRON_JOB["template"]["spec"]["containers"][0]["name"]
    assert (codes["operator"], set(codes["values"])) == ("In", fatal_codes())
    assert CRON_JOB["template"]["spec"]["restartPolicy"] == "Never", "else the policy is refused"
    assert CRON["spec"]["concurrencyPolicy"] == "Forbid"
    assert CRON_JOB["backoffLimit"] > 0


def test_the_table_of_exit_codes_is_the_one_of_the_job_and_of_the_cronjob() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|.*\| ([^|]+) \|$", README, re.MULTILINE)
    told = {int(code): then for codes, then in rows for code in codes.split(",")}
    killed = {128 + 9, 128 + 15, exits.INTERRUPTED}
    assert set(told) == {exits.DONE, exits.SOME_TRIALS_FAILED, *exits.EXIT_CODES.values(), *killed}
    assert {code for code, then in told.items() if then == "fails"} == fatal_codes()
    (systemd,) = re.findall(r"RestartPreventExitStatus=([\d ]+)", README)
    assert set(map(int, systemd.split())) == fatal_codes()


def test_each_deadline_leaves_room_for_the_one_inside() -> None:
    spec = RAYJOB["spec"]
    assert spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"] < CRON_JOB["activeDeadlineSeconds"]
    assert spec["ttlSecondsAfterFinished"] >= 60, "or the log is gone before it is read"


# What the CronJob does


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
            self._answer(self.server.refuses, {"message": "no"})
            return
        self.server.created.append(body)
        self.server.job = {**body, "status": {}}
        self._answer(201, self.server.job)

    def do_DELETE(self) -> None:
        self.server.job = None
        self._answer(200, {})

    def _answer(self, code: int, document: Any) -> None:
        self.server.asked.append((self.command, self.path))
        if len(self.server.asked) > 50:  # start.py goes round in circles: silence ends it
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
    """In the place of the process that start.py becomes."""


RUNS = {"jobStatus": "RUNNING", "jobDeploymentStatus": "Running", "jobId": "x-1", "dashboardURL": "head:8265"}
FAILED = {**RUNS, "jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}
COMMAND = CRON_JOB["template"]["spec"]["containers"][0]["command"][2]
RUN = f"{CRON['metadata']['name']}-29401234"  # as a CronJob names its Jobs: by the minute


def start(kubernetes: Kubernetes | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs start.py as its pod does -> its exit code. Raises BeganError with the command that it becomes."""

    def become(_: str, command: list[str]) -> None:
        raise BeganError(*command)

    script: Any = ModuleType("start")
    script.__file__ = str(folder / "start.py")
    exec(compile(SCRIPT, script.__file__, "exec"), script.__dict__)
    for name, text in (("token", "secret"), ("namespace", "night"), ("rayjob.yaml", yaml.safe_dump(RAYJOB))):
        (folder / name).write_text(text)
    script.ACCOUNT, script.POLL_SECONDS, script.SILENT_SECONDS = folder, 0.01, 0.2
    monkeypatch.setattr("os.execv", become)
    monkeypatch.setenv("RUN", RUN)
    monkeypatch.setenv("JOB_UID", "uid-1")
    if kubernetes is None:
        script.API = "http://127.0.0.1:9"  # where nobody listens
        return int(script.main(COMMAND))
    script.API = f"http://127.0.0.1:{kubernetes.server_port}"
    threading.Thread(target=kubernetes.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        return int(script.main(COMMAND))
    finally:
        kubernetes.shutdown()
        kubernetes.server_close()


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
    assert start(kubernetes, tmp_path, monkeypatch) == exits.DONE
    assert not kubernetes.created


def test_a_cluster_that_does_not_come_up_is_a_lack_of_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = Kubernetes(then=[{"jobDeploymentStatus": "Failed", "message": "no node"}])
    assert start(kubernetes, tmp_path, monkeypatch) == exits.EXIT_CODES["E-RESOURCES"]


@pytest.mark.parametrize("code", [403, 404, 422])
def test_a_rayjob_that_is_refused_is_not_tried_again(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = Kubernetes()
    kubernetes.refuses = code
    assert start(kubernetes, tmp_path, monkeypatch) == exits.EXIT_CODES["E-USAGE"]


def test_a_kubernetes_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start(None, tmp_path, monkeypatch) == exits.EXIT_CODES["E-CLUSTER"]
