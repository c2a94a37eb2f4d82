"""A connection to a running cluster, or to one that is started on this machine and ends with the connection."""

import contextlib
import io
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from cluster.connection import ray_private
from cluster.connection.address import address_of, ensure_private_token, require_head, token_advice
from cluster.deadlines import LOST_SHUTDOWN_SECONDS
from cluster.errors import AuthError, ClusterError, ClusterLostError, first_line

log = logging.getLogger(__name__)

_private_folders: list[str] = []  # of clusters that this process has started


@contextlib.contextmanager
def session(address: str | None, packages: Sequence[Path]) -> Iterator[None]:
    """Connect to Ray until the block ends. Within the block, what is printed on standard output is logged.

    Args:
        address: "host:port" of the head of a cluster to which this machine belongs, or "auto" to find that head. None
            means `RAY_ADDRESS`, which Ray sets for a submitted job. If that is not set, a cluster is started here.
        packages: folders of the packages that tasks import; sent to the nodes of a running cluster.

    Raises:
        AuthError: the cluster expects another token.
        ClusterError: no Ray head answers within seconds, or the cluster cannot be joined or started.
    """
    source, address = "--address" if address else "RAY_ADDRESS", address_of(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        require_head(address, source)
        if not in_submitted_job():
            options["runtime_env"] = {"py_modules": [str(folder) for folder in packages]}
    else:
        ensure_private_token()
    with contextlib.ExitStack() as stack:
        stack.callback(_delete_private_folders)
        try:
            if address is None:
                ray_private.start_cluster(_new_private_folder(), **options)
            else:
                ray_private.connect(address, **options)
        except ray.exceptions.AuthenticationError as error:
            raise AuthError(token_advice()) from error
        except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
            if address is None:
                raise ClusterError(f"Ray cannot be started here: {first_line(error)}") from error
            raise ClusterError(
                f"{address} cannot be joined: {first_line(error)}; run this on one of its nodes, or as a job"
                " (jobs.submit)"
            ) from error
        stack.enter_context(contextlib.redirect_stdout(_Log()))  # during the shutdown too
        shut_down = ray.shutdown
        try:
            yield
        except ClusterLostError:
            shut_down = _shut_down_lost_cluster
            raise
        finally:
            shut_down()


def _new_private_folder() -> Path:
    """Return a new folder that other users cannot reach.

    Ray lets all users write into its folder and every folder in it, so its folder is inside one that is private.
    """
    _private_folders.append(tempfile.mkdtemp(prefix="ray-", dir=os.environ.get("RAY_TMPDIR")))
    return Path(_private_folders[-1], "r")  # short, since it holds sockets, whose paths have at most 107 bytes


def _delete_private_folders() -> None:
    for folder in _private_folders:
        shutil.rmtree(folder, ignore_errors=True)


def end_of_node() -> int | None:
    """Return a file descriptor that is ready to read once Ray's process on this node has ended; None if unknown."""
    import psutil  # bundled with Ray

    mark = ray_private.NODE_ARGUMENT + ray.get_runtime_context().get_node_id()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, AttributeError):  # the process has ended, or this is not Linux
            if mark in process.cmdline():
                return os.pidfd_open(process.pid)
    return None


def end_children() -> None:
    """Kill all processes that this one has started, with their descendants, and delete the files of its cluster.

    All are suspended first: one that is starting while its parent is killed would be missed, and survive.
    """
    import psutil  # bundled with Ray

    stopped: set[psutil.Process] = set()
    while new := {*psutil.Process().children(recursive=True)} - stopped:
        for child in new:
            with contextlib.suppress(psutil.Error):
                child.suspend()
        stopped |= new
    for child in stopped:
        with contextlib.suppress(psutil.Error):
            child.kill()
    _delete_private_folders()


def _shut_down_lost_cluster() -> None:
    thread = threading.Thread(target=ray.shutdown, daemon=True)
    thread.start()
    thread.join(LOST_SHUTDOWN_SECONDS)


class _Log(io.TextIOBase):
    """Logs what Ray's threads print on standard output, which is reserved for the result."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug("%s", text.strip())
        return len(text)


def in_submitted_job() -> bool:
    """Return whether the job server started this process.

    If so, the nodes already have this code, and the working folder will be deleted.
    """
    return ray_private.JOB_VARIABLE in os.environ
