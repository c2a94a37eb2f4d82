"""The way to a cluster: does a Ray head answer at that address, and does it take our token?"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import grpc
import ray
from ray._private import services
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import common_pb2, gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

from cluster.connection.tokens import use_token_if_there_is_one, what_to_set
from cluster.errors import AuthError, ClusterError, ClusterLostError

CONNECT_SECONDS = 4.0
HOW_TO_START = "start one with `ray start --head`, or leave out --address to run on this machine alone"
_messages: Any = gcs_service_pb2  # made at run time: no types
_ALIVE = gcs_pb2.GcsNodeInfo.ALIVE  # type: ignore[attr-defined]
_DIED = common_pb2.NodeDeathInfo.UNEXPECTED_TERMINATION  # type: ignore[attr-defined]


def address_of(given: str | None) -> str | None:
    """The cluster to join; None for one of our own."""
    return given or os.environ.get("RAY_ADDRESS") or None


def require_head(address: str, source: str) -> str:
    """Asks the head itself, with the token: a port that listens is not enough, and Ray would try for minutes.

    Args:
        source: what named the address.

    Returns:
        host:port, also for "auto".

    Raises:
        AuthError: it answers, but wants another token than the one that is set here.
        ClusterError: no Ray head answers within seconds, or this is no address.
    """
    if address == "auto":
        address = _head_here()
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise ClusterError(
            f'{source}: expected host:port of the head, as in "10.0.0.1:6379", got {address!r}'
            + ("" if source == "--address" else "; unset it to run on this machine")
        )
    with _head(address) as head:
        try:
            head.CheckAlive(_messages.CheckAliveRequest(), timeout=CONNECT_SECONDS, wait_for_ready=True)
        except ray.exceptions.AuthenticationError as error:  # no token to send
            raise AuthError(f"{address}: {what_to_set()}") from error
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise AuthError(f"{address}: {what_to_set()}") from error
            raise ClusterError(
                f"{address}: no Ray head answers within {CONNECT_SECONDS:.0f} s; is it running, and this its port"
                " (6379 by default, not the dashboard's 8265)?"
            ) from error
    return address


def _head_here() -> str:
    try:
        address = services.canonicalize_bootstrap_address_or_die("auto")
    except ConnectionError as error:
        raise ClusterError(f"--address auto: no Ray runs on this machine; {HOW_TO_START}") from error
    use_token_if_there_is_one()
    return str(address)


def count_nodes(address: str) -> int:
    """The live nodes of the cluster; 0 as long as its head does not answer."""
    try:
        return sum(node.state == _ALIVE for node in _nodes(address))
    except ClusterLostError:
        return 0


def dead_nodes(address: str) -> set[str]:
    """The ids of those that have gone, in any way.

    Raises:
        ClusterLostError: the head does not answer within seconds.
    """
    return {node.node_id.hex() for node in _nodes(address) if node.state != _ALIVE}


def lost_nodes(address: str) -> list[str]:
    """The hosts of the nodes that have died; not of those that were taken away, or that have another by now."""
    nodes = _nodes(address)
    alive = [node for node in nodes if node.state == _ALIVE]

    def is_back(lost: Any) -> bool:
        return any(
            node.node_manager_address == lost.node_manager_address and node.start_time_ms >= lost.end_time_ms
            for node in alive
        )

    return [
        f"{node.node_manager_hostname} ({node.node_id.hex()[:8]})"
        for node in nodes
        if node.state != _ALIVE and node.death_info.reason == _DIED and not is_back(node)
    ]


def _nodes(address: str) -> Any:
    with _head(address) as head:
        try:
            return head.GetAllNodeInfo(_messages.GetAllNodeInfoRequest(), timeout=CONNECT_SECONDS).node_info_list
        except grpc.RpcError as error:
            raise ClusterLostError(f"the head of the cluster, {address}, does not answer; is it running?") from error


@contextlib.contextmanager
def _head(address: str) -> Iterator[Any]:
    with init_grpc_channel(address) as channel:  # with the token, and certificates if RAY_USE_TLS says so
        yield gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]


ASK_SECONDS = 5.0  # from one question to the next


class HeadWatch:
    """Ray itself would end this process when the head has been gone for a minute, without a word; and of a task on a
    node whose link was cut, it would wait for the connection to break.

    Args:
        most_seconds: without an answer.
    """

    def __init__(self, most_seconds: float) -> None:
        self.dead_nodes: set[str] = set()  # their ids
        self._most_seconds = most_seconds
        self._answered_at = self._asked_at = time.monotonic()

    def check(self) -> None:
        """To be called often; asks at intervals.

        Raises:
            ClusterLostError: it has not answered for too long.
        """
        if time.monotonic() - self._asked_at < ASK_SECONDS:
            return
        self._asked_at = time.monotonic()
        try:
            self.dead_nodes = dead_nodes(ray.get_runtime_context().gcs_address)
            self._answered_at = time.monotonic()
        except ClusterLostError as error:
            silent = time.monotonic() - self._answered_at
            if silent > self._most_seconds:
                raise ClusterLostError(
                    f"the head of the cluster has not answered for {silent:.0f} s; is it running?"
                ) from error
