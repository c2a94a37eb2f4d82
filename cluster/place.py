"""Where a task runs, as it tells itself; and how to end it for certain."""

import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True, kw_only=True)
class Place:
    node: str  # Ray's id
    host: str
    pid: int

    def __str__(self) -> str:
        return self.host


def this_place() -> Place:
    """Of the task that asks."""
    return Place(node=ray.get_runtime_context().get_node_id(), host=socket.gethostname(), pid=os.getpid())


def kill(place: Place) -> None:
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
