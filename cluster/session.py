"""Joins a running cluster, or starts one of our own on this machine and shuts down just that."""

import contextlib
import io
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from cluster.errors import ClusterError

CONNECT_SECONDS = 5.0

log = logging.getLogger(__name__)


@contextlib.contextmanager
def session(address: str | None, packages: Sequence[Path]) -> Iterator[None]:
    """A connection to Ray. Nothing is printed on standard output meanwhile.

    Args:
        address: "host:port" of a cluster's head, "auto" for the one on this machine; None for `RAY_ADDRESS`, which Ray
            sets for a submitted job, and without it for a cluster of our own.
        packages: the folders of the packages that tasks import; sent to the nodes of a running cluster.

    Raises:
        ClusterError: nobody answers there within seconds, or it is not the Ray that we are.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    # Ray warns that it will stop hiding GPUs from tasks without any; strategy.py hides them itself.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        ray.init(address="local", include_dashboard=False, **quiet)
    else:
        _require_listening(address)
        environment = {} if in_submitted_job() else {"py_modules": [str(folder) for folder in packages]}
        try:
            ray.init(address=address, runtime_env=environment, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(f"{address} cannot be joined: {_first_line(error)}") from error
    try:
        with contextlib.redirect_stdout(_Log()):
            yield
    finally:
        ray.shutdown()


class _Log(io.TextIOBase):
    """Takes what Ray prints, from its own threads, on a standard output that belongs to the result."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug("%s", text.strip())
        return len(text)


def in_submitted_job() -> bool:
    """Whether Ray started this driver: its code is on the nodes already, and its working folder will be deleted."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _require_listening(address: str) -> None:
    """Ray itself would retry for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise ClusterError(f'address: expected host:port of the head, as in "10.0.0.1:6379", got {address!r}')
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"{address}: nobody answers ({error}); is the head running, and this its port?") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
