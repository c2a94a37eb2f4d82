import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from cluster.deadlines import Limits
from cluster.errors import ClusterError, ResourcesError
from cluster.tasks import MAX_RETRIES, TASKS_PER_CPU, results_in_order
from tests.support.local_cluster import every_cpu_taken

# Workers cannot import a test module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_address")]

CPUS = 3  # of the cluster of ray_address


def slow_if_early(number: int) -> int:
    time.sleep(0.5 if number % 3 == 0 else 0)
    return number


def dies(number: int, times: int, folder: Path) -> int:
    """Kill the worker in the first `times` calls with number 1."""
    calls = len(list(folder.glob(f"{number}-*")))
    if number == 1 and calls < times:
        (folder / f"{number}-{calls}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_come_in_order_and_few_calls_are_taken_in_advance() -> None:
    taken, ahead = [], []

    def calls() -> Iterator[tuple[int]]:
        for number in range(20):
            taken.append(number)
            yield (number,)

    found = []
    for number in results_in_order(slow_if_early, calls(), "a number", Limits()):
        found.append(number)
        ahead.append(len(taken) - len(found))
    assert found == list(range(20))
    assert max(ahead) < TASKS_PER_CPU * CPUS


def test_a_call_whose_worker_dies_is_repeated(tmp_path: Path) -> None:
    calls = [(number, MAX_RETRIES, tmp_path) for number in range(3)]
    assert list(results_in_order(dies, calls, "a number", Limits())) == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == MAX_RETRIES


@pytest.mark.long
def test_a_call_that_kills_every_worker_is_abandoned(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="a task's worker died"):
        list(results_in_order(dies, [(1, MAX_RETRIES + 1, tmp_path)], "a number", Limits()))


def test_an_error_of_the_function_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(results_in_order(lambda number: 1 // number, [(1,), (0,)], "a number", Limits()))


@pytest.mark.long
def test_a_wait_for_busy_cpus_is_logged_and_ends_in_time(caplog: pytest.LogCaptureFixture) -> None:
    limits = replace(Limits(), wait_seconds=2.0, log_interval_seconds=0.5)
    with every_cpu_taken(600), pytest.raises(ResourcesError, match="--wait-for-resources"):
        list(results_in_order(slow_if_early, [(1,)], "a number", limits))
    assert "waiting for a number" in caplog.text
    assert "0 of 1 CPU, 1 of 1 GPU free" in caplog.text
