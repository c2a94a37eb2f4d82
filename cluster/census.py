"""What every node of the connected cluster tells of itself."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray._private.worker import get_dashboard_url
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import first_line
from cluster.resources import Node, live_nodes

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
