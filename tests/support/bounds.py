"""Bounds for the time of a block, scaled to the speed of this machine and to what else it does.

The same work takes up to three times as long on a slower machine, and several times as long on a busy one. So a bound
that was exceeded is raised if a fixed piece of work, timed afterwards, is slower than on the reference machine.
"""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator

REFERENCE_SECONDS = 0.0097  # of `_reference_work` on a quiet Intel Xeon with Python 3.11, 2026-11-27, minimum of 40
# Waits that only a hang exceeds, even on a machine that is ten times slower. After 300 s, pytest ends the process with
# all its tests, unless a test has a longer limit of its own.
WAIT_SECONDS = 150  # for what a running process does next
JOB_SECONDS = 250  # until a job must have ended
GROUP_SECONDS = 400  # until a job on several hosts must have ended
STOP_SECONDS = 20  # until a process that was told to end, and has nothing left to do, must have ended
_DOCUMENT = {
    "models": [{"name": f"keras-s{seed}", "accuracy": seed / 100, "epochs": [*range(20)]} for seed in range(50)]
}


def wait_until(
    condition: Callable[[], object], failure: str | Callable[[], str], seconds: float = WAIT_SECONDS
) -> None:
    """Wait until the condition is true; after `seconds`, fail with a message."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, failure if isinstance(failure, str) else failure()
        time.sleep(0.02)


@contextlib.contextmanager
def at_most_processor_seconds(seconds: float) -> Iterator[None]:
    """Check the processor time of the block, in this process and in processes that it starts and waits for."""
    begin = _processor_seconds()
    yield
    _check(_processor_seconds() - begin, seconds, "processor time", time.thread_time)


def assert_at_most(seconds: float, *, since: float) -> None:
    """Check the time since a value of `time.monotonic()`."""
    _check(time.monotonic() - since, seconds, "time", time.monotonic)


def _check(used: float, seconds: float, what: str, clock: Callable[[], float]) -> None:
    if used >= seconds:
        slowness = statistics.median(_reference_work(clock) for _ in range(25)) / REFERENCE_SECONDS
        bound = seconds * max(1, slowness)
        assert used < bound, f"used {used:.2f} s of {what}, expected less than {bound:.2f} s ({seconds:g} s if quiet)"


def _reference_work(clock: Callable[[], float]) -> float:
    """Return the seconds, on a clock, of encoding and decoding a document 20 times."""
    begin = clock()
    for _ in range(20):
        json.loads(json.dumps(_DOCUMENT, indent=1))
    return clock() - begin


def _processor_seconds() -> float:
    return sum(os.times()[:4])
