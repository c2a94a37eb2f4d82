"""The objects that deploy the job are held to each other, to Ray's ports and to our exit codes."""

import inspect
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray._private import ray_constants
from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

from cluster.connection import job_server as job_client
from cluster.deploy import rayjob
from jobs.console import exit_codes
from tests.support.deploy_files import (
    CLUSTER,
    CONTAINERS,
    CRON,
    CRON_JOB,
    HEAD,
    LAUNCHERS,
    MANIFESTS,
    OBJECTS,
    PODS,
    PROJECT,
    RAY_PODS,
    RAYJOB,
    README,
    ROOT,
    commands,
    only,
    parse_train,
)

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
    made_by_hand = re.findall(r"kubectl create configmap (\S+) --from-file=cluster/deploy/kubernetes/(\S+)", README)
    known = {name for kind, name in OBJECTS if kind in ("PersistentVolumeClaim", "ConfigMap")}
    for source in re.findall(r"(?:claimName|configMap)\W+(?:name\W+)?([\w-]+)", json.dumps(volumes)):
        assert source in known | {name for name, _ in made_by_hand}
    assert all((ROOT / "cluster" / "deploy" / "kubernetes" / file).exists() for _, file in made_by_hand)


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
    assert set(rule["verbs"]) == {verbs[method] for method in re.findall(r'ask\("([A-Z]+)"', inspect.getsource(rayjob))}


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
    assert all(re.search(r"RAY_AUTH_MODE=token (\w+=\w+ )*ray start", command) for command in (head, worker))
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
    """What the same command under the same name does not cure: see the table in docs/cluster.md."""
    complete = {exit_codes.EXIT_CODE_OF["E-TRAINING"], exit_codes.SOME_FAILED}
    return complete | {exit_codes.EXIT_CODE_OF[code] for code in ("E-USAGE", "E-DATA", "E-STORE", "E-INTEGRITY")}


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
    killed = {128 + 9, 128 + 15, exit_codes.INTERRUPTED}
    assert set(told) == {exit_codes.DONE, exit_codes.SOME_FAILED, *exit_codes.EXIT_CODE_OF.values(), *killed}
    assert {code for code, then in told.items() if then == "fails"} == fatal_codes()
    (systemd,) = re.findall(r"RestartPreventExitStatus=([\d ]+)", README)
    assert set(map(int, systemd.split())) == fatal_codes()


def test_each_deadline_leaves_room_for_the_one_inside() -> None:
    spec = RAYJOB["spec"]
    assert spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"] < CRON_JOB["activeDeadlineSeconds"]
    assert spec["ttlSecondsAfterFinished"] >= 60, "or the log is gone before it is read"
