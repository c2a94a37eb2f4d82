"""What fits where. Sums over a cluster mislead: two nodes of one GPU are not two GPUs to a task that asks for two."""

import itertools
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import ray
from ray._private.accelerators import NvidiaGPUAcceleratorManager
from ray._private.state import available_resources_per_node
from ray._private.utils import get_num_cpus

from cluster.errors import ResourcesError
from cluster.lanes.deadlines import Waiting

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Node:
    id: str
    host: str
    cpus: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class LanePlan:
    """How many lanes run at once, and what each holds."""

    lanes: int
    cpus: int
    gpus: int
    nodes: int = 1  # of each lane, which holds so much of each of them

    @property
    def asked(self) -> str:
        """By each lane."""
        of_one = f"{self.cpus} CPU(s)" + (f" and {self.gpus} GPU(s)" if self.gpus else "")
        return of_one if self.nodes == 1 else f"{of_one} on each of {self.nodes} nodes"

    def __str__(self) -> str:
        return f"{self.lanes} lane(s) of {self.asked}"


def live_nodes() -> list[Node]:
    """Of the connected cluster."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Node(
            id=node["NodeID"],
            host=node["NodeManagerHostname"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in nodes
        if node["Alive"]
    ]


def what_is_free() -> str:
    """On each node of the connected cluster, for people."""
    free: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    told = []
    for node in live_nodes():
        here = free.get(node.id, {})
        gpus = f", {here.get('GPU', 0):g} of {node.gpus} GPU(s)" if node.gpus else ""
        told.append(f"{node.host}: {here.get('CPU', 0):g} of {node.cpus} CPU(s){gpus} free")
    return "; ".join(told) or "there is no node"


def this_machine() -> Node:
    """As Ray would find it, without the seconds that starting Ray takes."""
    return Node(
        id="",
        host=socket.gethostname(),
        cpus=int(get_num_cpus()),
        gpus=NvidiaGPUAcceleratorManager.get_current_node_num_accelerators(),
    )


def plan_lanes(
    trials: int,
    nodes: Sequence[Node],
    *,
    gpus_per_trial: int | None = None,
    cpus_per_trial: int | None = None,
    nodes_per_trial: int = 1,
    max_concurrent: int | None = None,
) -> LanePlan:
    """As many lanes at once as there are trials, or as fit, or as are wanted.

    Left out, `gpus_per_trial` is 1 where there is any GPU, else 0; `cpus_per_trial` is the most that still lets as many
    lanes run at once as one CPU each would. Both are of each of the trial's nodes.

    Raises:
        ResourcesError: no node, or too few, can hold even one trial; the message has the largest node and the flag to
            change.
    """
    gpus = min(1, max((node.gpus for node in nodes), default=0)) if gpus_per_trial is None else gpus_per_trial
    most_cpus, most_gpus = (max((getattr(node, kind) for node in nodes), default=0) for kind in ("cpus", "gpus"))
    if gpus > most_gpus:
        raise ResourcesError(
            f"each trial asks for {gpus} GPU(s), the largest node has {most_gpus}"
            f"; use --gpus-per-trial {most_gpus} or fewer"
        )
    least_cpus = 1 if cpus_per_trial is None else cpus_per_trial
    if least_cpus > most_cpus:
        raise ResourcesError(
            f"each trial asks for {least_cpus} CPU(s), the largest node has {most_cpus}"
            + (f"; use --cpus-per-trial {most_cpus} or fewer" if most_cpus else "; add a node with CPUs")
        )
    wanted = trials if max_concurrent is None else min(trials, max_concurrent)

    def lanes_of(cpus: int) -> int:
        return min(wanted, _groups(_slots(nodes, cpus, gpus), nodes_per_trial))

    lanes = lanes_of(least_cpus)
    if not lanes:
        fitting = sum(slots > 0 for slots in _slots(nodes, least_cpus, gpus))
        if fitting:
            raise ResourcesError(
                f"each trial asks for {nodes_per_trial} nodes, {fitting} can hold a part of one"
                f"; use --nodes-per-trial {fitting} or fewer"
            )
        raise ResourcesError(
            f"each trial asks for {gpus} GPU(s) and {least_cpus} CPU(s), no node has both"
            "; lower --gpus-per-trial or --cpus-per-trial"
        )
    cpus = cpus_per_trial or max(cpus for cpus in range(1, most_cpus + 1) if lanes_of(cpus) == lanes)
    return LanePlan(lanes=lanes, cpus=cpus, gpus=gpus, nodes=nodes_per_trial)


def wait_for_plan(plan: Callable[[], LanePlan], seconds: float) -> LanePlan:
    """Until nodes have joined on which it can be made; says why every ten seconds.

    Raises:
        ResourcesError: the last of the plan's own, when the time is up.
    """
    waiting = Waiting("nodes", at_most=seconds)
    while True:
        try:
            return plan()
        except ResourcesError as error:
            if waiting.is_over:
                raise
            waiting.tell(partial(str, error))
        time.sleep(0.5)


def _slots(nodes: Sequence[Node], cpus: int, gpus: int) -> list[int]:
    """How many parts of a trial fit on each node."""
    return [min(node.cpus // cpus, node.gpus // gpus if gpus else node.cpus) for node in nodes]


def _groups(slots: Sequence[int], size: int) -> int:
    """How many groups of `size` different nodes these make: the most for which there are enough parts, where of no node
    more than one counts for each."""
    groups = sum(slots) // size
    while sum(min(groups, on_node) for on_node in slots) < groups * size:
        groups -= 1
    return groups


def deal(items: Sequence[T], lanes: int) -> list[Sequence[T]]:
    """The items in `lanes` runs of neighbours, as even as can be: neighbours share what is compiled."""
    cuts = [len(items) * lane // lanes for lane in range(lanes + 1)]
    return [items[begin:end] for begin, end in itertools.pairwise(cuts)]
