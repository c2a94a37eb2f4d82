"""A connection to a running cluster, or to one that is started on this machine and ends with the connection.

Whoever has a cluster's token may run anything on it. Messages say where Ray looks for the token, never what it is.
"""

import contextlib
import io
import logging
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import ray

from cluster import ray_private
from cluster.deadlines import CONNECT_SECONDS, LOST_SHUTDOWN_SECONDS
from cluster.errors import AuthError, ClusterError, ClusterLostError, first_line

log = logging.getLogger(__name__)

TOKEN_FILE = "~/.ray/auth_token"  # Ray looks in RAY_AUTH_TOKEN first, then in the file of RAY_AUTH_TOKEN_PATH

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
        except Exception as error:  # Ray raises this class itself if a node does not start within 30 s
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


# Addresses


def address_of(given: str | None) -> str | None:
    """Return the address of the cluster to join; None to start one on this machine."""
    return given or os.environ.get("RAY_ADDRESS") or None


def require_head(address: str, source: str) -> str:
    """Check that a head answers at the address and accepts our token. Ray itself would try for minutes.

    Args:
        source: the option or variable that named the address.

    Returns:
        host:port, also for "auto".

    Raises:
        AuthError: the head expects a different token.
        ClusterError: no Ray head answers within seconds, or the address is malformed.
    """
    if address == "auto":
        try:
            address = ray_private.head_on_this_machine()
        except ConnectionError as error:
            raise ClusterError(
                "--address auto: Ray is not running here; start it with `ray start --head`, or leave out --address"
            ) from error
        ray_private.enable_token_if_found()  # as ray.init("auto") does; with other addresses Ray uses RAY_AUTH_MODE
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise ClusterError(
            f'{source}: expected host:port of the head, as in "10.0.0.1:6379", got {address!r}'
            + ("" if source == "--address" else "; unset it to run on this machine")
        )
    try:
        with ray_private.connection_to_head(address) as head:
            head.CheckAlive(ray_private.CheckAliveRequest(), timeout=CONNECT_SECONDS, wait_for_ready=True)
    except ray.exceptions.AuthenticationError as error:  # there is no token to send
        raise AuthError(f"{address}: {token_advice()}") from error
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise AuthError(f"{address}: {token_advice()}") from error
        raise ClusterError(
            f"{address}: no Ray head answers within {CONNECT_SECONDS:.0f} s; is it running, and is this its port"
            " (6379 by default, not the dashboard's 8265)?"
        ) from error
    return address


# Tokens


def token_advice() -> str:
    """Return what to set when a cluster refuses our token, or when it expects one and we send none."""
    put = f"put its token, which `ray get-auth-token` prints on its head, into {TOKEN_FILE} or RAY_AUTH_TOKEN"
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return f"the cluster expects a token, and none is sent; set RAY_AUTH_MODE=token and {put}"
    if os.environ.get("RAY_AUTH_TOKEN"):  # Ray uses this variable first, then the file
        return f"the token in RAY_AUTH_TOKEN is not the cluster's; {put}"
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if file and not _has_token():
        return f"RAY_AUTH_TOKEN_PATH is {file}, which holds no token or cannot be read; put the cluster's token there"
    if not _has_token():
        return f"the cluster expects a token, and none is found here; {put}"
    return f"the token in {file or TOKEN_FILE} is not the cluster's; {put}"


def ensure_private_token() -> None:
    """Set a token for this process only, unless there is one. Ray would write it into HOME, which may not exist."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return  # load no token: Ray would then expect one from its workers, which send none in this mode
    if not _has_token(ignore_auth_mode=True):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        ray_private.token_loader().reset_cache()


def _has_token(*, ignore_auth_mode: bool = False) -> bool:
    try:
        return bool(ray_private.token_loader().has_token(ignore_auth_mode=ignore_auth_mode))
    except ray.exceptions.AuthenticationError:
        return False
