"""Tasks on different nodes that do one thing together. The first, the lane, starts the others and dies with them."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.resources import LanePlan


def reserve(plan: LanePlan) -> PlacementGroup:
    """A part of a lane on each of so many nodes, all or none of them; Ray waits for it without us."""
    part = {"CPU": float(plan.cpus)} | ({"GPU": float(plan.gpus)} if plan.gpus else {})
    held: PlacementGroup = placement_group([part] * plan.nodes, strategy="STRICT_SPREAD")
    return held


def release(group: PlacementGroup) -> None:
    """Ends what still runs there, too."""
    remove_placement_group(group)


def first_of(group: PlacementGroup) -> PlacementGroupSchedulingStrategy:
    """Where the lane itself runs."""
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)


class Others:
    """The other members of the group that the task which makes this is the first of; in their order."""

    def __init__(self) -> None:
        group: PlacementGroup | None = ray.util.get_current_placement_group()
        assert group is not None, "this task is not the first of a group"
        self._group = group
        (part, *others) = group.bundle_specs
        self._count, self._part = len(others), part

    def ask(self, question: Callable[[], Any]) -> list[Any]:
        """What each of them answers."""
        answers: list[Any] = ray.get([self._start(question, (), rank) for rank in self._ranks])
        return answers

    def start(self, function: Callable[..., None], arguments: Callable[[int], Sequence[Any]]) -> None:
        """Runs the function on each, with the arguments for its rank. When one fails or is gone, this process ends, as
        by a kill: it may wait for the other in a way that nothing else ends."""
        running = [self._start(function, arguments(rank), rank) for rank in self._ranks]
        threading.Thread(target=_end_with, args=(running,), daemon=True).start()

    @property
    def _ranks(self) -> range:
        return range(1, self._count + 1)

    def _start(self, function: Callable[..., Any], arguments: Sequence[Any], rank: int) -> Any:
        task: Any = ray.remote(max_retries=0, max_calls=1)(function)
        where = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank)
        resources = {"num_cpus": self._part.get("CPU", 0), "num_gpus": self._part.get("GPU", 0)}
        return task.options(scheduling_strategy=where, **resources).remote(*arguments)


def free_address() -> str:
    """host:port of this node that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("", 0))
        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return f"{host}:{free.getsockname()[1]}"


def _end_with(running: list[Any]) -> None:
    while running:
        (ended, *_), running = ray.wait(running)
        try:
            ray.get(ended)
        except ray.exceptions.RayError:
            os.kill(os.getpid(), signal.SIGKILL)
