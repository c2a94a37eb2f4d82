"""Many small tasks that can be repeated, two for each CPU under way: their results in the order of their calls."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray

from cluster.errors import ResourcesError
from cluster.head import HeadWatch
from cluster.limits import Limits
from cluster.resources import live_nodes, what_is_free
from cluster.tasks import value_of
from cluster.waiting import Waiting

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
