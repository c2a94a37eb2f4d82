"""A lane as Ray runs it: a streaming generator task, whose process is killed by its id.

`ray.cancel` would ask the process, which may be stopped, to end itself. Ray's errors are sorted into the kinds that
supervision treats differently.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.deadlines import CONNECT_SECONDS, DRIVER_CHECK_SECONDS, Limits
from cluster.errors import first_line
from cluster.lanes import MAX_UNREAD_EVENTS, Cause, Death, Message, WorkerProcess
from cluster.mailbox import Assignments, Mailbox, Stream, wait_for_messages
from cluster.nodes import HeadWatch, LanePlan, Node, describe_free
from cluster.ray_private import MAX_UNREAD_OPTION, WORKER_TITLE, free_resources, job_has_ended


class Killer:
    """Kills processes, but only while the head answers: otherwise the calls would block."""

    def __init__(self, head: HeadWatch) -> None:
        self._head = head
        self._waiting: list[WorkerProcess] = []
        self._tasks: list[Any] = []  # kills on other machines

    def kill(self, worker: WorkerProcess) -> None:
        self._waiting.append(worker)
        self.go_on()

    def go_on(self) -> None:
        """Kill those that had to wait for the head."""
        while self._waiting and self._head.answers:
            worker = self._waiting.pop()
            if not (worker.host == socket.gethostname() and kill_process(worker)):
                self._tasks.append(_start_kill(worker))

    def finish(self, seconds: float) -> None:
        """Wait until the processes are dead, for at most that long."""
        self.go_on()
        if self._tasks and self._head.answers:
            ray.wait(self._tasks, num_returns=len(self._tasks), timeout=seconds, fetch_local=False)


def _start_kill(worker: WorkerProcess) -> Any:
    """Kill the process by a task on its node."""
    on_node = NodeAffinitySchedulingStrategy(worker.node, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(kill_process)
    return task.options(scheduling_strategy=on_node).remote(worker)


def kill_process(worker: WorkerProcess) -> bool:
    """Kill the process, and return True, if it runs on this machine; the host's name alone may be that of several."""
    import psutil  # bundled with Ray

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(worker.pid)
        # By now, the pid may belong to another process. Creation times read by two processes may differ by 1 s.
        if abs(process.create_time() - worker.started_at) < 2 and WORKER_TITLE in " ".join(process.cmdline()):
            process.kill()
            return True
    return False


def this_process() -> WorkerProcess:
    """Return the process of a lane, in that process, and let it end with its driver."""
    import psutil

    context = ray.get_runtime_context()
    threading.Thread(target=_end_with_driver, args=[context.get_job_id()], name="end with driver", daemon=True).start()
    return WorkerProcess(
        node=context.get_node_id(),
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=psutil.Process().create_time(),
    )


def _end_with_driver(job: str) -> None:
    """Kill this process once the driver of its job has left the cluster.

    Ray does so, too, but has left processes behind whose task was being cancelled when a busy machine's driver left.
    """
    while not job_has_ended(job, CONNECT_SECONDS):
        time.sleep(DRIVER_CHECK_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


# The errors of a lost node's tasks. They may come before the head lists the node as dead, or after.
NODE_LOST_ERRORS = (
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.ObjectLostError,  # of an event, or of the dataset
)
NODE = re.compile(r"\(IP: ([^,)]+)")  # as in "Memory on the node (IP: 10.0.0.7, ID: ...) ..."
MEMORY = re.compile(r"was (\S+) used / (\S+) limit")  # as in "... was 28.5GB used / 30.0GB limit (0.95)"


class RayLanes:
    """Lanes as streaming generator tasks: the `lanes.Pool` of a connected Ray cluster.

    Each task calls `function(assignments, *arguments)`, which does one assignment after the other and yields events.
    """

    def __init__(self, function: Callable[..., Iterator[Any]], plan: LanePlan, limits: Limits, *arguments: Any) -> None:
        self._function = function
        self.plan = plan
        self._arguments = arguments
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
        self._killer = Killer(self.head)

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
        return _RayLane(number, Stream(generator), self._mailbox)

    def assign(self, lane: _RayLane, payload: Any) -> None:
        lane.mailbox.put(lane.number, payload)

    def wait(self, lanes: Collection[_RayLane], seconds: float) -> list[_RayLane]:
        self._killer.go_on()
        wait_for_messages([lane.stream for lane in lanes], seconds)
        return [lane for lane in lanes if lane.stream.is_ready]

    def take(self, lane: _RayLane) -> Message | Death | None:
        try:
            message = lane.stream.take()
        except ray.exceptions.RayError as error:
            has_mailbox = not isinstance(getattr(error, "cause", None), ray.exceptions.ActorDiedError)
            if not has_mailbox and lane.mailbox is self._mailbox:
                self._mailbox = Mailbox(self.head)  # the lanes of the old one end, and new ones replace them
            return lane_death(error, lane.worker, self.head.nodes_now())
        if isinstance(message, Message) and isinstance(message.event, WorkerProcess):
            lane.worker = message.event
        return message

    def kill(self, lane: _RayLane, worker: WorkerProcess | None) -> None:
        ray.cancel(lane.stream.generator, force=True)
        if worker is not None:
            self._killer.kill(worker)

    def finish_kills(self, seconds: float) -> None:
        self._killer.finish(seconds)

    def describe_free(self) -> str:
        return (
            describe_free(self.head.live_nodes, free_resources()) if self.head.answers else "the head does not answer"
        )


@dataclass(eq=False)
class _RayLane:
    number: int
    stream: Stream
    mailbox: Mailbox  # where the lane gets its trials
    worker: WorkerProcess | None = None


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
        host = NODE.search(str(error))
        used = MEMORY.search(str(error))
        parts = [where or f"on {host[1]}" if host else where, f"{used[1]} of {used[2]} in use" if used else ""]
        return Death(cause=Cause.OUT_OF_MEMORY, details=", ".join(filter(None, parts)))
    node = next((node for node in nodes if worker and node.id == worker.node), None)
    if isinstance(error, NODE_LOST_ERRORS) or (node and not node.is_alive):
        return Death(cause=Cause.PREEMPTED if node and node.is_preempted else Cause.NODE_LOST, details=where)
    if isinstance(error, ray.exceptions.WorkerCrashedError):
        return Death(cause=Cause.KILLED, details=where)
    return Death(cause=Cause.KILLED, details=f"{where} ({type(error).__name__}: {first_line(error)})".strip())


def _process_then_events(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Message]:
    for event in itertools.chain([this_process()], function(*arguments)):
        yield Message(event, time.monotonic())
