"""Why an attempt ended before its items had: what Ray raises, sorted into the kinds that are treated differently."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

import ray

from cluster.errors import first_line
from cluster.lanes.lane import WorkerProcess

# A lost node is told by its tasks before the cluster knows of it, or the other way round.
NODE_LOST = (
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.ObjectLostError,  # an event that nobody has fetched
    ray.exceptions.GetTimeoutError,  # likewise
)
NODE = re.compile(r"\(IP: ([^,)]+)")  # as in "Memory on the node (IP: 10.0.0.7, ID: ...) ..."
MEMORY = re.compile(r"was (\S+) used / (\S+) limit")  # as in "... was 28.5GB used / 30.0GB limit (0.95)"


class Kind(Enum):
    """What happened: the error code, and what it is called."""

    KILLED = "E-CRASH", "worker killed"
    NODE_LOST = "E-NODE-LOST", "node lost"
    PREEMPTED = "E-NODE-LOST", "node preempted"
    OUT_OF_MEMORY = "E-OOM", "out of memory"
    SILENT = "E-SILENT", "no sign of life"
    OVERTIME = "E-TIMEOUT", "took too long"
    ENDED_EARLY = "E-CRASH", "ended early"
    BUG = "E-BUG", "bug"

    def __init__(self, code: str, said: str) -> None:
        self.code, self.said = code, said


@dataclass(frozen=True, kw_only=True)
class Death:
    """The end of an attempt."""

    kind: Kind
    details: str = ""  # for people: on which node, how much memory
    traceback: str = ""  # of a bug, as the worker saw it

    def __str__(self) -> str:
        return f"{self.kind.said} {self.details}".rstrip()


def death_of(error: ray.exceptions.RayError, place: WorkerProcess | None) -> Death:
    """Sorts what waiting for an attempt's next event has raised.

    Args:
        place: where it ran, if it had begun.
    """
    where = f"on {place}" if place else ""
    if isinstance(error, ray.exceptions.RayTaskError):
        return Death(kind=Kind.BUG, details=f"({type(error.cause).__name__}: {error.cause})", traceback=str(error))
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        node, used = NODE.search(str(error)), MEMORY.search(str(error))
        told = [where or f"on {node[1]}" if node else where, f"{used[1]} of {used[2]} in use" if used else ""]
        return Death(kind=Kind.OUT_OF_MEMORY, details=", ".join(filter(None, told)))
    if isinstance(error, NODE_LOST) or (place is not None and not _alive(place)):
        preempted = place is not None and "preempt" in _reason(place).lower()
        return Death(kind=Kind.PREEMPTED if preempted else Kind.NODE_LOST, details=where)
    if isinstance(error, ray.exceptions.WorkerCrashedError):
        return Death(kind=Kind.KILLED, details=where)
    return Death(kind=Kind.KILLED, details=f"{where} ({type(error).__name__}: {first_line(error)})".strip())


def _alive(place: WorkerProcess) -> bool:
    return bool(_row(place).get("Alive", True))


def _reason(place: WorkerProcess) -> str:
    row = _row(place)
    return f"{row.get('DeathReason', '')} {row.get('DeathReasonMessage', '')}"


def _row(place: WorkerProcess) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return next((node for node in nodes if node["NodeID"] == place.node), {})
