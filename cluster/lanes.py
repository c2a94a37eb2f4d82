"""What the driver needs from a cluster: lanes, their events and their ends. Ray runs them in `ray_lanes`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from cluster.nodes import HeadWatch

MAX_UNREAD_EVENTS = 16  # of a lane; then the lane waits


class Cause(Enum):
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
    """The end of a lane, or why the driver abandons it."""

    cause: Cause
    details: str = ""  # on which node, how much memory
    traceback: str = ""  # of a bug, in the worker

    def __str__(self) -> str:
        return f"{self.cause.text} {self.details}".rstrip()


@dataclass(frozen=True, kw_only=True)
class WorkerProcess:
    """The process of a lane; also the lane's first event."""

    node: str  # Ray's id
    host: str
    pid: int
    started_at: float = 0.0  # Unix time; together with the pid it identifies the process

    def __str__(self) -> str:
        return self.host


class Trial(Protocol):
    """A piece of work. A lane does one trial after the other."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str:
        """Trials of one kind share preparations, such as a compilation, in a lane."""
        ...

    @property
    def cost(self) -> float:
        """Roughly how long the trial takes, compared with other trials."""
        ...


class LaneEvent(Protocol):
    """An event of a lane. `final` marks the last event of a trial."""

    @property
    def trial(self) -> str: ...
    @property
    def final(self) -> bool: ...
    @property
    def phase(self) -> str:
        """The name of the `attempts.LaneState` that the trial is in from now on."""
        ...


@dataclass(frozen=True)
class Message:
    """An event, and when its lane sent it."""

    event: Any  # the `WorkerProcess`, then `LaneEvent`s
    sent_at: float  # seconds on the lane's clock; comparable only within the lane


Lane = Any  # hashable; its type depends on the cluster


class Cluster(Protocol):
    """Lanes on a cluster. No method waits, except `wait` and `finish_kills`."""

    @property
    def head(self) -> HeadWatch:
        """What is known about the head and the nodes. While the head does not answer, `start` would block."""
        ...

    def start(self) -> Lane:
        """Ask for a lane. It begins when its resources are free, and its first event is its `WorkerProcess`."""
        ...

    def assign(self, lane: Lane, payload: Any) -> None:
        """Give a lane its next trial, or None if there are no more, so that its task returns."""
        ...

    def wait(self, lanes: Collection[Lane], seconds: float) -> Sequence[Lane]:
        """Wait until `take` may have something for one of the lanes, and return all such lanes.

        What has arrived by then is not lost if the process of the lane dies.
        """
        ...

    def take(self, lane: Lane) -> Message | Death | None:
        """Return the next event of a lane, or its end; None while the content of the event is on the way."""
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

    def describe_free(self) -> str:
        """Return what is free on each node."""
        ...
