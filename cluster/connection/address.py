"""Access to a cluster: does a Ray head answer at a given address, and does it accept our token?

Whoever has a cluster's token may run anything on it. Messages say where Ray looks for the token, never what it is.
"""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import ray

from cluster.connection import ray_private
from cluster.deadlines import CONNECT_SECONDS, Clock
from cluster.errors import AuthError, ClusterError, ClusterLostError

TOKEN_FILE = "~/.ray/auth_token"  # Ray looks in RAY_AUTH_TOKEN first, then in the file of RAY_AUTH_TOKEN_PATH
HEAD_INTERVAL_SECONDS = 5.0  # between two requests to the head
UNUSED_PORTS = range(16_384, 32_768)  # Linux uses higher ports for outgoing connections


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


def unused_port(host: str = "") -> int:
    """Return a port of this machine on which no process listens, and which no outgoing connection will take."""
    while True:
        with socket.socket() as unused, contextlib.suppress(OSError):
            unused.bind((host, secrets.choice(UNUSED_PORTS)))
            port: int = unused.getsockname()[1]
            return port


def lost_nodes(address: str) -> list[str]:
    """Return host and id of each node that died, unless another has started on its host since."""
    nodes = sorted(_nodes(address), key=lambda node: node.start_time_ms)
    started_at = {node.node_manager_address: node.start_time_ms for node in nodes if node.state == ray_private.ALIVE}
    return [
        f"{node.node_manager_hostname} ({node.node_id.hex()[:8]})"
        for node in nodes
        if node.state != ray_private.ALIVE
        and node.death_info.reason == ray_private.DIED
        and started_at.get(node.node_manager_address, -1) < node.end_time_ms
    ]


def _nodes(address: str) -> Any:
    with ray_private.connection_to_head(address) as head:
        try:
            return head.GetAllNodeInfo(ray_private.GetAllNodeInfoRequest(), timeout=CONNECT_SECONDS).node_info_list
        except grpc.RpcError as error:
            raise ClusterLostError(f"the head of the cluster, {address}, does not answer; is it running?") from error


class HeadWatch:
    """Asks the head of the connected cluster at intervals whether it is alive, and which nodes have died.

    Ray itself would end this process, without a message, a minute after it lost the head, and would wait for a task on
    an unreachable node until the connection to that node breaks.
    """

    def __init__(
        self, timeout_seconds: float, ask: Callable[[], Sequence[Any]] | None = None, clock: Clock = time
    ) -> None:
        self.dead_nodes: frozenset[str] = frozenset()  # their ids
        self.live_nodes: Sequence[Any] | None = None  # as Ray describes them; None before the first answer
        self._address = "" if ask else ray.get_runtime_context().gcs_address
        self._ask = ask or (lambda: _nodes(self._address))
        self._timeout_seconds, self._clock = timeout_seconds, clock
        self._asked_at = clock.monotonic()
        self.unanswered = 0  # requests since the last answer
        # Ray never removes a lost node from its list. Nodes that were lost earlier are ignored.
        self._dead_before = frozenset(n.node_id.hex() for n in self.nodes_now() if n.state != ray_private.ALIVE)

    def nodes_now(self) -> Sequence[Any]:
        """Return all nodes as Ray's head describes them; an empty list if it does not answer within seconds."""
        try:
            return self._ask()
        except ClusterLostError:
            return []

    def check(self) -> None:
        """Send a request if the last one was long enough ago.

        Raises ClusterLostError after the timeout without an answer. The timeout is counted in requests, so that a
        pause of this process does not end a run.
        """
        if self._clock.monotonic() - self._asked_at < HEAD_INTERVAL_SECONDS:
            return
        self._asked_at = self._clock.monotonic()
        try:
            nodes = self._ask()
        except ClusterLostError as error:
            self.unanswered += 1
            silent = self.unanswered * HEAD_INTERVAL_SECONDS
            if silent >= self._timeout_seconds:
                raise ClusterLostError(
                    f"the head of the cluster has not answered for {silent:.0f} s; is it running?"
                ) from error
            return
        self.unanswered = 0
        dead = frozenset(node.node_id.hex() for node in nodes if node.state != ray_private.ALIVE)
        self.dead_nodes = dead - self._dead_before
        self.live_nodes = [node for node in nodes if node.state == ray_private.ALIVE]


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


def token_file() -> Path | None:
    """Return where Ray looks for a file with the token; None if there is no home folder."""
    with contextlib.suppress(RuntimeError):
        return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    return None


def ensure_token() -> None:
    """Create a token for a cluster that other machines may join, unless one exists where Ray looks for it."""
    before = os.umask(0o077)  # Ray would let other users read it
    try:
        ray_private.enable_and_create_token()
    finally:
        os.umask(before)


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
