"""What a process computes with: the versions that a result depends on, beside its spec."""

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

PACKAGES = ("tensorflow", "keras", "ray", "tensorflow-datasets", "numpy")


def package_versions() -> dict[str, str]:
    """Of this process's Python and packages, without importing any; what is not installed is left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name.replace("-", "_")] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def code_version(packages: Sequence[Path]) -> dict[str, str | bool]:
    """Of the folders of this project's packages.

    Returns:
        `sha256` of all their Python files, in order, with their paths; where they lie in a Git checkout also its
        `commit`, and whether they are `dirty`: unlike what was committed.
    """
    digest = hashlib.sha256()
    for package in sorted(packages):
        for path in sorted(package.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(package.parent).as_posix()} {len(content)}\n".encode() + content)
    version: dict[str, str | bool] = {"sha256": digest.hexdigest()}
    commit = _git(packages[0], "rev-parse", "HEAD")
    if commit is not None:
        status = _git(packages[0], "status", "--porcelain", "--", *map(str, packages))
        version |= {"commit": commit, "dirty": status != ""}
    return version


def _git(folder: Path, *arguments: str) -> str | None:
    """None where there is no Git, or no checkout."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
