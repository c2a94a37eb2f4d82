"""A cluster as an administrator starts it: by `python -m cluster.local`, with a job server."""

import contextlib
import os
import re
import shutil
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
    """Provide a cluster whose HOME is in the folder, with additional environment variables."""
    home, own = folder / "home", Path(tempfile.mkdtemp(prefix="c"))  # short: socket paths have at most 107 bytes
    home.mkdir(parents=True)
    command = [sys.executable, "-m", "cluster.local"]
    environment = {**os.environ, "HOME": str(home), **environment}
    options = [f"--nodes={nodes}", "--port=0", "--dashboard-port=0", f"--folder={own}"]
    up = subprocess.run([*command, "up", *options], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert up.returncode == 0, up.stderr
    dashboard, address = re.findall(r"--address (\S+)", up.stdout)
    try:
        yield Cluster(address, dashboard, own)
    finally:
        log = (own / "node-0.log").read_text()
        down = subprocess.run([*command, "down", options[-1]], cwd=ROOT, capture_output=True, check=True, text=True)
        shutil.rmtree(own)
        assert down.stdout != "processes ended: 0\n", f"the cluster ended before its tests did:\n{log}"
