"""Run a command on a full or read-only disk, mounted in a namespace because root ignores file modes."""

import subprocess
from pathlib import Path

import pytest

from tests.support.bounds import JOB_SECONDS

ROOT = Path(__file__).parents[3]
NAMESPACE = ["unshare", "--map-root-user", "--mount"]


def require_namespaces() -> None:
    """Skip the test if this machine does not allow mount namespaces."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not allow mount namespaces")


def run_with_mount(mount: str, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command after the shell command `mount`, both in a mount namespace of their own."""
    script = f'{mount} && exec "$@"'
    arguments = [*NAMESPACE, "sh", "-c", script, "sh", *map(str, command)]
    return subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, timeout=JOB_SECONDS)


def read_only(folder: Path) -> str:
    """Return the shell command that makes a folder read-only."""
    return f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
