"""What a process computes with: the versions that a result depends on, beside its spec; and how Keras is imported."""

import contextlib
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

# Nothing here uses them; where they are installed, they double the time of Keras' import.
KERAS_IMPORTS_IF_INSTALLED = ("matplotlib", "pandas", "PIL", "scipy", "sklearn")

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


def differing_versions(others: Mapping[str, str]) -> str:
    """What another process computes with and this one does not, for people; "" if nothing. Python 3.11 is 3.11."""
    own = package_versions()
    differing = [
        f"{name} {others.get(name, 'none')} there, {own.get(name, 'none')} here"
        for name in ("python", *(package.replace("-", "_") for package in PACKAGES))
        if _comparable(name, others.get(name)) != _comparable(name, own.get(name))
    ]
    return ", ".join(differing)


def _comparable(name: str, version: str | None) -> str | None:
    return version.rpartition(".")[0] if version and name == "python" else version


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


def import_keras() -> None:
    """Before anything else of TensorFlow: quietly, and without what Keras imports merely because it is installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only; read when TensorFlow is imported
    hidden = [name for name in KERAS_IMPORTS_IF_INSTALLED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails, as if it were not installed
    with quietly():  # what is said before the level is read, and by CUDA where there is no GPU
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()
    for name in hidden:
        del sys.modules[name]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Of the whole process, its C++ too. An exception is told nonetheless."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _git(folder: Path, *arguments: str) -> str | None:
    """None where there is no Git, or no checkout."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
