"""A lane as Ray runs it: a streaming generator task, on one node or as the first of a group of them."""

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

from cluster.lanes.resources import LanePlan

EVENTS_IN_FLIGHT = 16  # what a worker may be ahead of the driver, whose memory they take


@dataclass(frozen=True, kw_only=True)
class WorkerProcess:
    node: str  # Ray's id
    host: str
    pid: int

    def __str__(self) -> str:
        return self.host


def this_process() -> WorkerProcess:
    """Of the task that asks."""
    return WorkerProcess(node=ray.get_runtime_context().get_node_id(), host=socket.gethostname(), pid=os.getpid())


def kill(place: WorkerProcess) -> None:
    """Ends the process by a task on its node. Ray's own way asks the process, which may be stopped, to end itself."""
    on_node = NodeAffinitySchedulingStrategy(place.node, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_kill_worker)
    task.options(scheduling_strategy=on_node).remote(place.pid)


def _kill_worker(pid: int) -> None:
    import psutil  # Ray brings its own

    # The number may be another's by now.
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        if any("ray::" in word for word in psutil.Process(pid).cmdline()):
            os.kill(pid, signal.SIGKILL)


class Lanes:
    """Starts tasks on the resources of a lane, that tell their place and then all that `function` yields.

    With a plan of several nodes, the task is the first of a group, as in `group.Others`.
    """

    def __init__(self, function: Callable[..., Iterator[Any]], plan: LanePlan) -> None:
        self._function, self._plan = function, plan
        self._groups: dict[Any, PlacementGroup] = {}  # by generator
        self._task: Any = ray.remote(
            num_returns="streaming",
            num_cpus=plan.cpus,
            num_gpus=plan.gpus,
            max_retries=0,  # ours to retry
            max_calls=1,  # TensorFlow keeps its settings, and its GPU memory, until its process ends
        )(_place_then_events)

    def start(self, *arguments: Any) -> Any:
        """-> the generator of the events."""
        if self._plan.nodes == 1:
            return self._start("DEFAULT", arguments)
        held = reserve_group(self._plan)
        generator = self._start(first_of_group(held), arguments)
        self._groups[generator] = held
        return generator

    def _start(self, where: Any, arguments: Sequence[Any]) -> Any:
        task = self._task.options(
            name=self._function.__name__,
            scheduling_strategy=where,
            _generator_backpressure_num_objects=EVENTS_IN_FLIGHT,
        )
        return task.remote(self._function, *arguments)

    def release(self, generator: Any) -> None:
        """What a lane of several nodes has held; what of it still runs is ended."""
        if generator in self._groups:
            release_group(self._groups.pop(generator))


def _place_then_events(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[WorkerProcess | Any]:
    yield this_process()
    yield from function(*arguments)


def reserve_group(plan: LanePlan) -> PlacementGroup:
    """A part of a lane on each of so many nodes, all or none of them; Ray waits for it without us."""
    part = {"CPU": float(plan.cpus)} | ({"GPU": float(plan.gpus)} if plan.gpus else {})
    held: PlacementGroup = placement_group([part] * plan.nodes, strategy="STRICT_SPREAD")
    return held


def release_group(group: PlacementGroup) -> None:
    """Ends what still runs there, too."""
    remove_placement_group(group)


def first_of_group(group: PlacementGroup) -> PlacementGroupSchedulingStrategy:
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
