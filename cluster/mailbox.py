"""The mailbox that gives lanes their trials: an actor, since a running task has no other way to get the next one."""

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

from cluster.deadlines import MAILBOX_START_SECONDS, MAX_POLL_SECONDS, POLL_SECONDS, TICK_SECONDS, Wait
from cluster.errors import ClusterError
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

        The actor gets a reference to it: Ray would copy the content for the actor and again for the lane, and could not
        move what the actor has from memory to the disk.
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
        return iter(lambda: self._get(mailbox, next(indices)), None)  # refers to no trial, so that its memory is freed

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
