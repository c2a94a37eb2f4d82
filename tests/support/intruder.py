"""What another user of this machine can do to a cluster. Run as a script, it becomes that user and tries."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil

USER = 65534
METHODS = (  # at least one of each server
    "ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "ray.rpc.InternalKVGcsService/InternalKVGet",
    "ray.rpc.NodeManagerService/GetNodeStats",
    "ray.rpc.ObjectManagerService/Pull",
    "ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "ray.rpc.ReporterService/GetTraceback",
    "ray.rpc.LogService/ListLogs",
    "ray.rpc.RayletDriver/ClusterInfo",
    "grpc.health.v1.Health/Check",
    "grpc.channelz.v1.Channelz/GetServers",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
PAGES = ("/", "/api/healthz", "/api/authentication_mode", "/api/version", "/api/jobs/", "/nodes", "/logs", "/metrics")
# What Ray answers without a token: whether it runs, the names of its services, the numbers of its connections, the
# program of the dashboard without data.
PUBLIC = {*METHODS[-3:], *PAGES[:3]}


@dataclass(frozen=True)
class Found:
    read: list[str]  # files
    renamed: list[str]  # files and folders
    answered: dict[str, list[str]]  # by port
    refused: dict[str, list[str]]  # by port: for the lack of a token


def processes_below(pid: int) -> list[psutil.Process]:
    """Return a process and all that it has started."""
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def listening(processes: Iterable[psutil.Process]) -> dict[int, str]:
    """Return the address of each port on which one of the processes listens."""
    found: dict[int, str] = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets = process.net_connections(kind="tcp")
            listen = [at.laddr for at in sockets if at.status == psutil.CONN_LISTEN]
            found |= {at.port: at.ip.removeprefix("::ffff:") for at in listen}  # IPv4 on a socket of IPv6
    return found


def tried_by_another_user(folder: Path, processes: Iterable[psutil.Process]) -> Found:
    """Let another user try to read and rename each file in a folder, and to use each port of the processes."""
    processes = list(processes)
    environments = [f"/proc/{process.pid}/environ" for process in processes]
    paths = [str(path) for path in (folder, *folder.rglob("*"))]
    known = {"paths": paths, "environments": environments, "ports": [*listening(processes)]}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.intruder"],
        input=json.dumps(known),
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return Found(**json.loads(done.stdout))


def attack(paths: list[str], environments: list[str], ports: list[int]) -> Found:
    found = Found([], [], {}, {})
    for path in (*paths, *environments):
        with contextlib.suppress(OSError), Path(path).open("rb"):
            found.read.append(path)
    for path in reversed(paths):
        with contextlib.suppress(OSError):
            Path(path).rename(f"{path}-renamed")
            found.renamed.append(path)
    for port in ports:
        answers = calls(port) or requests(port)
        found.answered[str(port)] = [what for what, answer in answers.items() if answer in (grpc.StatusCode.OK, 200)]
        refusals = (grpc.StatusCode.UNAUTHENTICATED, 401)
        found.refused[str(port)] = [what for what, answer in answers.items() if answer in refusals]
    return found


def calls(port: int) -> dict[str, Any]:
    """Return the status of each method of a gRPC server; nothing for another server."""
    answers: dict[str, Any] = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        for method in METHODS:
            try:
                channel.unary_unary(f"/{method}")(b"", timeout=5)
                answers[method] = grpc.StatusCode.OK
            except grpc.RpcError as error:
                answers[method] = error.code()
            if answers[method] is grpc.StatusCode.UNAVAILABLE:
                return {}
    return answers


def requests(port: int) -> dict[str, Any]:
    """Return the status of each page of an HTTP server."""
    answers = {}
    for page in PAGES:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", page)
        answers[page] = connection.getresponse().status
    return answers


if __name__ == "__main__":
    known = json.load(sys.stdin)
    for warm_up in (calls, requests):  # Python's files may be out of the other user's reach
        with contextlib.suppress(OSError):
            warm_up(1)
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    sys.stdout.write(json.dumps(vars(attack(**known))))
