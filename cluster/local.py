"""`python -m cluster.local up|down`: a Ray cluster of several nodes on this machine, to rehearse with.

Each node is a `ray start`. `down` finds its processes by an environment variable that holds the cluster's folder.
"""

import argparse
import contextlib
import ctypes
import errno
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from cluster.deadlines import NODE_KILL_SECONDS, NODE_START_SECONDS
from cluster.errors import ClusterError, counted
from cluster.ray_private import LOOPBACK, NO_METRICS, START_COMMAND, STARTED
from cluster.session import ensure_private_token, ensure_token, unused_port

OBJECT_STORE_BYTES = 200 << 20  # of each node
FOLDER_VARIABLE, NODE_VARIABLE = "MNIST_LOCAL_CLUSTER", "MNIST_LOCAL_NODE"
# The head notices within two seconds, instead of half a minute, that a node is gone. On a busy machine it may mistake a
# slow node for a lost one, so this is only for clusters whose nodes are killed on purpose.
HEALTH_CHECKS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
# In a new process: lets Linux kill it when the thread that has started it ends. 1 is PR_SET_PDEATHSIG.
DIE_WITH_PARENT = functools.partial(ctypes.CDLL(None).prctl, 1, signal.SIGKILL)


class LocalCluster:
    """Nodes on this machine.

    Args:
        folder: holds all that Ray writes, and identifies the cluster; other users cannot enter it. Its path has at most
            40 characters, since it holds sockets.
        port: of the head; 0 for an unused one.
        dashboard_port: of the dashboard and job server; 0 for an unused one, None for no dashboard.
        outlives: whether the nodes keep running after the thread that has added them has ended.
        loses_nodes: whether the head looks for lost nodes often.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        dashboard_port: int | None = None,
        outlives: bool,
        loses_nodes: bool = False,
    ) -> None:
        _make_private(folder)
        self.address = _unused_address(port, "--port")
        self.dashboard = None if dashboard_port is None else _unused_address(dashboard_port, "--dashboard-port")
        self.folder, self._outlives, self._loses_nodes = folder, outlives, loses_nodes
        self._nodes: list[subprocess.Popen[bytes]] = []

    def add_nodes(self, count: int = 1, *, cpus: int, gpus: int = 0) -> list[int]:
        """Start nodes with these CPUs and logical GPUs each, and return the nodes' numbers when all have joined.

        The first node of the cluster is its head. When a node does not start in time, all are killed and ClusterError
        is raised.
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
            kill(self.folder, number)
            self._nodes[number].wait()

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
        role.append(f"--ray-client-server-port={unused_port(LOOPBACK)}")
        common = ("--block", f"--node-ip-address={LOOPBACK}", "--disable-usage-stats")
        marks = {FOLDER_VARIABLE: str(self.folder), NODE_VARIABLE: str(number)}
        with (self.folder / f"node-{number}.log").open("wb") as output:
            return subprocess.Popen(
                [*START_COMMAND, *role, *resources, *common, f"--object-store-memory={OBJECT_STORE_BYTES}"],
                env={
                    **os.environ,
                    **NO_METRICS,
                    **marks,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that a Ctrl-C in the terminal does not reach the nodes
                preexec_fn=None if self._outlives else DIE_WITH_PARENT,
            )

    def _wait_for(self, number: int) -> None:
        deadline, log = time.monotonic() + NODE_START_SECONDS, self.folder / f"node-{number}.log"
        while STARTED not in (text := log.read_text()):
            if self._nodes[number].poll() is not None or time.monotonic() > deadline:
                self.kill()
                last_line = " ".join(text.strip().splitlines()[-1:])
                raise ClusterError(f"node {number} did not start: {last_line}; see {log}")
            time.sleep(0.1)


@contextlib.contextmanager
def temporary_cluster(*, cpus: int, gpus: int = 0, loses_nodes: bool = True) -> Iterator[LocalCluster]:
    """Provide a head with these resources, to which nodes can be added. All nodes end with the context."""
    ensure_private_token()  # other users of this machine can reach the cluster
    ensure_token()  # finds it, and sets RAY_AUTH_MODE
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        cluster = LocalCluster(Path(folder), outlives=False, loses_nodes=loses_nodes)
        try:
            cluster.add_nodes(cpus=cpus, gpus=gpus)
            yield cluster
        finally:
            cluster.kill()


def cluster_processes(folder: Path, node: int | None = None) -> list[psutil.Process]:
    """Return the processes of the cluster of that folder, or of one of its nodes, with their descendants."""
    marks = {f"{FOLDER_VARIABLE}={folder}".encode()}
    marks |= set() if node is None else {f"{NODE_VARIABLE}={node}".encode()}
    processes: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # Not process.environ(), which stops early: Ray's workers overwrite the first variables with a title.
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            if marks <= {*environment.split(b"\0")}:
                processes |= {child.pid: child for child in (process, *process.children(recursive=True))}
    return [*processes.values()]


def kill(folder: Path, node: int | None = None) -> int:
    """Kill `cluster_processes(folder, node)` and return their number. Raises ClusterError if one does not end."""
    killed: set[int] = set()
    deadline = time.monotonic() + NODE_KILL_SECONDS
    # Kill parents first, so that a raylet does not report dead workers. Repeat: a process may have started others.
    while processes := cluster_processes(folder, node):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=0.2)
        killed |= {process.pid for process in processes}
        if time.monotonic() > deadline:
            raise ClusterError(f"process {processes[0].pid} does not end; see what it waits for (ps -o pid,stat,wchan)")
    return len(killed)


def _make_private(folder: Path) -> None:
    """Create a folder that only this user can enter. Raises ClusterError if another user owns it."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ClusterError(f"{folder}: expected a folder of yours, got one of another user; name another with --folder")
    folder.chmod(0o700)


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _unused_address(port: int, option: str) -> str:
    """Return host:port, with an unused port for 0. Raises ClusterError for a port in use, which Ray may not report."""
    with socket.socket() as unused:
        unused.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was closed a moment ago is unused
        try:
            unused.bind((LOOPBACK, port or unused_port(LOOPBACK)))
        except OSError as error:
            reason = "by another cluster or a tunnel perhaps"
            raise ClusterError(f"{LOOPBACK}:{port} is in use, {reason}; choose another {option}") from error
        return f"{LOOPBACK}:{unused.getsockname()[1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description=__doc__)
    parser.add_argument("do", choices=["up", "down"], help="start the cluster, or end it")
    parser.add_argument(
        "--nodes", type=int, default=3, help="number of nodes, including the head (default: %(default)s)"
    )
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of each node (default: %(default)s)")
    parser.add_argument("--gpus", type=int, default=0, help="logical GPUs of each node (default: %(default)s)")
    for option, default, of in (("--port", 6379, "head"), ("--dashboard-port", 8265, "dashboard and job server")):
        help = f"port of the {of}; 0 for an unused one (default: %(default)s)"
        parser.add_argument(option, type=int, default=default, help=help)
    folder = Path(tempfile.gettempdir()) / f"mnist-cluster-{os.getuid()}"
    parser.add_argument(
        "--folder",
        type=Path,
        default=folder,
        help="folder of its logs and sockets, which only you can enter (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.nodes < 1:
        parser.error(f"--nodes: expected 1 or more, got {options.nodes}")
    try:
        if options.do == "down":
            return _print(f"processes ended: {kill(options.folder.resolve())}")
        if cluster_processes(options.folder.resolve()):
            raise ClusterError(f"the cluster of {options.folder} is up already; end it with `down`")
        ensure_token()
        ports = {"port": options.port, "dashboard_port": options.dashboard_port}
        cluster = LocalCluster(options.folder.resolve(), **ports, outlives=True)
        cluster.add_nodes(options.nodes, cpus=options.cpus, gpus=options.gpus)
    except ClusterError as error:
        print(f"error[{error.code}] {error}", file=sys.stderr)
        return 8
    token = "" if os.environ["RAY_AUTH_MODE"] == "disabled" else "RAY_AUTH_MODE=token "
    lines = [
        f"started {counted(options.nodes, 'node')}; train on them with one of",
        f"  {token}python -m jobs.submit --address http://{cluster.dashboard} -- --storage /tmp/digits",
        f"  {token}python -m jobs.train --address {cluster.address}",
        "and end them with",
        f"  python -m cluster.local down{'' if options.folder == folder else f' --folder {options.folder}'}",
    ]
    return _print("\n".join(lines))


def _print(text: str) -> int:
    """Print text on standard output, and return the exit code."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        print(text, flush=True)
    except OSError as error:
        why = f"standard output cannot be written ({error.strerror}); send the output to another place"
        print(f"error[E-OUTPUT] {why}", file=sys.stderr)
        sys.stdout = None  # otherwise Python tries again at exit
        return 74
    return 0


if __name__ == "__main__":
    sys.exit(main())
