"""What the driver needs from a cluster: lanes, their events and their ends. Ray runs them in `ray_lanes`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

MAX_UNREAD_EVENTS = 16  # of a lane; then the lane waits


class Kind(Enum):
    """What ended an attempt: the error code and the words for it."""

    KILLED = "E-CRASH", "worker killed"
    NODE_LOST = "E-NODE-LOST", "node lost"
    PREEMPTED = "E-NODE-LOST", "node preempted"
    OUT_OF_MEMORY = "E-OOM", "out of memory"
    SILENT = "E-SILENT", "silent"
    OVERTIME = "E-TIMEOUT", "timed out"
    ENDED_EARLY = "E-CRASH", "ended early"
    BUG = "E-BUG", "bug"

    def __init__(self, code: str, text: str) -> None:
        self.code, self.text = code, text


@dataclass(frozen=True, kw_only=True)
class Death:
    """The end of an attempt."""

    kind: Kind
    details: str = ""  # on which node, how much memory
    traceback: str = ""  # of a bug, in the worker

    def __str__(self) -> str:
        return f"{self.kind.text} {self.details}".rstrip()


@dataclass(frozen=True, kw_only=True)
class WorkerProcess:
    """The process of a lane; also the lane's first event."""

    node: str  # Ray's id
    host: str
    pid: int
    started_at: float = 0.0  # Unix time; together with the pid it identifies the process

    def __str__(self) -> str:
        return self.host


class Item(Protocol):
    """A piece of work. A lane does one item after the other."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str:
        """Items of one kind share preparations, such as a compilation, in a lane."""
        ...

    @property
    def cost(self) -> float:
        """Roughly how long the item takes, compared with other items."""
        ...


class LaneEvent(Protocol):
    """An event of a lane. `final` marks the last event of an item."""

    @property
    def trial(self) -> str: ...
    @property
    def final(self) -> bool: ...
    @property
    def phase(self) -> str:
        """The name of the `attempts.State` that the item is in from now on."""
        ...


@dataclass(frozen=True)
class Sent:
    """An event, and when its lane sent it."""

    event: Any  # the `WorkerProcess`, then `LaneEvent`s
    at: float  # seconds on the lane's clock; comparable only within the lane


class LaneEnded(Exception):  # noqa: N818  it is not an error
    """The task of a lane has returned."""


class LaneDied(Exception):  # noqa: N818  it is handled, not reported
    """The task of a lane has failed, or one of its events was lost."""

    def __init__(self, death: Death) -> None:
        super().__init__(str(death))
        self.death = death


Lane = Any  # hashable; its type depends on the cluster


class Cluster(Protocol):
    """Lanes on a cluster. No method waits, except `wait` and `finish_kills`."""

    def start(self) -> Lane:
        """Ask for a lane. It begins when its resources are free, and its first event is its `WorkerProcess`."""
        ...

    def assign(self, lane: Lane, payload: Any) -> None:
        """Give a lane its next item."""
        ...

    def close(self, lane: Lane) -> None:
        """Notify a lane that there are no more items, so that its task returns."""
        ...

    def wait(self, lanes: Collection[Lane], seconds: float) -> Sequence[Lane]:
        """Wait until `take` may have something for one of the lanes, and return all such lanes.

        What has arrived by then is not lost if the process of the lane dies.
        """
        ...

    def take(self, lane: Lane) -> Sent | None:
        """Return the next event of a lane; None while its content is on the way.

        Raises:
            LaneEnded, LaneDied: there is no further event.
        """
        ...

    def cancel(self, lane: Lane) -> None:
        """Ask a lane to end."""
        ...

    def kill(self, lane: Lane, worker: WorkerProcess | None) -> None:
        """End a lane by force, and give back what it holds.

        Args:
            worker: the lane's process, to kill it even if it is suspended.
        """
        ...

    def finish_kills(self, seconds: float) -> None:
        """Wait until the processes that `kill` was given are dead, for at most that long."""
        ...

    def release(self, lane: Lane) -> None:
        """Release what an ended lane still holds, apart from the resources of its task."""
        ...

    def check(self) -> None:
        """Check at intervals that the head answers. Raises ClusterLostError if it has not answered for too long."""
        ...

    def lost_nodes(self) -> frozenset[str]:
        """Return the nodes that the head has reported as dead."""
        ...

    def answers(self) -> bool:
        """Return whether the head has answered the last request. Until it has, `start` would block."""
        ...

    def capacity(self) -> int:
        """Return how many lanes fit on the live nodes."""
        ...

    def describe_free(self) -> str:
        """Return what is free on each node."""
        ...
