"""The objects that deploy the job agree with each other, with Ray's ports and with the table of exit codes."""

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

from cluster.job_server import DEFAULT_URL
from jobs.console import exit_codes
from tests.support.commands import parse_command
from tests.support.deploy_files import (
    CLUSTER,
    CONTAINERS,
    CRON_JOBS,
    FINAL,
    GUIDE,
    HEAD,
    LAUNCHERS,
    MANIFESTS,
    OBJECTS,
    PODS,
    PROJECT,
    RAY_PODS,
    RAYJOB,
    ROOT,
    commands,
    only,
)

# The objects and what they refer to


def test_every_file_has_the_same_version_of_ray() -> None:
    assert CLUSTER["spec"]["rayVersion"] == ray.__version__
    assert f"ray[default]=={ray.__version__}" in PROJECT["project"]["dependencies"]


def test_the_job_and_the_permanent_cluster_have_the_same_cluster_spec() -> None:
    assert RAYJOB["spec"]["rayClusterSpec"] == CLUSTER["spec"]


def test_every_object_uses_the_same_secret_and_none_holds_the_token() -> None:
    example = only("Secret")
    (key,) = example["stringData"]
    assert not example["stringData"][key]
    used = {(CLUSTER["spec"]["authOptions"]["secretName"], "auth_token")}  # the key that KubeRay uses
    for container in CONTAINERS:
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference and not reference.get("optional"):  # the receiver of notices
                used.add((reference["name"], reference["key"]))
    assert used == {(example["metadata"]["name"], key)}
    assert f"kubectl create secret generic {example['metadata']['name']} --from-file={key}=" in GUIDE
    assert not any(file.suffix == ".yaml" and "kind: Secret" in file.read_text() for file in MANIFESTS)


@pytest.mark.parametrize("pod", PODS)
def test_every_volume_is_mounted_and_its_source_is_created(pod: Any) -> None:
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounted = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
    assert mounted == set(volumes)
    for source in re.findall(r"claimName\W+([\w-]+)", json.dumps(volumes)):
        assert ("PersistentVolumeClaim", source) in OBJECTS


def test_runs_are_stored_on_the_volume() -> None:
    (container,) = HEAD["template"]["spec"]["containers"]
    (volume,) = [volume for volume in HEAD["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume]
    (path,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume["name"]]
    for name in ("rayjob.yaml", *CRON_JOBS):
        (command,) = commands()[name]
        options, _ = parse_command(command[2], command[3:])
        assert Path(options.storage).is_relative_to(path)
    assert "fsGroup" in HEAD["template"]["spec"]["securityContext"], "otherwise only root can write to the volume"


# Ports, limits, rights


def test_the_ports_are_those_that_ray_listens_on() -> None:
    (head,) = HEAD["template"]["spec"]["containers"]
    ports = {port["containerPort"] for port in head["ports"]}
    assert ports == {ray_constants.DEFAULT_PORT, ray_constants.DEFAULT_DASHBOARD_PORT}
    assert f" {ray_constants.DEFAULT_DASHBOARD_PORT}:{ray_constants.DEFAULT_DASHBOARD_PORT}" in GUIDE
    assert DEFAULT_URL.endswith(f":{ray_constants.DEFAULT_DASHBOARD_PORT}")


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: str(file.name))
def test_a_launched_cluster_has_a_token_and_a_local_dashboard_and_only_one_port(
    file: Path,
) -> None:
    content = yaml.safe_load(file.read_text())
    head, worker = (content[f"{role}_start_ray_commands"][-1] for role in ("head", "worker"))
    (port,) = re.findall(r"--port=(\d+)", head)
    assert f"--address=$RAY_HEAD_IP:{port}" in worker
    assert "--dashboard-host=127.0.0.1" in head
    assert all(re.search(r"RAY_AUTH_MODE=token (\w+=\w+ )*ray start", command) for command in (head, worker))
    assert content["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    (lock,) = [remote for remote, here in content["file_mounts"].items() if here.endswith(".lock")]
    assert any(f"--require-hashes -r {lock}" in command for command in content["setup_commands"])
    assert all((ROOT / here).exists() for here in content["file_mounts"].values() if not here.startswith("~"))


@pytest.mark.parametrize("pod", RAY_PODS)
def test_the_probes_need_no_token(pod: Any) -> None:
    for container, probe in itertools.product(pod["spec"]["containers"], ("readinessProbe", "livenessProbe")):
        request = container[probe]["httpGet"]
        assert request["path"] in PUBLIC_EXACT_PATHS
        assert request["port"] == ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: str(container["name"]))
def test_every_container_has_limits_and_no_privileges(container: Any) -> None:
    for kind in ("requests", "limits"):
        assert set(container["resources"][kind]) == {"cpu", "memory"}
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


# Exit codes


def test_the_guide_says_what_a_scheduler_does_after_each_exit_code() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|.*\| ([^|]+) \|$", GUIDE, re.MULTILINE)
    found = {int(code): action for codes, action in rows for code in codes.split(",")}
    actions = {"no": "fails", "once": "fails", "yes": "retries, up to 5 times"}
    assert found == {row.number: actions[row.retry] if row.number else "done" for row in exit_codes.TABLE}
    assert {job["backoffLimit"] for job in CRON_JOBS.values()} <= {5}
    (systemd,) = re.findall(r"RestartPreventExitStatus=([\d ]+)", GUIDE)
    assert set(map(int, systemd.split())) == FINAL


def test_each_outer_deadline_is_longer_than_those_inside_it() -> None:
    spec = RAYJOB["spec"]
    assert spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert spec["ttlSecondsAfterFinished"] >= 60, "otherwise the log is gone before it is read"
