"""The messages of lanes, which come in two steps: a reference from a generator of Ray, then its content."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from cluster.deadlines import MAX_POLL_SECONDS
from cluster.lanes import MAX_UNREAD_EVENTS, Cause, Death, Message


@dataclass(eq=False)
class Stream:
    """The messages of one lane.

    Ray loses what is left in a generator when its worker dies. So references are taken as they come, but only a few,
    since their content takes up memory.
    """

    generator: Any
    references: deque[Any] = field(default_factory=deque)  # of unread messages; None after the last one
    is_fetching: bool = False  # whether the content of the first one is on the way

    @property
    def is_ready(self) -> bool:
        return bool(self.references) and not self.is_fetching

    @property
    def wants_more(self) -> bool:
        has_ended = bool(self.references) and self.references[-1] is None
        return len(self.references) < MAX_UNREAD_EVENTS // 2 and not has_ended

    def take(self) -> Message | Death | None:
        """Return the next message, or the end of the lane; None while the content is on the way. Raises RayError."""
        reference = self.references[0]
        if reference is None:
            return Death(cause=Cause.ENDED_EARLY)
        self.is_fetching = not ray.wait([reference], timeout=0)[0]
        if self.is_fetching:
            return None
        message: Message = ray.get(self.references.popleft())
        return message


def wait_for_messages(streams: Sequence[Stream], seconds: float) -> None:
    """Wait until `take` may have something for one of the streams, for at most that long."""
    _take_references(streams, 0.0)
    is_ready = any(s.is_ready for s in streams)
    wants_more = any(s.wants_more for s in streams)
    # The content of a message may still have to be transferred once its reference has arrived; `take` requests it.
    fetching = {stream.references[0]: stream for stream in streams if stream.is_fetching}
    pause = MAX_POLL_SECONDS if wants_more else seconds
    for stream in _ready(fetching, 0.0 if is_ready else pause, fetch=True):
        stream.is_fetching = False
        is_ready = True
    if wants_more and not is_ready:
        _take_references(streams, MAX_POLL_SECONDS if fetching else seconds)


def _take_references(streams: Sequence[Stream], seconds: float) -> None:
    """Take references from the generators. `seconds`: how long to wait for the first one."""
    generators = {stream.generator: stream for stream in streams if stream.wants_more}
    while ready := _ready(generators, seconds, fetch=False):
        seconds = 0.0
        for stream in ready:
            stream.references.append(next(stream.generator, None))
            if not stream.wants_more:
                del generators[stream.generator]


def _ready(streams: Mapping[Any, Stream], seconds: float, *, fetch: bool) -> list[Stream]:
    """Wait for one of the references, and return the streams of all that are ready then."""
    if not streams:
        return []
    ready, _ = ray.wait([*streams], num_returns=1, timeout=seconds, fetch_local=fetch)
    if ready and len(streams) > 1:
        ready, _ = ray.wait([*streams], num_returns=len(streams), timeout=0, fetch_local=fetch)
    return [streams[reference] for reference in ready]
