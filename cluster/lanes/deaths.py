"""Why an attempt ended before its items were done: Ray's errors, sorted into the kinds that are treated differently."""

import re
from typing import Any

import ray

from cluster.errors import first_line
from cluster.lanes.ports import Death, Kind, WorkerProcess

# The errors of a lost node's tasks. They may come before the head lists the node as dead, or after.
NODE_LOST = (
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.ObjectLostError,  # of an event, or of the dataset
)
NODE = re.compile(r"\(IP: ([^,)]+)")  # as in "Memory on the node (IP: 10.0.0.7, ID: ...) ..."
MEMORY = re.compile(r"was (\S+) used / (\S+) limit")  # as in "... was 28.5GB used / 30.0GB limit (0.95)"


def death_of(error: ray.exceptions.RayError, worker: WorkerProcess | None) -> Death:
    """Return why an attempt died, from the error that Ray raised in place of its next event.

    Args:
        worker: the attempt's process; None if it had not started.
    """
    where = f"on {worker}" if worker else ""
    if isinstance(error, ray.exceptions.RayTaskError):
        if isinstance(error.cause, ray.exceptions.RayError):  # what the task itself asked of Ray failed
            return death_of(error.cause, worker)
        return Death(kind=Kind.BUG, details=f"({type(error.cause).__name__}: {error.cause})", traceback=str(error))
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        host, used = NODE.search(str(error)), MEMORY.search(str(error))
        parts = [where or f"on {host[1]}" if host else where, f"{used[1]} of {used[2]} in use" if used else ""]
        return Death(kind=Kind.OUT_OF_MEMORY, details=", ".join(filter(None, parts)))
    nodes: list[dict[str, Any]] = ray.nodes() if worker else []  # type: ignore[no-untyped-call]
    node = next((node for node in nodes if worker and node["NodeID"] == worker.node), {})
    if isinstance(error, NODE_LOST) or not node.get("Alive", True):
        reason = f"{node.get('DeathReason', '')} {node.get('DeathReasonMessage', '')}"
        return Death(kind=Kind.PREEMPTED if "preempt" in reason.lower() else Kind.NODE_LOST, details=where)
    if isinstance(error, ray.exceptions.WorkerCrashedError):
        return Death(kind=Kind.KILLED, details=where)
    return Death(kind=Kind.KILLED, details=f"{where} ({type(error).__name__}: {first_line(error)})".strip())
