"""The mailbox that gives lanes their trials, and the streams of their messages.

The mailbox is an actor, since a running task has no other way to get the next trial. A message comes in two steps: a
reference from a generator of Ray, then its content.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.deadlines import MAILBOX_START_SECONDS, MAX_POLL_SECONDS, POLL_SECONDS, TICK_SECONDS, Wait
from cluster.errors import ClusterError
from cluster.lanes import MAX_UNREAD_EVENTS, Cause, Death, Message
from cluster.nodes import HeadWatch

MAX_WAITING_LANES = 100_000
RETRIES = 5  # of a request, after a connection broke
TRIES = 10  # to start the actor on the driver's node


class Mailbox:
    """The trials of each lane.

    The actor is started later than the lanes, at the latest for the first trial; they find it by its name. The methods
    raise ClusterError if it does not start in time.
    """

    def __init__(self, head: HeadWatch) -> None:
        self.name = f"mailbox-{uuid.uuid4().hex}"
        self._head = head

    def start(self) -> None:
        """Start the actor before there is a trial."""
        self._actor.answer.remote()

    def put(self, lane: int, payload: Any) -> None:
        """Give a lane its next trial, or None if there are no more.

        The actor gets only a reference to the trial. Ray would copy the trial itself twice, for the actor and for the
        lane, and could not move the actor's copy from memory to the disk.
        """
        self._actor.put.remote(lane, [ray.put(payload)])

    @functools.cached_property
    def _actor(self) -> Any:
        """Start the actor on the driver's node, so that it is lost only with the driver."""
        on_this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # max_restarts keeps its default of 0, since an actor that restarts has lost the trials.
        payloads: Any = ray.remote(_Payloads).options(
            name=self.name, num_cpus=0, max_concurrency=MAX_WAITING_LANES, scheduling_strategy=on_this_node
        )
        for _ in range(TRIES):
            actor: Any = payloads.remote()
            if len(self._head.nodes_now()) < 2:
                return actor
            # A node that has just joined may not know the other nodes yet, and then fails to place the actor.
            reference = actor.answer.remote()
            wait = Wait("an actor on the node of the driver")
            while not ray.wait([reference], timeout=TICK_SECONDS)[0]:
                wait.log_if_due()
                if wait.seconds > MAILBOX_START_SECONDS:
                    what = f"an actor did not start within {wait.seconds:.0f} s"
                    raise ClusterError(f"{what}; is the node of the driver overloaded?")
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(reference)
                return actor
            time.sleep(1.0)
        raise ClusterError(f"no actor could be started on the driver's node in {TRIES} tries; see the logs")


class _Payloads:
    """The actor."""

    def __init__(self) -> None:
        self._payloads: dict[int, list[Any]] = defaultdict(list)  # of each lane: lists with one reference
        self._changed: dict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def answer(self) -> None:
        pass

    async def put(self, lane: int, payload: Any) -> None:
        self._payloads[lane].append(payload)
        self._changed.pop(lane, asyncio.Event()).set()

    async def get(self, lane: int, index: int) -> Any:
        payloads = self._payloads[lane]
        while len(payloads) <= index:
            await self._changed[lane].wait()
        payloads[:index] = [None] * index  # these have been taken: free their memory
        return payloads[index]


class Assignments:
    """The trials of a lane, as an iterator in the lane's task."""

    def __init__(self, mailbox: str, lane: int) -> None:
        self._mailbox, self._lane = mailbox, lane  # the actor's name, and the number of the lane

    def __iter__(self) -> Iterator[Any]:
        mailbox = self._find_mailbox()
        indices = itertools.count()
        # The iterator holds no reference to a trial, so a trial's memory is freed once the lane drops it.
        return iter(lambda: self._get(mailbox, next(indices)), None)

    def _find_mailbox(self) -> Any:
        while True:
            try:
                mailbox: Any = ray.get_actor(self._mailbox)
                _without_giving_back_the_cpu(mailbox.answer.remote())  # it may have failed to start
            except (ValueError, ray.exceptions.ActorDiedError):
                time.sleep(MAX_POLL_SECONDS)
            else:
                return mailbox

    def _get(self, mailbox: Any, index: int, retries: int = RETRIES) -> Any:
        try:
            (payload,) = _without_giving_back_the_cpu(mailbox.get.remote(self._lane, index))
        except ray.exceptions.ActorUnavailableError:  # a connection broke
            if not retries:
                raise
            time.sleep(1.0)
            return self._get(mailbox, index, retries - 1)
        return _without_giving_back_the_cpu(payload)


def _without_giving_back_the_cpu(reference: Any) -> Any:
    """Return an object once it exists. The CPU of a task that blocks in `ray.get` is given to other tasks."""
    pause = POLL_SECONDS
    while not ray.wait([reference], timeout=0)[0]:
        time.sleep(pause)
        pause = min(2 * pause, MAX_POLL_SECONDS)
    return ray.get(reference)


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
    """Wait at most `seconds` until `take` may return something from one of the streams."""
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
