"""A cluster as an administrator starts it, by `cluster.local`: real `ray start`, with a job server."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cluster:
    address: str  # host:port of the head
    dashboard: str  # URL of the job server
    folder: Path


@contextlib.contextmanager
def local_cluster(folder: Path, *, nodes: int = 1, **environment: str) -> Iterator[Cluster]:
    """`folder`: for its HOME."""
    home, own = folder / "home", Path(tempfile.mkdtemp(prefix="c"))  # short: there are sockets in it
    home.mkdir(parents=True)
    command = [sys.executable, "-m", "cluster.local"]
    environment = {**os.environ, "HOME": str(home), **environment}
    port, dashboard = _free_ports(2)
    flags = [f"--nodes={nodes}", f"--port={port}", f"--dashboard-port={dashboard}", f"--folder={own}"]
    up = subprocess.run([*command, "up", *flags], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert up.returncode == 0, up.stderr
    try:
        yield Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", own)
    finally:
        subprocess.run([*command, "down", flags[-1]], cwd=ROOT, capture_output=True, check=True)
        shutil.rmtree(own)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]
