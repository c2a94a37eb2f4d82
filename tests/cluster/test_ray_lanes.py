"""The ends of real workers: a lane dies with its driver, and at once if the driver kills it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from cluster.deadlines import KILL_SECONDS, Limits
from cluster.lanes import WorkerProcess
from cluster.nodes import LanePlan
from cluster.ray_lanes import RayLanes, kill_process
from tests.support.bounds import JOB_SECONDS, wait_until

# Workers cannot import a test module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_address")]

# A driver whose detached actor outlives it, as a lane does if Ray fails to end it.
LEAVING_DRIVER = """
import sys, threading
import ray
from cluster.ray_private import connect
from cluster.ray_lanes import _end_with_driver
connect(sys.argv[1], log_to_driver=False)
class Lane:
    def start(self):
        import os
        job = ray.get_runtime_context().get_job_id()
        threading.Thread(target=_end_with_driver, args=[job], daemon=True).start()
        return os.getpid()
lane = ray.remote(Lane).options(lifetime="detached", num_cpus=0).remote()
print(ray.get(lane.start.remote()), flush=True)
sys.stdin.read()
"""


def wait_for_items(assignments: Any) -> Iterator[Any]:
    yield from assignments


@contextmanager
def running_lane() -> Iterator[tuple[RayLanes, Any, WorkerProcess]]:
    lanes = RayLanes(wait_for_items, LanePlan(lanes=1, cpus=1, gpus=0), Limits())
    lanes.start_ahead()
    lane = lanes.start()
    assert lane.number == 0, "another lane was started"
    wait_until(lambda: lanes.wait([lane], 1.0) and lanes.take(lane), "the lane has not started")
    assert lane.worker is not None
    yield lanes, lane, lane.worker
    lanes.kill(lane, lane.worker)


@pytest.mark.long
def test_f5_a_worker_ends_when_its_driver_has_left_even_if_ray_leaves_it_running(ray_address: str) -> None:
    command = [sys.executable, "-c", LEAVING_DRIVER, ray_address]
    driver = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    process = psutil.Process(int(driver.stdout.readline()))
    time.sleep(1.0)
    assert process.is_running()
    driver.communicate("")
    process.wait(timeout=JOB_SECONDS)


def test_a_killed_worker_of_this_machine_is_dead_at_once_even_if_it_is_suspended() -> None:
    with running_lane() as (lanes, lane, worker):
        process = psutil.Process(worker.pid)
        process.suspend()
        lanes.kill(lane, worker)
        lanes.finish_kills(KILL_SECONDS)
        process.wait(timeout=5)


def test_a_worker_of_another_machine_is_killed_by_a_task_which_the_driver_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running_lane() as (lanes, lane, worker):
        process = psutil.Process(worker.pid)
        process.suspend()
        monkeypatch.setattr(socket, "gethostname", lambda: "another")
        lanes.kill(lane, worker)
        lanes.finish_kills(60)
        process.wait(timeout=5)


def test_the_process_that_has_taken_a_worker_s_id_is_not_killed() -> None:
    with running_lane() as (_, _, worker):
        other = WorkerProcess(node=worker.node, host=worker.host, pid=worker.pid, started_at=worker.started_at - 60)
        assert not kill_process(other)
        assert not kill_process(WorkerProcess(node="", host="", pid=os.getpid()))
        os.kill(worker.pid, signal.SIGCONT)  # it still exists
