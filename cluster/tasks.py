"""Single tasks, as opposed to lanes."""

from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import ClusterError, first_line
from cluster.waiting import Waiting


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
