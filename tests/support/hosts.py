"""Several hosts on one machine: network namespaces that a bridge connects.

Each has an address, a name, and home, temporary and working folders of its own. They share the kernel, the clock and
the installed packages, but neither files nor this project's code.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tests.support.bounds import GROUP_SECONDS, wait_until
from tests.support.local_cluster import HEALTH_CHECKS, STARTED

ROOT = Path(__file__).parents[2]
NETWORK = "10.213.77"
# Gives the host a /tmp/ray of its own, and hides the other hosts' folders and this project's code.
ENTER = """
mkdir -p /tmp/ray && mount --bind "$HOST_FOLDER" /mnt && mount -t tmpfs none "$(dirname "$HOST_FOLDER")" || exit 1
mkdir "$HOST_FOLDER" && mount --move /mnt "$HOST_FOLDER" && mount --bind "$HOST_FOLDER/ray" /tmp/ray || exit 1
hostname "$HOST_NAME" && cd "$HOST_FOLDER/work" || exit 1
for code in $HIDDEN; do mount -t tmpfs none "$code" || exit 1; done
exec "$@"
"""
SYSTEM_CONFIG = json.dumps({**HEALTH_CHECKS, "health_check_timeout_ms": 1_000})  # detects an unresponsive node sooner


class Host:
    """A host that writes only into `folder`."""

    def __init__(self, name: str, number: int, folder: Path, *, has_code: bool) -> None:
        self.name, self.address, self.folder = name, f"{NETWORK}.{number}", folder
        self.namespace = f"{name}-{uuid.uuid4().hex[:6]}"
        self._link = f"v{uuid.uuid4().hex[:8]}"
        self._hidden = [] if has_code else [str(ROOT / package) for package in ("jobs", "mnist_lib", "cluster")]
        self._processes: list[subprocess.Popen[str]] = []
        for sub in ("home", "work", "tmp", "ray"):
            (folder / sub).mkdir(parents=True)

    def join(self, bridge: str) -> None:
        inside = f"p{self._link[1:]}"
        _ip("link", "add", self._link, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", self.namespace)
        _ip("link", "set", self._link, "master", bridge, "up")
        _ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", inside)
        for device in ("lo", inside):
            _ip("-n", self.namespace, "link", "set", device, "up")
        _ip("-n", self.namespace, "route", "add", "default", "dev", inside)  # Ray finds the host's address by it

    def leave(self) -> None:
        self.kill()
        _ip("netns", "del", self.namespace)  # also deletes its end of the link

    def set_link(self, state: str) -> None:
        """Set the network link "up" or "down"."""
        _ip("link", "set", self._link, state)

    def kill(self) -> None:
        """Kill every process of the host."""
        while pids := subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True
        ).stdout.split():
            subprocess.run(["kill", "-KILL", *pids], capture_output=True)
            time.sleep(0.1)
        for process in self._processes:
            process.wait()

    def start(self, *command: str, environment: dict[str, str], log: IO[str] | None = None) -> "subprocess.Popen[str]":
        enter = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", "sh", "-c", ENTER, "sh"]
        own = {
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "HOST_FOLDER": str(self.folder),
            "HOST_NAME": self.name,
            "HIDDEN": " ".join(self._hidden),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        output, errors = (subprocess.PIPE, subprocess.PIPE) if log is None else (log, log)
        process = subprocess.Popen(
            [*enter, *command], env={**os.environ, **own, **environment}, stdout=output, stderr=errors, text=True
        )
        self._processes.append(process)
        return process

    def run(self, *command: str, environment: dict[str, str]) -> tuple[int, str, str]:
        process = self.start(*command, environment=environment)
        stdout, stderr = process.communicate(timeout=GROUP_SECONDS)
        return process.returncode, stdout, stderr


@contextlib.contextmanager
def hosts(names: Sequence[str]) -> Iterator[list[Host]]:
    """Provide hosts; the last one has this project's code, and is meant for a client outside the cluster."""
    folder = Path(tempfile.mkdtemp(prefix="h"))  # short, since the path of a socket has at most 107 bytes
    bridge = f"b{uuid.uuid4().hex[:8]}"
    made = [Host(name, n, folder / name, has_code=name == names[-1]) for n, name in enumerate(names, start=1)]
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, folder)
        _ip("link", "add", bridge, "type", "bridge")
        undo.callback(_ip, "link", "del", bridge)
        _ip("link", "set", bridge, "up")
        for host in made:
            _ip("netns", "add", host.namespace)
            undo.callback(host.leave)
            host.join(bridge)
        yield made


def start_ray(host: Host, head: Host, environment: dict[str, str]) -> None:
    """Start a node of Ray on the host, as an administrator would, and wait until it has joined."""
    own = [f"--node-ip-address={host.address}", "--num-cpus=1", "--object-store-memory=100000000", "--block"]
    if host is head:
        role = ["--head", "--port=6379", f"--dashboard-host={host.address}", f"--system-config={SYSTEM_CONFIG}"]
    else:
        role = [f"--address={head.address}:6379"]
    log = host.folder / "ray.log"
    with log.open("w") as output:
        process = host.start("ray", "start", *role, *own, "--disable-usage-stats", log=output, environment=environment)

    def has_started() -> bool:
        assert process.poll() is None, log.read_text()
        return STARTED in log.read_text()

    wait_until(has_started, log.read_text)


def available() -> bool:
    """Return whether this process may create network namespaces."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"try-{uuid.uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], capture_output=True).returncode == 0


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)
