"""The processes of lanes: who they are, and their end.

A process is killed by its id. `ray.cancel` would ask the process, which may be stopped, to end itself.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.deadlines import CONNECT_SECONDS, DRIVER_CHECK_SECONDS
from cluster.lanes import WorkerProcess
from cluster.nodes import HeadWatch
from cluster.ray_private import WORKER_TITLE, job_has_ended


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
