"""Single tasks, as opposed to lanes."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray._private.worker import get_dashboard_url
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.connection.address import HeadWatch
from cluster.errors import ClusterError, ResourcesError, first_line
from cluster.lanes.deadlines import Limits, Waiting
from cluster.lanes.resources import Node, live_nodes, what_is_free


def start_beside_driver(function: Callable[..., Any], *arguments: Any, num_returns: int = 1) -> Any:
    """Starts a task that waits for no CPU, on the driver's node: the one whose folders the user's paths mean."""
    node = ray.get_runtime_context().get_node_id()
    task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(function)  # 1: what it imported is given back
    affinity = NodeAffinitySchedulingStrategy(node, soft=True)
    return task.options(num_returns=num_returns, scheduling_strategy=affinity).remote(*arguments)


def result_of(reference: Any, what: str = "a task") -> Any:
    """Waits for a task's result, and says so every ten seconds. Raises as `value_of` does."""
    waiting = Waiting(what)
    while not ray.wait([reference], timeout=0.5)[0]:
        waiting.tell()
    return value_of(reference)


def value_of(reference: Any) -> Any:
    """Of a task that has ended.

    Raises:
        ClusterError: its worker died, or lacks a package.
        Exception: the one that the task raised, not Ray's wrapping of it, which becomes its cause.
    """
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


TASKS_PER_CPU = 2  # one computes, the other has its arguments there
MAX_RETRIES = 3
TICK_SECONDS = 0.5


def results_in_order(
    function: Callable[..., Any], calls: Iterable[Sequence[Any]], what: str, limits: Limits
) -> Iterator[Any]:
    """Calls are taken from their iterator when there is room for them.

    Args:
        function: without side effects: where a worker or a node is lost, Ray calls it again.
        what: of one result, for people.

    Raises:
        ResourcesError: no node has a CPU, or none is free in time.
        ClusterLostError: the head no longer answers.
        ClusterError, Exception: as in `tasks.value_of`.
    """
    cpus = sum(node.cpus for node in live_nodes())
    if not cpus:
        raise ResourcesError("expected a node with a CPU, the cluster has none; add one")
    task: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(function)
    pending: deque[Any] = deque()
    head = HeadWatch(limits.head_seconds)
    for call in calls:
        pending.append(task.remote(*call))
        if len(pending) >= TASKS_PER_CPU * cpus:
            yield _awaited(pending.popleft(), head, what, limits)
    while pending:
        yield _awaited(pending.popleft(), head, what, limits)


def _awaited(reference: Any, head: HeadWatch, what: str, limits: Limits) -> Any:
    waiting = Waiting(what, at_most=limits.wait_seconds, tell_seconds=limits.tell_seconds)
    while not ray.wait([reference], timeout=TICK_SECONDS)[0]:
        head.check()
        if waiting.is_over:
            raise ResourcesError(
                f"{what} did not come within {waiting.seconds:.0f} s ({what_is_free()})"
                "; wait longer with --wait-for-resources SECONDS"
            )
        waiting.tell(what_is_free)
    return value_of(reference)


T = TypeVar("T")


@dataclass(frozen=True)
class Told(Generic[T]):
    """What a node answered; or why it did not."""

    node: Node
    answer: T | None
    why_not: str = ""
    late: bool = False  # it may be busy


def ask_every_node(question: Callable[[], T], seconds: float, *, gpus: bool = False) -> Iterator[Told[T]]:
    """Runs the function once on each live node, beside whatever else runs there.

    Args:
        seconds: after which a node counts as silent.
        gpus: only where Ray has GPUs, and with one granted.
    """
    nodes = [node for node in live_nodes() if node.gpus or not gpus]
    asked: list[tuple[Node, Any]] = []
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node.id, soft=False)
        task: Any = ray.remote(num_cpus=0, num_gpus=int(gpus), max_retries=0, max_calls=1)(question)
        asked.append((node, task.options(scheduling_strategy=here).remote()))
    deadline = time.monotonic() + seconds
    for node, reference in asked:
        try:
            yield Told(node, ray.get(reference, timeout=max(0.0, deadline - time.monotonic())))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(reference, force=True)
            yield Told(node, None, f"no answer within {seconds:.0f} s", late=True)
        except ray.exceptions.RayTaskError as error:
            yield Told(node, None, f"{type(error.cause).__name__}: {error.cause}")
        except ray.exceptions.RayError as error:
            yield Told(node, None, first_line(error))


def dashboard_address() -> str | None:
    """host:port that it listens on; None without one."""
    with contextlib.suppress(Exception):
        return str(get_dashboard_url() or "") or None  # type: ignore[no-untyped-call]
    return None
