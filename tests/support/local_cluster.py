"""Real clusters of several nodes on this machine, on its loopback interface. Each node is a `ray start`."""

import contextlib
import ctypes
import functools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray

from cluster.ray_private import LOOPBACK, NO_METRICS
from tests.support.bounds import wait_until

ROOT = Path(__file__).parents[2]
OBJECT_STORE_BYTES = 200 << 20  # of each node
NODE_KILL_SECONDS = 20.0  # until every process of a node has ended
UNUSED_PORTS = range(16_384, 32_768)  # Linux uses higher ports for outgoing connections
FOLDER_VARIABLE, NODE_VARIABLE = "MNIST_LOCAL_CLUSTER", "MNIST_LOCAL_NODE"
# The head notices within two seconds, instead of half a minute, that a node is gone. On a busy machine it may mistake a
# slow node for a lost one, so this is only for clusters whose nodes are killed on purpose.
HEALTH_CHECKS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
# `ray start` replaces 127.0.0.1 by the address of this machine in the network. The variable is set only after the
# imports, which read it, too: if they found "0", `ray start` would refuse to join a cluster.
START_CODE = """
import os
from ray._private import ray_constants, services
from ray.scripts.scripts import main
services.resolve_ip_for_localhost = str
os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
main()
"""
STARTED = "Ray runtime started"  # printed by `ray start` when the node has joined
# In a new process: lets Linux kill it when the thread that has started it ends. 1 is PR_SET_PDEATHSIG.
DIE_WITH_PARENT = functools.partial(ctypes.CDLL(None).prctl, 1, signal.SIGKILL)


class LocalCluster:
    """Nodes on this machine. They end with the thread that has added them.

    Args:
        folder: holds all that Ray writes, and identifies the cluster. Its path has at most 40 characters, since it
            holds sockets.
        dashboard: whether the head has a dashboard and job server.
        loses_nodes: whether the head looks for lost nodes often.
        environment: variables of the nodes.
    """

    def __init__(self, folder: Path, *, dashboard: bool = False, loses_nodes: bool = False, **environment: str) -> None:
        self.folder = folder
        self.address = f"{LOOPBACK}:{unused_port()}"
        self.dashboard = f"http://{LOOPBACK}:{unused_port()}" if dashboard else ""
        self._loses_nodes = loses_nodes
        self._environment = environment
        self._nodes: list[subprocess.Popen[bytes]] = []

    def add_nodes(self, count: int = 1, *, cpus: int, gpus: int = 0) -> list[int]:
        """Start nodes with these CPUs and logical GPUs each, and return the nodes' numbers when all have joined.

        The first node of the cluster is its head.
        """
        numbers = range(len(self._nodes), len(self._nodes) + count)
        for number in numbers:
            self._nodes.append(self._start(number, f"--num-cpus={cpus}", f"--num-gpus={gpus}"))
            if number == 0:
                self._wait_for(0)
        for number in numbers:
            self._wait_for(number)
        return [*numbers]

    def kill(self, *numbers: int) -> None:
        """Kill all processes of these nodes, or of all nodes, at once: as when a machine is lost."""
        for number in numbers or range(len(self._nodes)):
            deadline = time.monotonic() + NODE_KILL_SECONDS
            # Kill parents first, so that a raylet does not report dead workers. Repeat: one may have started others.
            while processes := self.processes(number):
                for process in processes:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(processes, timeout=0.2)
                assert time.monotonic() < deadline, f"{processes[0]} does not end"
            self._nodes[number].wait()

    def kill_gcs(self) -> None:
        """Kill only the GCS server of the head. `ray start` is suspended, since it would kill the other processes."""
        head = self.processes(0)
        for process in head:
            if "start" in process.cmdline():
                process.suspend()
        (server,) = [process for process in head if process.name() == "gcs_server"]
        server.kill()

    def processes(self, node: int) -> list[psutil.Process]:
        """Return the processes of a node, with their descendants."""
        marks = {f"{FOLDER_VARIABLE}={self.folder}".encode(), f"{NODE_VARIABLE}={node}".encode()}
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                # Not process.environ(), which stops early: Ray's workers overwrite the first variables with a title.
                if marks <= {*Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")}:
                    found |= {child.pid: child for child in (process, *process.children(recursive=True))}
        return [*found.values()]

    def _start(self, number: int, *resources: str) -> "subprocess.Popen[bytes]":
        role = [f"--address={self.address}"]
        if number == 0:
            role = ["--head", f"--port={_port(self.address)}"]
            role += [f"--system-config={json.dumps(HEALTH_CHECKS)}"] if self._loses_nodes else []
            role += [f"--dashboard-port={_port(self.dashboard)}"] if self.dashboard else ["--include-dashboard=False"]
        # A folder of its own: in a common one, nodes that start at the same time may take the same socket.
        role.append(f"--temp-dir={self.folder / str(number)}")
        # Ray's fixed ports would clash with those of the other nodes on this machine. 0 is an unused port.
        role += [f"--{name}-port=0" for name in ("dashboard-agent-listen", "min-worker", "max-worker")]
        role.append(f"--ray-client-server-port={unused_port()}")
        common = ("--block", f"--node-ip-address={LOOPBACK}", "--disable-usage-stats")
        variables = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            FOLDER_VARIABLE: str(self.folder),
            NODE_VARIABLE: str(number),
        }
        with (self.folder / f"node-{number}.log").open("wb") as output:
            return subprocess.Popen(
                [
                    *(sys.executable, "-c", START_CODE, "start", *role, *resources, *common),
                    f"--object-store-memory={OBJECT_STORE_BYTES}",
                ],
                cwd=ROOT,
                env={**os.environ, **NO_METRICS, **self._environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that a Ctrl-C in the terminal does not reach the nodes
                preexec_fn=DIE_WITH_PARENT,
            )

    def _wait_for(self, number: int) -> None:
        log = self.folder / f"node-{number}.log"

        def has_started() -> bool:
            assert self._nodes[number].poll() is None, log.read_text()
            return STARTED in log.read_text()

        wait_until(has_started, log.read_text)


@contextlib.contextmanager
def _running(**options: Any) -> Iterator[LocalCluster]:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        cluster = LocalCluster(Path(folder), **options)
        try:
            yield cluster
        finally:
            cluster.kill()


@contextlib.contextmanager
def temporary_cluster(*, cpus: int, gpus: int = 0, loses_nodes: bool = True) -> Iterator[LocalCluster]:
    """Provide a head with these resources, to which nodes can be added. All nodes end with the context."""
    with _running(loses_nodes=loses_nodes) as cluster:
        cluster.add_nodes(cpus=cpus, gpus=gpus)
        yield cluster


@contextlib.contextmanager
def served_cluster(home: Path, **environment: str) -> Iterator[LocalCluster]:
    """Provide a cluster of one node, with a job server, its HOME, and additional environment variables."""
    home.mkdir(parents=True, exist_ok=True)
    with _running(dashboard=True, HOME=str(home), **environment) as cluster:
        cluster.add_nodes(cpus=1)
        yield cluster


@contextlib.contextmanager
def two_nodes(*, gpus: bool) -> Iterator[str]:
    """Provide the address of a head with 1 CPU and a node with 2; with `gpus`, they have 1 and 2 logical GPUs."""
    with temporary_cluster(cpus=1, gpus=int(gpus), loses_nodes=False) as cluster:
        cluster.add_nodes(cpus=2, gpus=2 * int(gpus))
        yield cluster.address


@contextlib.contextmanager
def every_cpu_taken(seconds: float) -> Iterator[None]:
    """Keep the 3 CPUs of `two_nodes` busy, for at most the given number of seconds."""

    def sleep() -> None:
        time.sleep(seconds)

    busy = [ray.remote(num_cpus=cpus, max_retries=0)(sleep).remote() for cpus in (1, 2)]
    wait_until(lambda: free_cpus() == 0, "the CPUs have not become busy")
    try:
        yield
    finally:
        for task in busy:
            ray.cancel(task, force=True)
    wait_until(lambda: free_cpus() == 3, "the CPUs have not been released")


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


def unused_port() -> int:
    """Return a port of this machine on which no process listens, and which no outgoing connection will take."""
    while True:
        with socket.socket() as unused, contextlib.suppress(OSError):
            unused.bind((LOOPBACK, secrets.choice(UNUSED_PORTS)))
            port: int = unused.getsockname()[1]
            return port


def _port(address: str) -> str:
    return address.rpartition(":")[2]
