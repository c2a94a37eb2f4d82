"""What fits on which node. Sums over a cluster mislead: a task that needs 2 GPUs does not fit on two nodes with 1."""

import bisect
import heapq
import math
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import ray

from cluster import ray_private
from cluster.deadlines import CONNECT_SECONDS, TICK_SECONDS, Clock, Wait
from cluster.errors import ClusterLostError, ResourcesError, counted

HEAD_INTERVAL_SECONDS = 5.0  # between two requests to the head
MAX_NODES_SHOWN = 5  # in one message
MAX_SHARES = 200  # trials in the computation of a share of the time, which takes a millisecond
PARTS = 1 << 20  # of the remaining time: a share is a whole number of them
FIXED_SECONDS = 5.0  # part of a share that does not depend on the cost of a trial, such as its compilation


@dataclass(frozen=True, kw_only=True)
class Node:
    id: str
    host: str
    cpus: int
    gpus: int
    is_alive: bool = True
    is_preempted: bool = False  # whether its owner has taken it away


@dataclass(frozen=True, kw_only=True)
class LanePlan:
    """How many lanes run at once, and what each of them holds."""

    lanes: int
    cpus: int
    gpus: int

    @property
    def lane_resources(self) -> str:
        """What one lane holds, as in "2 CPUs and 1 GPU"."""
        return counted(self.cpus, "CPU") + (f" and {counted(self.gpus, 'GPU')}" if self.gpus else "")

    def count(self, nodes: Sequence[Node]) -> int:
        """Return how many lanes fit on the nodes."""
        if not self.cpus:
            return self.lanes
        return _slots(nodes, self.cpus, self.gpus)

    def __str__(self) -> str:
        return f"{counted(self.lanes, 'lane')} of {self.lane_resources}"


def live_nodes() -> list[Node]:
    """Return the live nodes of the connected cluster. Raises ClusterLostError if its head does not answer."""
    return [node for node in _nodes(ray.get_runtime_context().gcs_address) if node.is_alive]


def _nodes(address: str) -> list[Node]:
    """Return all nodes, including dead ones, from the head at this address."""
    return [
        Node(
            id=message.node_id.hex(),
            host=message.node_manager_hostname,
            cpus=int(message.resources_total.get("CPU", 0)),
            gpus=int(message.resources_total.get("GPU", 0)),
            is_alive=message.state == ray_private.ALIVE,
            is_preempted="preempt" in str(message.death_info).lower(),
        )
        for message in _messages(address)
    ]


def _messages(address: str) -> Any:
    """Return the descriptions of all nodes from the head at this address. Raises ClusterLostError."""
    with ray_private.connection_to_head(address) as head:
        try:
            return head.GetAllNodeInfo(ray_private.GetAllNodeInfoRequest(), timeout=CONNECT_SECONDS).node_info_list
        except grpc.RpcError as error:
            raise ClusterLostError(f"the head of the cluster, {address}, does not answer; is it running?") from error


def describe_free(nodes: Sequence[Node], free: Mapping[str, Mapping[str, float]]) -> str:
    """Return what is free on the nodes with the most free CPUs.

    Args:
        free: the free amounts, by node id and resource.
    """
    texts = []
    for node in sorted(nodes, key=lambda node: -free.get(node.id, {}).get("CPU", 0))[:MAX_NODES_SHOWN]:
        here = free.get(node.id, {})
        gpus = f", {here.get('GPU', 0):g} of {counted(node.gpus, 'GPU')}" if node.gpus else ""
        texts.append(f"{node.host}: {here.get('CPU', 0):g} of {counted(node.cpus, 'CPU')}{gpus} free")
    more = len(nodes) - len(texts)
    return "; ".join([*texts, *([f"and {counted(more, 'more node')}"] if more else [])]) or "the cluster has no node"


class HeadWatch:
    """Asks the head of the connected cluster at intervals whether it is alive, and which nodes have died.

    Ray itself would end this process, without a message, a minute after it lost the head, and would wait for a task on
    an unreachable node until the connection to that node breaks.

    Args:
        ask: returns all nodes, and raises ClusterLostError if the head does not answer.
    """

    def __init__(
        self, timeout_seconds: float, ask: Callable[[], Sequence[Node]] | None = None, clock: Clock = time
    ) -> None:
        self._ask = ask or partial(_nodes, ray.get_runtime_context().gcs_address)
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._asked_at = clock.monotonic()
        self._unanswered = 0  # requests since the last answer
        nodes = self.nodes_now()
        self.live_nodes = [node for node in nodes if node.is_alive]
        self.dead_nodes: frozenset[str] = frozenset()  # their ids
        # Ray never removes a lost node from its list. Nodes that were lost earlier are ignored.
        self._dead_before = {node.id for node in nodes if not node.is_alive}

    @property
    def answers(self) -> bool:
        """Whether the head has answered the last request."""
        return not self._unanswered

    def nodes_now(self) -> Sequence[Node]:
        """Return all nodes; an empty list if the head does not answer in time."""
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
            self._unanswered += 1
            silent = self._unanswered * HEAD_INTERVAL_SECONDS
            if silent >= self._timeout_seconds:
                raise ClusterLostError(
                    f"the head of the cluster has not answered for {silent:.0f} s; is it running?"
                ) from error
            return
        self._unanswered = 0
        self.dead_nodes = frozenset(node.id for node in nodes if not node.is_alive) - self._dead_before
        self.live_nodes = [node for node in nodes if node.is_alive]


def this_machine() -> Node:
    """Return this machine as a node, without starting Ray."""
    cpus, gpus = ray_private.this_machine_resources()
    return Node(id="", host=socket.gethostname(), cpus=cpus, gpus=gpus)


def plan_lanes(
    trials: int,
    nodes: Sequence[Node],
    *,
    gpus_per_trial: int | None = None,
    cpus_per_trial: int | None = None,
    max_concurrent: int | None = None,
) -> LanePlan:
    """Return a plan with one lane per trial, but no more lanes than fit on the nodes, and at most `max_concurrent`.

    Args:
        gpus_per_trial: None for 1 if any node has a GPU, else 0.
        cpus_per_trial: None for the largest number that does not reduce the number of lanes.

    Raises:
        ResourcesError: not even one trial fits; the message names the largest node and the option to change.
    """
    gpus = min(1, max((node.gpus for node in nodes), default=0)) if gpus_per_trial is None else gpus_per_trial
    max_cpus, max_gpus = (max((getattr(node, kind) for node in nodes), default=0) for kind in ("cpus", "gpus"))
    if gpus > max_gpus:
        raise ResourcesError(
            f"each trial asks for {counted(gpus, 'GPU')}, the largest node has {max_gpus}"
            f"; use --gpus-per-trial {max_gpus} or fewer"
        )
    min_cpus = 1 if cpus_per_trial is None else cpus_per_trial
    if min_cpus > max_cpus:
        raise ResourcesError(
            f"each trial asks for {counted(min_cpus, 'CPU')}, the largest node has {max_cpus}"
            + (f"; use --cpus-per-trial {max_cpus} or fewer" if max_cpus else "; add a node with CPUs")
        )
    max_lanes = trials if max_concurrent is None else min(trials, max_concurrent)

    def lanes_with(cpus: int) -> int:
        return min(max_lanes, _slots(nodes, cpus, gpus))

    lanes = lanes_with(min_cpus)
    if not lanes:
        raise ResourcesError(
            f"each trial asks for {counted(gpus, 'GPU')} and {counted(min_cpus, 'CPU')}, no node has both"
            "; lower --gpus-per-trial or --cpus-per-trial"
        )
    cpus = cpus_per_trial or max(cpus for cpus in range(1, max_cpus + 1) if lanes_with(cpus) == lanes)
    return LanePlan(lanes=lanes, cpus=cpus, gpus=gpus)


def wait_for_plan(plan: Callable[[], LanePlan], seconds: float) -> LanePlan:
    """Return the plan as soon as enough nodes have joined. Raises its last ResourcesError after these seconds."""
    wait = Wait("nodes", timeout_seconds=seconds)
    while True:
        try:
            return plan()
        except ResourcesError as error:
            if wait.is_over:
                raise
            wait.log_if_due(partial(str, error))
        time.sleep(TICK_SECONDS)


def _slots(nodes: Sequence[Node], cpus: int, gpus: int) -> int:
    """Return how many trials fit on the nodes."""
    return sum(min(node.cpus // cpus, node.gpus // gpus if gpus else node.cpus) for node in nodes)


def share_of_time(seconds: float, costs: Sequence[float], lanes: int, busy: Sequence[float] = ()) -> float:
    """Return how many of the remaining seconds a trial may take if time is divided among the trials by cost.

    Args:
        costs: the costs of this trial and of all later ones, in the order in which they begin.
        busy: for each busy lane, the seconds until it takes another trial.
    """
    # If there are many trials, a sample of them, on a sample of the lanes, gives nearly the same share.
    step = math.ceil(len(costs) / MAX_SHARES)
    relative = [cost / costs[0] for cost in costs[::step]]
    lanes = math.ceil(lanes / step)
    busy = [min(end, seconds) for end in sorted(busy)[::step]]

    def last_end(part: int) -> float:
        share = seconds * part / PARTS
        fixed = min(share, FIXED_SECONDS)
        return makespan([fixed + cost * (share - fixed) for cost in relative], lanes, busy)

    return seconds / PARTS * (bisect.bisect_right(range(PARTS + 1), seconds, key=last_end) - 1)


def makespan(seconds: Iterable[float], lanes: int, busy: Sequence[float] = ()) -> float:
    """Return when the last trial ends, if each free lane takes the next trial.

    Args:
        seconds: how long each trial takes.
        busy: for each busy lane, the seconds until it is free.
    """
    ends = [*busy, *[0.0] * (max(1, lanes) - len(busy))]
    heapq.heapify(ends)
    for duration in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + duration)
    return max(ends)
