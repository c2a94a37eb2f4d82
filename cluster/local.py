"""`python -m cluster.local up|down`: a Ray cluster of several nodes on this machine, real processes, to rehearse with.

Whoever would use it needs its token. Its processes are marked, so that `down` ends them and nothing else.
"""

import argparse
import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from cluster.connection.address import count_nodes
from cluster.connection.tokens import ensure_token
from cluster.errors import ClusterError

HOST = "127.0.0.1"
UP_SECONDS, DOWN_SECONDS = 60.0, 20.0
OBJECT_STORE = 200 << 20  # bytes on each node
MARK = "MNIST_LOCAL_CLUSTER"  # in the environment of all its processes


@dataclass(frozen=True)
class LocalCluster:
    address: str  # host:port of the head
    dashboard: str  # URL, of the job server too


def up(folder: Path, *, nodes: int, cpus: int, gpus: int, port: int, dashboard_port: int) -> LocalCluster:
    """Starts the nodes, and waits until the head knows all of them.

    Args:
        folder: for all that Ray writes; names the cluster. Of at most 40 characters: the sockets are in it.
        nodes: the head among them.
        cpus: of each node; gpus: likewise, and logical ones at that.
        port: of the head; 0 for a free one, as for the dashboard.

    Raises:
        ClusterError: one is up already, or it does not come up in time.
    """
    if processes_of(folder):
        raise ClusterError(f"the cluster of {folder} is up already; end it with `down`")
    ensure_token()
    folder.mkdir(parents=True, exist_ok=True)
    address = f"{HOST}:{port or _free_port()}"
    if count_nodes(address):
        raise ClusterError(f"another cluster answers at {address}; choose another --port")
    dashboard = f"{HOST}:{dashboard_port or _free_port()}"
    _require_free(dashboard)
    # A folder of its own: in Ray's common one a job looks up its cluster, and finds the one that was started last.
    head = [
        "--head",
        f"--temp-dir={folder / 'ray'}",
        f"--port={address.rpartition(':')[2]}",
        f"--dashboard-port={dashboard.rpartition(':')[2]}",
    ]
    worker = [f"--address={address}"]
    for number in range(nodes):
        resources = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--object-store-memory={OBJECT_STORE}"]
        resources.append("--dashboard-agent-listen-port=0")  # its default is taken by another node here
        log = folder / f"node-{number}.log"
        process = _start([*(worker if number else head), *resources], folder, log)
        if not _wait_for(address, number + 1, process):
            last = " ".join(log.read_text().strip().splitlines()[-1:])
            down(folder)
            raise ClusterError(f"node {number} did not come up: {last}; see {log}")
    return LocalCluster(address, f"http://{dashboard}")


def down(folder: Path) -> int:
    """Ends what `up` started there, and nothing else.

    Returns:
        How many processes that were.

    Raises:
        ClusterError: one does not end.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + DOWN_SECONDS
    while processes := processes_of(folder):  # one may just have started another
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=1)
        ended |= {process.pid for process in processes}
        if time.monotonic() > deadline:
            raise ClusterError(f"process {processes[0].pid} does not end; see what it waits for (ps -o pid,stat,wchan)")
    return len(ended)


def processes_of(folder: Path) -> list[psutil.Process]:
    """All that `up` started there, and that they started: the environment is inherited."""
    mark, found = f"{MARK}={folder}".encode(), dict[int, psutil.Process]()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if mark in _environment(process.pid).split(b"\0"):
                found |= {child.pid: child for child in (process, *process.children(recursive=True))}
    return [*found.values()]


def _environment(pid: int) -> bytes:
    """Not psutil's: Ray's workers write their title over its beginning, and psutil stops there."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def _start(arguments: Sequence[str], folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={HOST}"]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*ray, "--disable-usage-stats", *arguments],
            env={**os.environ, MARK: str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives the terminal
        )


def _wait_for(address: str, nodes: int, process: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if count_nodes(address) >= nodes:
            return True
        time.sleep(0.2)
    return False


def _require_free(dashboard: str) -> None:
    """Ray would start without its job server, and say nothing."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was left a moment ago is free
        try:
            free.bind((HOST, int(dashboard.rpartition(":")[2])))
        except OSError as error:
            raise ClusterError(f"{dashboard} is taken, by a tunnel perhaps; choose another --dashboard-port") from error


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description=__doc__)
    parser.add_argument("do", choices=["up", "down"])
    parser.add_argument("--nodes", type=int, default=3, help="the head among them (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=1, help="of each node (default: %(default)s)")
    parser.add_argument("--gpus", type=int, default=0, help="logical ones, of each node (default: %(default)s)")
    parser.add_argument("--port", type=int, default=6379, help="of the head; 0 for a free one (default: %(default)s)")
    parser.add_argument("--dashboard-port", type=int, default=8265, help="likewise (default: %(default)s)")
    folder = Path(tempfile.gettempdir()) / f"mnist-cluster-{os.getuid()}"
    parser.add_argument("--folder", type=Path, default=folder, help="for its logs (default: %(default)s)")
    given = vars(parser.parse_args(arguments))
    if given["nodes"] < 1:
        parser.error(f"--nodes: expected 1 or more, got {given['nodes']}")
    named = "" if given["folder"] == folder else f" --folder {given['folder']}"
    given["folder"] = given["folder"].resolve()
    try:
        if given.pop("do") == "down":
            print(f"{down(given['folder'])} process(es) ended")
            return 0
        cluster = up(**given)
    except ClusterError as error:
        print(f"error[{error.code}] {error}", file=sys.stderr)
        return 8
    print(f"{given['nodes']} node(s) are up. Train on them with")
    token = "" if os.environ["RAY_AUTH_MODE"] == "disabled" else "RAY_AUTH_MODE=token "
    print(f"  {token}python -m jobs.submit --address {cluster.dashboard} -- --storage /tmp/digits")
    print(f"  {token}python -m jobs.train --address {cluster.address}")
    print(f"and end them with\n  python -m cluster.local down{named}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

REHEARSAL_OBJECT_STORE = 200 << 20  # bytes on each node
# The head notices within two seconds that a node is gone, not within half a minute.
HEALTH_CHECKS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


class RehearsalCluster:
    """A head, which runs nothing, and nodes of one CPU each."""

    def __init__(self, nodes: int) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": REHEARSAL_OBJECT_STORE}
        self._cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": HEALTH_CHECKS})
        node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": REHEARSAL_OBJECT_STORE}
        self._nodes: list[Any] = [self._cluster.add_node(**node) for _ in range(nodes)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def lose_a_node(self, chance: random.Random) -> None:
        """One goes without a word; the others have to do. To add one, Ray needs the main thread."""
        node = self._nodes.pop(chance.randrange(len(self._nodes)))
        self._cluster.remove_node(node, allow_graceful=False)

    def shut_down(self) -> None:
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def rehearsal_cluster(nodes: int) -> Iterator[RehearsalCluster]:
    """Its processes end with the context."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # it listens to this machine alone
    cluster = RehearsalCluster(nodes)
    try:
        yield cluster
    finally:
        cluster.shut_down()
