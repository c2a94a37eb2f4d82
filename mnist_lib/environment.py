"""This process: the versions that a result depends on, how Keras is imported, and the time.

Times are written in UTC to the second, as in 2026-11-26T03:00:00Z.
"""

import contextlib
import functools
import gc
import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Protocol

from mnist_lib.errors import ClockError, VersionsError

# Keras imports these if they are installed, which doubles the time of its import; nothing here needs them.
KERAS_IMPORTS_IF_INSTALLED = ("matplotlib", "pandas", "PIL", "scipy", "sklearn")

# A result depends on the versions of these; they are recorded with it.
RESULT_PACKAGES = ("tensorflow", "keras", "ray", "tensorflow-datasets", "numpy")

YEARS = range(2000, 2200)  # of the times in stored documents
MIN_YEAR_NOW = 2020  # a clock that shows an earlier one was reset, as on a machine that starts without a network
MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")

# Begins the command of a child process. -P: modules are not looked for in the working folder, which may be of others.
MODULE = (sys.executable, "-P", "-m")


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use. Only Linux can tell that they are fewer than all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def child_variables(**more: str) -> dict[str, str]:
    """Return variables of the environment with which a child process finds modules where this process does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed `RESULT_PACKAGES`, without importing any."""
    versions = {"python": platform.python_version()}
    for name in RESULT_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name.replace("-", "_")] = metadata.version(name)
    return versions


def differing_versions(others: Mapping[str, str], here: Mapping[str, str] | None = None) -> str:
    """Describe how the versions of another process differ from `here` (default: this process's); "" if they do not.

    Versions of Python that differ only in the patch release are regarded as equal.
    """
    here = package_versions() if here is None else here
    differing = [
        f"{name} {others.get(name, 'none')} there, {here.get(name, 'none')} here"
        for name in ("python", *(package.replace("-", "_") for package in RESULT_PACKAGES))
        if _comparable(name, others.get(name)) != _comparable(name, here.get(name))
    ]
    return ", ".join(differing)


def _comparable(name: str, version: str | None) -> str | None:
    return version.rpartition(".")[0] if version and name == "python" else version


def code_version(packages: Sequence[Path]) -> dict[str, str | bool]:
    """Return the version of the code in the folders of this project's packages.

    It is the `sha256` of the paths and contents of all Python files; in a Git checkout also the `commit`, and whether
    the folders are `dirty`, that is, differ from the commit.
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


def import_keras(*, gpus: bool = True) -> None:
    """Import Keras and TensorFlow quietly, and without what Keras imports merely because it is installed.

    With `gpus=False`, TensorFlow sees no GPU in this process, but in its child processes it does.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only; read when TensorFlow is imported
    hidden = [name for name in KERAS_IMPORTS_IF_INSTALLED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # its import fails as if it were not installed
    hiding = contextlib.nullcontext() if gpus else _gpus_hidden()
    # TensorFlow prints before it reads its log level, and CUDA complains without a GPU.
    with quietly(), hiding, _without_collections():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()
    for name in hidden:
        del sys.modules[name]


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Do not look for garbage among what is imported, now or later: that takes a fifth of the time of the imports."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _gpus_hidden() -> Iterator[None]:
    """Hide GPUs from CUDA by CUDA_VISIBLE_DEVICES, which it reads once: when TensorFlow first lists its devices."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        yield
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Discard what this process, including its C++ code, writes to stderr. Exceptions still propagate."""
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a Git command, or None without Git or outside a checkout."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def require_same_versions(host: str, of_worker: Mapping[str, str], of_driver: Mapping[str, str]) -> None:
    """Raise VersionsError if the package versions of a worker differ from those of the driver."""
    differing = differing_versions(of_worker, of_driver)
    if differing:
        raise VersionsError(
            f"the worker on {host} has different package versions from the driver: {differing}"
            "; install requirements/runtime.lock on every node"
        )


class Clock(Protocol):
    def now(self) -> datetime:
        """Return the wall clock's time in UTC. It jumps when somebody sets the clock."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary instant, including time the machine was suspended."""


class SystemClock:
    sleep = staticmethod(time.sleep)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return steady_time()


def steady_time() -> float:
    """Return the Unix time, read from the wall clock once in each process, plus the seconds since then.

    Time limits run on it: when somebody sets the wall clock, `time.time()` jumps, but this does not.
    """
    return _unix_time_of_boot() + _seconds_since_boot()


def _seconds_since_boot() -> float:
    # Linux's monotonic clock stops while the machine is suspended; CLOCK_BOOTTIME does not.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@functools.cache
def _unix_time_of_boot() -> float:
    return time.time() - _seconds_since_boot()


def text_of(moment: datetime) -> str:
    """Return an aware time as ISO 8601 in UTC, truncated to seconds: "2026-11-26T03:00:00Z"."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def timestamp(now: datetime) -> str:
    """Return the current time as `text_of` writes it, to be stored. Raises ClockError if no command could read it."""
    if not MIN_YEAR_NOW <= now.astimezone(UTC).year < YEARS.stop:
        expected = f"a year from {MIN_YEAR_NOW} to {YEARS.stop - 1}"
        raise ClockError(f"clock of this machine: expected {expected}, got {text_of(now)}; set the clock")
    return text_of(now)


def now_text() -> str:
    """Return the current time, as `timestamp`."""
    return timestamp(SystemClock().now())


def as_file_name(text: str) -> str:
    """Return the text of a time without colons, for names of files and runs: "2026-11-26T03-00-00Z"."""
    return text.replace(":", "-")


def moment_of(text: str) -> datetime:
    """Parse a time that `text_of` wrote. Raises ValueError for any other form."""
    if MOMENT.fullmatch(text):
        with contextlib.suppress(ValueError):  # there is no such day, say
            return datetime.fromisoformat(text)
    raise ValueError(f"expected a UTC time such as 2026-11-26T03:00:00Z, got {text[:40]!r}")
