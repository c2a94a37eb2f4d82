"""A lane as Ray runs it: a streaming generator task.

Ray's errors are sorted into the kinds that supervision treats differently.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.deadlines import (
    CONNECT_SECONDS,
    DRIVER_CHECK_SECONDS,
    MAILBOX_START_SECONDS,
    MAX_POLL_SECONDS,
    POLL_SECONDS,
    TICK_SECONDS,
    Limits,
    Wait,
)
from cluster.errors import ClusterError, first_line
from cluster.lanes import MAX_UNREAD_EVENTS, Cause, Death, Message, WorkerProcess
from cluster.nodes import HeadWatch, LanePlan, Node, describe_free
from cluster.ray_private import MAX_UNREAD_OPTION, WORKER_TITLE, free_resources, job_has_ended

# The errors of a lost node's tasks. They may come before the head lists the node as dead, or after.
NODE_LOST_ERRORS = (
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.ObjectLostError,  # of an event, or of the dataset
)
NODE = re.compile(r"\(IP: ([^,)]+)")  # as in "Memory on the node (IP: 10.0.0.7, ID: ...) ..."
MEMORY = re.compile(r"was (\S+) used / (\S+) limit")  # as in "... was 28.5GB used / 30.0GB limit (0.95)"
MAX_WAITING_LANES = 100_000
RETRIES = 5  # of a request, after a connection broke
TRIES = 10  # to start the actor on the driver's node


class RayLanes:
    """Lanes as streaming generator tasks: the `lanes.Pool` of a connected Ray cluster.

    Each task calls `function(assignments, *arguments)`, which does one assignment after the other and yields events.
    """

    def __init__(self, function: Callable[..., Iterator[Any]], plan: LanePlan, limits: Limits, *arguments: Any) -> None:
        self._function, self.plan, self._arguments = function, plan, arguments
        self._ahead: deque[_RayLane] = deque()  # started, and not returned by `start` yet
        self.head = HeadWatch(limits.head_seconds)
        self._numbers = itertools.count()
        self._task: Any = ray.remote(
            num_returns="streaming",
            num_cpus=plan.cpus,
            num_gpus=plan.gpus,
            max_retries=0,  # the supervisor decides on retries
            max_calls=1,  # TensorFlow keeps its settings, and its GPU memory, until its process ends
        )(_process_then_events)
        self._mailbox = Mailbox(self.head)
        self._to_kill: list[WorkerProcess] = []
        self._kill_tasks: list[Any] = []

    def start_ahead(self) -> None:
        """Start the planned lanes already, so that their processes are prepared when `start` returns them."""
        self._ahead.extend([self._started() for _ in range(self.plan.lanes)])
        self._mailbox.start()

    def start(self) -> _RayLane:
        return self._ahead.popleft() if self._ahead else self._started()

    def _started(self) -> _RayLane:
        options = {"scheduling_strategy": "DEFAULT", MAX_UNREAD_OPTION: MAX_UNREAD_EVENTS // 2}
        number = next(self._numbers)
        task = self._task.options(name=self._function.__name__, **options)
        generator = task.remote(self._function, Assignments(self._mailbox.name, number), *self._arguments)
        return _RayLane(number, generator, self._mailbox)

    def assign(self, lane: _RayLane, payload: Any) -> None:
        lane.mailbox.put(lane.number, payload)

    def wait(self, lanes: Collection[_RayLane], seconds: float) -> list[_RayLane]:
        self._finish_kills()
        # The content of an event may still have to be transferred once its reference has arrived; `take` requests it.
        self._read_streams(lanes, 0.0)
        ready = [lane for lane in lanes if lane.is_ready]
        fetching = {lane.arrived[0]: lane for lane in lanes if lane.is_fetching}
        reading = any(lane.is_read for lane in lanes)
        ready += _ready(fetching, 0.0 if ready else MAX_POLL_SECONDS if reading else seconds, fetch=True)
        if not ready and reading:
            self._read_streams(lanes, MAX_POLL_SECONDS if fetching else seconds)
            ready = [lane for lane in lanes if lane.is_ready]
        return ready

    def _read_streams(self, lanes: Collection[_RayLane], seconds: float) -> None:
        """Take references of events from Ray's streams, which lose what is left in them when the worker dies.

        Args:
            seconds: how long to wait for the first one.
        """
        streams = {lane.generator: lane for lane in lanes if lane.is_read}
        while ready := _ready(streams, seconds, fetch=False):
            seconds = 0.0
            for lane in ready:
                lane.arrived.append(next(lane.generator, None))
                if not lane.is_read:
                    del streams[lane.generator]

    def take(self, lane: _RayLane) -> Message | Death | None:
        reference = lane.arrived[0]
        if reference is None:
            return Death(cause=Cause.ENDED_EARLY)
        try:
            lane.is_fetching = not ray.wait([reference], timeout=0)[0]
            if lane.is_fetching:
                return None
            message: Message = ray.get(lane.arrived.popleft())
        except ray.exceptions.RayError as error:
            has_mailbox = not isinstance(getattr(error, "cause", None), ray.exceptions.ActorDiedError)
            if not has_mailbox and lane.mailbox is self._mailbox:
                self._mailbox = Mailbox(self.head)  # the lanes of the old one end, and new ones replace them
            return lane_death(error, lane.worker, self.head.nodes_now())
        if isinstance(message.event, WorkerProcess):
            lane.worker = message.event
        return message

    def kill(self, lane: _RayLane, worker: WorkerProcess | None) -> None:
        ray.cancel(lane.generator, force=True)
        self._to_kill += [worker] if worker else []
        self._finish_kills()

    def finish_kills(self, seconds: float) -> None:
        self._finish_kills()
        if self._kill_tasks and self.head.answers:
            ray.wait(self._kill_tasks, num_returns=len(self._kill_tasks), timeout=seconds, fetch_local=False)

    def _finish_kills(self) -> None:
        """Kill processes, but only if the head answers: otherwise the calls would block."""
        while self._to_kill and self.head.answers:
            worker = self._to_kill.pop()
            if not (worker.host == socket.gethostname() and _kill_worker(worker)):
                self._kill_tasks.append(_start_kill(worker))

    def describe_free(self) -> str:
        return (
            describe_free(self.head.live_nodes, free_resources()) if self.head.answers else "the head does not answer"
        )


@dataclass(eq=False)
class _RayLane:
    number: int
    generator: Any  # Ray's generator of the lane's events
    mailbox: Mailbox  # where the lane gets its trials
    # References of unread events. None after the last one.
    arrived: deque[Any] = field(default_factory=deque)
    is_fetching: bool = False  # whether the content of the first one is on the way
    worker: WorkerProcess | None = None

    @property
    def is_ready(self) -> bool:
        return bool(self.arrived) and not self.is_fetching

    @property
    def is_read(self) -> bool:
        """Return whether to take more references from the stream: only a few, since their content takes up memory."""
        return len(self.arrived) < MAX_UNREAD_EVENTS // 2 and not (self.arrived and self.arrived[-1] is None)


def _ready(lanes: Mapping[Any, _RayLane], seconds: float, *, fetch: bool) -> list[_RayLane]:
    """Wait for one of the references, and return the lanes of all that are ready then."""
    if not lanes:
        return []
    ready, _ = ray.wait([*lanes], num_returns=1, timeout=seconds, fetch_local=fetch)
    if ready and len(lanes) > 1:
        ready, _ = ray.wait([*lanes], num_returns=len(lanes), timeout=0, fetch_local=fetch)
    return [lanes[reference] for reference in ready]


def lane_death(error: ray.exceptions.RayError, worker: WorkerProcess | None, nodes: Sequence[Node]) -> Death:
    """Return why an attempt died, from the error that Ray raised in place of its next event.

    Args:
        worker: the attempt's process; None if it had not started.
        nodes: all nodes, as the head lists them.
    """
    where = f"on {worker}" if worker else ""
    if isinstance(error, ray.exceptions.RayTaskError):
        if isinstance(error.cause, ray.exceptions.RayError):  # a request that the task itself made to Ray has failed
            return lane_death(error.cause, worker, nodes)
        return Death(cause=Cause.BUG, details=f"({type(error.cause).__name__}: {error.cause})", traceback=str(error))
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        host, used = NODE.search(str(error)), MEMORY.search(str(error))
        parts = [where or f"on {host[1]}" if host else where, f"{used[1]} of {used[2]} in use" if used else ""]
        return Death(cause=Cause.OUT_OF_MEMORY, details=", ".join(filter(None, parts)))
    node = next((node for node in nodes if worker and node.id == worker.node), None)
    if isinstance(error, NODE_LOST_ERRORS) or (node and not node.is_alive):
        return Death(cause=Cause.PREEMPTED if node and node.is_preempted else Cause.NODE_LOST, details=where)
    if isinstance(error, ray.exceptions.WorkerCrashedError):
        return Death(cause=Cause.KILLED, details=where)
    return Death(cause=Cause.KILLED, details=f"{where} ({type(error).__name__}: {first_line(error)})".strip())


def _start_kill(worker: WorkerProcess) -> Any:
    """Kill the process by a task on its node. ray.cancel would ask the process, which may be stopped, to end itself."""
    on_node = NodeAffinitySchedulingStrategy(worker.node, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_kill_worker)
    return task.options(scheduling_strategy=on_node).remote(worker)


def _kill_worker(worker: WorkerProcess) -> bool:
    """Kill the process, and return True, if it runs on this machine; the host's name alone may be that of several."""
    import psutil  # bundled with Ray

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(worker.pid)
        # By now, the pid may belong to another process. Creation times read by two processes may differ by 1 s.
        if abs(process.create_time() - worker.started_at) < 2 and WORKER_TITLE in " ".join(process.cmdline()):
            process.kill()
            return True
    return False


def _end_with_driver(job: str) -> None:
    """Kill this process once the driver of its job has left the cluster.

    Ray does so, too, but has left processes behind whose task was being cancelled when a busy machine's driver left.
    """
    while not job_has_ended(job, CONNECT_SECONDS):
        time.sleep(DRIVER_CHECK_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _process_then_events(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Message]:
    import psutil

    process = WorkerProcess(
        node=ray.get_runtime_context().get_node_id(),
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=psutil.Process().create_time(),
    )
    job = ray.get_runtime_context().get_job_id()
    threading.Thread(target=_end_with_driver, args=[job], name="end with driver", daemon=True).start()
    for event in itertools.chain([process], function(*arguments)):
        yield Message(event, time.monotonic())


# The mailbox


class Mailbox:
    """The trials of each lane, in an actor, since a running task has no other way to get its next one.

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
        """Give a lane its next trial, or None if there are no more."""
        self._actor.put.remote(lane, payload)

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


class _Payloads:
    """The actor."""

    def __init__(self) -> None:
        self._payloads: dict[int, list[Any]] = defaultdict(list)
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
        done = max(0, index - 1)
        payloads[:done] = [None] * done  # these have been taken: free their memory
        return payloads[index]


class Assignments:
    """The trials of a lane, as an iterator in the lane's task."""

    def __init__(self, mailbox: str, lane: int) -> None:
        self._mailbox, self._lane = mailbox, lane  # the actor's name, and the number of the lane

    def __iter__(self) -> Iterator[Any]:
        mailbox = self._find_mailbox()
        for index in itertools.count():
            payload = self._get(mailbox, index)
            if payload is None:
                return
            yield payload

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
            return _without_giving_back_the_cpu(mailbox.get.remote(self._lane, index))
        except ray.exceptions.ActorUnavailableError:  # a connection broke
            if not retries:
                raise
            time.sleep(1.0)
            return self._get(mailbox, index, retries - 1)


def _without_giving_back_the_cpu(reference: Any) -> Any:
    """Return an object once it exists. The CPU of a task that blocks in `ray.get` is given to other tasks."""
    pause = POLL_SECONDS
    while not ray.wait([reference], timeout=0)[0]:
        time.sleep(pause)
        pause = min(2 * pause, MAX_POLL_SECONDS)
    return ray.get(reference)
