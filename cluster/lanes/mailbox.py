"""The mailbox of the lanes: an actor, since a running task has no other way to get its next item.

The driver fills it, and each lane takes its items from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.connection.address import HeadWatch
from cluster.deadlines import MAILBOX_START_SECONDS, MAX_POLL_SECONDS, POLL_SECONDS, TICK_SECONDS, Wait
from cluster.errors import ClusterError

MAX_WAITING_LANES = 100_000
RETRIES = 5  # of a request, after a connection broke
TRIES = 10  # to start the actor on the driver's node


class Mailbox:
    """The driver's side. The actor is started for the first item, later than the lanes, which find it by its name.

    Its methods raise ClusterError if the actor does not start in time.
    """

    def __init__(self, head: HeadWatch) -> None:
        self.name = f"mailbox-{uuid.uuid4().hex}"
        self._head = head

    def put(self, lane: int, payload: Any) -> None:
        self._actor.put.remote(lane, payload)

    def close(self, lane: int) -> None:
        """Notify a lane that there are no more items."""
        self._actor.close.remote(lane)

    @functools.cached_property
    def _actor(self) -> Any:
        """Start the actor on the driver's node, so that it is lost only with the driver."""
        on_this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # max_restarts keeps its default of 0, since an actor that restarts has lost the items.
        items: Any = ray.remote(_Items).options(
            name=self.name, num_cpus=0, max_concurrency=MAX_WAITING_LANES, scheduling_strategy=on_this_node
        )
        for _ in range(TRIES):
            actor: Any = items.remote()
            if len(self._head.nodes_now()) < 2:
                return actor
            # A node that has just joined may not know the other nodes yet, and then fails to place the actor.
            reference, wait = actor.answer.remote(), Wait("an actor on the node of the driver")
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


class _Items:
    def __init__(self) -> None:
        self._payloads: dict[int, list[Any]] = defaultdict(list)
        self._closed: set[int] = set()
        self._changed: dict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def answer(self) -> None:
        pass

    async def put(self, lane: int, payload: Any) -> None:
        self._payloads[lane].append(payload)
        self._changed.pop(lane, asyncio.Event()).set()

    async def close(self, lane: int) -> None:
        self._closed.add(lane)
        self._changed.pop(lane, asyncio.Event()).set()

    async def get(self, lane: int, index: int) -> list[Any]:
        """Return a list with the item at this index, or an empty list if there will be none."""
        payloads = self._payloads[lane]
        while len(payloads) <= index and lane not in self._closed:
            await self._changed[lane].wait()
        done = max(0, index - 1)
        payloads[:done] = [None] * done  # every member of a group has taken these: free their memory
        return payloads[index : index + 1]


class Assignments:
    """The items of a lane, as an iterator in the lane's task. Each member of a group sees the same items."""

    def __init__(self, mailbox: str, lane: int) -> None:
        self._mailbox, self._lane = mailbox, lane  # the actor's name, and the number of the lane

    def __iter__(self) -> Iterator[Any]:
        mailbox = self._find_mailbox()
        for index in itertools.count():
            found = self._get(mailbox, index)
            if not found:
                return
            yield from found

    def _find_mailbox(self) -> Any:
        while True:
            try:
                mailbox: Any = ray.get_actor(self._mailbox)
                _without_giving_back_the_cpu(mailbox.answer.remote())  # it may have failed to start
            except (ValueError, ray.exceptions.ActorDiedError):
                time.sleep(MAX_POLL_SECONDS)
            else:
                return mailbox

    def _get(self, mailbox: Any, index: int, retries: int = RETRIES) -> list[Any]:
        try:
            found: list[Any] = _without_giving_back_the_cpu(mailbox.get.remote(self._lane, index))
        except ray.exceptions.ActorUnavailableError:  # a connection broke
            if not retries:
                raise
            time.sleep(1.0)
            return self._get(mailbox, index, retries - 1)
        return found


def _without_giving_back_the_cpu(reference: Any) -> Any:
    """Return an object once it exists. The CPU of a task that blocks in `ray.get` is given to other tasks."""
    pause = POLL_SECONDS
    while not ray.wait([reference], timeout=0)[0]:
        time.sleep(pause)
        pause = min(2 * pause, MAX_POLL_SECONDS)
    return ray.get(reference)
