"""A lane as Ray runs it: a streaming generator task, on one node or as the first member of a group of nodes."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from cluster.connection.ray_private import MAX_UNREAD_OPTION, WORKER_TITLE
from cluster.lanes.resources import LanePlan

MAX_UNREAD_EVENTS = 16  # of one worker; they take the driver's memory


@dataclass(frozen=True, kw_only=True)
class WorkerProcess:
    node: str  # Ray's id
    host: str
    pid: int

    def __str__(self) -> str:
        return self.host


def kill(worker: WorkerProcess) -> None:
    """Kill the process by a task on its node. ray.cancel would ask the process, which may be stopped, to end itself."""
    on_node = NodeAffinitySchedulingStrategy(worker.node, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_kill_worker)
    task.options(scheduling_strategy=on_node).remote(worker.pid)


def _kill_worker(pid: int) -> None:
    import psutil  # a dependency of Ray's

    # By now, the pid may belong to another process.
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        if any(WORKER_TITLE in word for word in psutil.Process(pid).cmdline()):
            os.kill(pid, signal.SIGKILL)


class LaneStarter:
    """Starts tasks on the resources of a lane. Each yields its `WorkerProcess`, then all that `function` yields.

    With a plan of several nodes, the task is the first member of a group, and `function` uses `OtherMembers`.
    """

    def __init__(self, function: Callable[..., Iterator[Any]], plan: LanePlan) -> None:
        self._function, self._plan = function, plan
        self._groups: dict[Any, PlacementGroup] = {}  # by generator
        self._task: Any = ray.remote(
            num_returns="streaming",
            num_cpus=plan.cpus,
            num_gpus=plan.gpus,
            max_retries=0,  # `FanOut` decides on retries
            max_calls=1,  # TensorFlow keeps its settings, and its GPU memory, until its process ends
        )(_process_then_events)

    def start(self, *arguments: Any) -> Any:
        """Start a task and return the generator of its events."""
        strategy: Any = "DEFAULT"
        if self._plan.nodes > 1:
            part = {"CPU": float(self._plan.cpus)} | ({"GPU": float(self._plan.gpus)} if self._plan.gpus else {})
            group = placement_group([part] * self._plan.nodes, strategy="STRICT_SPREAD")
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        options = {"scheduling_strategy": strategy, MAX_UNREAD_OPTION: MAX_UNREAD_EVENTS}
        generator = self._task.options(name=self._function.__name__, **options).remote(self._function, *arguments)
        if self._plan.nodes > 1:
            self._groups[generator] = group
        return generator

    def release(self, generator: Any) -> None:
        """Give back the nodes of a group, and kill what still runs there."""
        if generator in self._groups:
            remove_placement_group(self._groups.pop(generator))


def _process_then_events(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[WorkerProcess | Any]:
    yield WorkerProcess(node=ray.get_runtime_context().get_node_id(), host=socket.gethostname(), pid=os.getpid())
    yield from function(*arguments)


class OtherMembers:
    """The other members of the group whose first member is the calling task, by rank: 1, 2, ..."""

    def __init__(self) -> None:
        group: PlacementGroup | None = ray.util.get_current_placement_group()
        assert group is not None, "the calling task is not a member of a group"
        self._group = group
        self._part, *others = group.bundle_specs
        self._ranks = range(1, len(others) + 1)

    def call(self, function: Callable[[], Any]) -> list[Any]:
        """Return what the function returns on each member."""
        results: list[Any] = ray.get([self._start(function, (), rank) for rank in self._ranks])
        return results

    def start(self, function: Callable[..., None], arguments: Callable[[int], Sequence[Any]]) -> None:
        """Start the function on each member, with the arguments of its rank.

        When one of them fails or is lost, the calling process kills itself: it may wait for that member in a
        collective operation, which nothing else interrupts.
        """
        running = [self._start(function, arguments(rank), rank) for rank in self._ranks]
        threading.Thread(target=_die_with, args=(running,), daemon=True).start()

    def _start(self, function: Callable[..., Any], arguments: Sequence[Any], rank: int) -> Any:
        task: Any = ray.remote(max_retries=0, max_calls=1)(function)
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank)
        resources = {"num_cpus": self._part.get("CPU", 0), "num_gpus": self._part.get("GPU", 0)}
        return task.options(scheduling_strategy=strategy, **resources).remote(*arguments)


def unused_address() -> str:
    """Return host:port of this node, with a port on which no process listens."""
    with socket.socket() as unused:
        unused.bind(("", 0))
        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return f"{host}:{unused.getsockname()[1]}"


def _die_with(running: list[Any]) -> None:
    while running:
        (ended, *_), running = ray.wait(running)
        try:
            ray.get(ended)
        except ray.exceptions.RayError:
            os.kill(os.getpid(), signal.SIGKILL)
