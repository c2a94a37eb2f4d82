"""Run single tasks, as opposed to lanes: beside the driver, or on every node."""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.deadlines import PREPARE_SECONDS, TICK_SECONDS, Limits, Wait
from cluster.errors import ClusterError, ResourcesError, first_line
from cluster.nodes import HeadWatch, Node, describe_free, live_nodes
from cluster.ray_private import free_resources

T = TypeVar("T")

TASKS_PER_CPU = 2  # while one computes, the next one's arguments are transferred
MAX_RETRIES = 3


def start_beside_driver(function: Callable[..., Any], *arguments: Any, num_returns: int = 1) -> Any:
    """Start a task on the driver's node, where the user's paths exist, without waiting for a free CPU.

    Args:
        function: may be called again after a failure of Ray.
    """
    # Ray calls it again if its node, or the object that it returned, is lost. max_calls=1 frees what it has imported.
    task: Any = ray.remote(num_cpus=0, max_retries=MAX_RETRIES, max_calls=1)(function)
    affinity = NodeAffinitySchedulingStrategy(driver_node(), soft=True)
    return task.options(num_returns=num_returns, scheduling_strategy=affinity).remote(*arguments)


def driver_node() -> str:
    """Return the id of the node on which this process, the driver, runs."""
    node: str = ray.get_runtime_context().get_node_id()
    return node


def call_on_node(node: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns on a node, without waiting for a free CPU. Raises what `result_of` raises."""
    affinity = NodeAffinitySchedulingStrategy(node, soft=False)
    return _result_now(_task(function).options(scheduling_strategy=affinity).remote(*arguments))


@functools.cache  # Ray exports each task once
def _task(function: Callable[..., Any]) -> Any:
    return ray.remote(num_cpus=0, max_retries=MAX_RETRIES)(function)


def put(content: Any) -> Any:
    """Return a reference with which tasks get some content: each node gets it once."""
    return ray.put(content)


def result_of(reference: Any, what: str = "a task", progress: Callable[[], str] = str, *, logged: bool = True) -> Any:
    """Wait for a task, log the wait at intervals, and return the task's result.

    Args:
        progress: asked twice a second how far the task is, for the log.
        logged: False if the wait is shown in another way.

    Raises:
        ClusterError: the task has made no progress for hours, its worker died, or lacks a package.
        ClusterLostError: the head no longer answers.
        Exception: the task's own; Ray's wrapper becomes its cause.
    """
    wait = Wait(what)
    head = HeadWatch(Limits.head_seconds)
    so_far = ""
    since = 0.0
    while not ray.wait([reference], timeout=TICK_SECONDS)[0]:
        head.check()
        before, so_far = so_far, progress()
        if so_far != before:
            since = wait.seconds
        if wait.seconds - since > PREPARE_SECONDS:
            raise ClusterError(
                f"{what} has made no progress for {wait.seconds - since:.0f} s; see the log of its worker"
            )
        if logged:
            wait.log_if_due(progress)
    return _result_now(reference)


def results_in_order(
    function: Callable[..., Any], calls: Iterable[Sequence[Any]], what: str, limits: Limits
) -> Iterator[Any]:
    """Yield the result of each call. Only a few calls are taken from their iterator in advance.

    Args:
        function: without side effects, since Ray calls it again when a worker or a node is lost.
        what: what error messages call one result.

    Raises:
        ResourcesError: no node has a CPU, or none is free in time.
        ClusterError, ClusterLostError, Exception: as in `result_of`.
    """
    head = HeadWatch(limits.head_seconds)
    cpus = sum(node.cpus for node in head.live_nodes)
    if not cpus:
        raise ResourcesError("expected a node with a CPU, the cluster has none; add one")
    task: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(function)

    def free() -> str:
        return describe_free(head.live_nodes, free_resources())

    def result(reference: Any) -> Any:
        wait = Wait(what, timeout_seconds=limits.wait_seconds, log_interval=limits.log_interval_seconds)
        while not ray.wait([reference], timeout=TICK_SECONDS)[0]:
            head.check()
            if wait.is_over:
                raise ResourcesError(
                    f"{what} did not arrive within {wait.seconds:.0f} s ({free()})"
                    "; wait longer with --wait-for-resources SECONDS"
                )
            wait.log_if_due(free)
        return _result_now(reference)

    pending: deque[Any] = deque()
    for call in calls:
        pending.append(task.remote(*call))
        if len(pending) >= TASKS_PER_CPU * cpus:
            yield result(pending.popleft())
    yield from map(result, pending)


def _result_now(reference: Any) -> Any:
    """Return the result of a task that has ended. Raises what `result_of` raises."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ModuleNotFoundError):
            raise ClusterError(
                f"a worker lacks the package {error.cause.name}; install requirements/runtime.lock on every node"
            ) from error
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise ClusterError(f"a task's worker died: {first_line(error)}") from error


@dataclass(frozen=True)
class NodeAnswer(Generic[T]):
    """What a function returned on one node, or why it did not."""

    node: Node
    value: T | None
    error: str = ""
    timed_out: bool = False  # perhaps the node is just busy


def call_on_every_node(function: Callable[[], T], seconds: float, *, gpus: bool = False) -> Iterator[NodeAnswer[T]]:
    """Call the function once on each live node, without waiting for a free CPU.

    Args:
        seconds: how long to wait for all answers together.
        gpus: call it only on nodes with GPUs, each time with one GPU granted.
    """
    nodes = [node for node in live_nodes() if node.gpus or not gpus]
    started: list[tuple[Node, Any]] = []
    for node in nodes:
        on_node = NodeAffinitySchedulingStrategy(node.id, soft=False)
        task: Any = ray.remote(num_cpus=0, num_gpus=int(gpus), max_retries=0, max_calls=1)(function)
        started.append((node, task.options(scheduling_strategy=on_node).remote()))
    deadline = time.monotonic() + seconds
    for node, reference in started:
        try:
            yield NodeAnswer(node, ray.get(reference, timeout=max(0.0, deadline - time.monotonic())))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(reference, force=True)
            yield NodeAnswer(node, None, f"no answer within {seconds:.0f} s", timed_out=True)
        except ray.exceptions.RayTaskError as error:
            yield NodeAnswer(node, None, f"{type(error.cause).__name__}: {error.cause}")
        except ray.exceptions.RayError as error:
            yield NodeAnswer(node, None, first_line(error))
