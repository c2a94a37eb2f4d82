"""Joins a running cluster, or starts one of our own on this machine and shuts down just that."""

import contextlib
import io
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from cluster.connection.address import address_of, require_head
from cluster.connection.tokens import ensure_own_token, what_to_set
from cluster.errors import AuthError, ClusterError, ClusterLostError, first_line

LOST_SHUTDOWN_SECONDS = 5.0

log = logging.getLogger(__name__)


@contextlib.contextmanager
def session(address: str | None, packages: Sequence[Path]) -> Iterator[None]:
    """A connection to Ray. Nothing is printed on standard output meanwhile.

    Args:
        address: "host:port" of a cluster's head, "auto" for the one on this machine; None for `RAY_ADDRESS`, which Ray
            sets for a submitted job, and without it for a cluster of our own. This process must run on one of the
            cluster's nodes.
        packages: the folders of the packages that tasks import; sent to the nodes of a running cluster.

    Raises:
        AuthError: it wants another token than the one that is set here.
        ClusterError: no Ray answers there within seconds, or it cannot be joined or started.
    """
    source = "--address" if address else "RAY_ADDRESS"
    address = address_of(address)
    options: dict[str, Any] = {"address": "local", "include_dashboard": False}
    if address is not None:
        require_head(address, source)
        options = {"address": address}
        if not in_submitted_job():
            options["runtime_env"] = {"py_modules": [str(folder) for folder in packages]}
    else:
        ensure_own_token()
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except ray.exceptions.AuthenticationError as error:
        raise AuthError(what_to_set()) from error
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        if address is None:
            raise ClusterError(f"Ray cannot be started here: {first_line(error)}") from error
        raise ClusterError(
            f"{address} cannot be joined: {first_line(error)}; run this on one of its nodes, or as a job (jobs.submit)"
        ) from error
    with contextlib.redirect_stdout(_Log()):  # while it ends, too
        shut_down = ray.shutdown
        try:
            yield
        except ClusterLostError:
            shut_down = _shut_down_in_time
            raise
        finally:
            shut_down()


def end_children() -> None:
    """Kills every process that this one has started, and those that they have."""
    import psutil  # Ray brings its own

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()


def _shut_down_in_time() -> None:
    """Of a cluster that is gone, Ray waits for the answer for a minute."""
    thread = threading.Thread(target=ray.shutdown, daemon=True)
    thread.start()
    thread.join(LOST_SHUTDOWN_SECONDS)


class _Log(io.TextIOBase):
    """Takes what Ray prints, from its own threads, on a standard output that belongs to the result."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug("%s", text.strip())
        return len(text)


def in_submitted_job() -> bool:
    """Whether Ray started this driver: its code is on the nodes already, and its working folder will be deleted."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
