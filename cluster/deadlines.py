"""Every time limit and attempt limit of this package. Does not import Ray, since the command line checks the limits.

`Limits` holds those of one run; the constants hold for every run. Times are in seconds.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

log = logging.getLogger(__name__)


# Time until the next event of a lane, by its state (`lanes.LaneState`). It waits for the driver in the other states.
SILENCE_SECONDS = {
    "starting": 900.0,  # imports, and the transfer of the dataset
    "assigned": 900.0,  # until it begins a trial
    "preparing": 900.0,  # compilation, up to the first heartbeat
    "training": 60.0,  # between heartbeats; or ten times the longest interval so far, if that is longer
    "finishing": 900.0,  # evaluation on the test images, and the files of the model
    "ending": 30.0,  # from the end of a lane's last trial to the end of its task
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When an attempt, a trial or a run is abandoned."""

    max_failures: int = 3  # retries of a trial whose attempt has died
    max_out_of_memory: int = 1  # how many of these retries may follow an out-of-memory death
    trial_seconds: float = math.inf  # for one trial in one attempt
    silence_seconds: Mapping[str, float] = field(default_factory=lambda: SILENCE_SECONDS)
    fetch_seconds: float = 60.0  # for the transfer of one event from a worker's node
    wait_seconds: float = 600.0  # while no attempt has been given its resources
    log_interval_seconds: float = 10.0  # between two log lines about the same wait
    head_seconds: float = 30.0  # without an answer from the cluster's head


# Connections
CONNECT_SECONDS = 4.0  # until the head or the job server has answered one request
KILL_SECONDS = 2.0  # for the kills of unfinished attempts at the end of a run, before the driver leaves the cluster
DRIVER_CHECK_SECONDS = 5.0  # between two requests of a lane whether its driver is still there
LOST_SHUTDOWN_SECONDS = 5.0  # for Ray's shutdown after the cluster was lost, which would take a minute
JOB_ANSWER_SECONDS = 25.0  # between two parts of an answer from the job server
JOB_AGENT_SECONDS = 30.0  # until the head's agent, which runs the jobs and starts after the job server, is ready
JOB_SERVER_LOST_SECONDS = 60.0  # without an answer while a job is followed; one more request may take as long as above

# Lanes
TICK_SECONDS = 0.5  # how late a deadline may be noticed
MAX_TICK_SECONDS = 5.0  # maximum that one reading of the clock adds; a longer gap means that this process was stopped
MAILBOX_START_SECONDS = 60.0  # for the start of the actor that gives lanes their trials
POLL_SECONDS = 0.002  # how late a lane notices its next trial; a blocking request would give back its CPU
MAX_POLL_SECONDS = 0.1
PREPARE_SECONDS = 7_200.0  # without progress of a single task outside of lanes, such as the preparation of a dataset
MAX_FAILED_STARTS = 3  # when a bug makes this many lanes in a row fail to start, all trials fail
MAX_SKIPPED = 16  # trials that are not ready when a lane asks for one
BACK_OFF_SECONDS = (1.0, 30.0)  # first and longest pause; the pause doubles with each death


class Clock(Protocol):
    """The clock of supervision: the module `time`, or a simulated one."""

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...


class Wait:
    """Measures a wait for `what` from the creation of this object or its last `restart`, and logs it at intervals.

    Args:
        timeout_seconds: the limit that --wait-for-resources sets, if it applies to this wait.
    """

    def __init__(
        self,
        what: str,
        *,
        timeout_seconds: float = math.inf,
        log_interval: float = Limits.log_interval_seconds,
        clock: Clock = time,
    ) -> None:
        self._what = what
        self._timeout_seconds = timeout_seconds
        self._log_interval = log_interval
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        self._began_at = self._logged_at = self._clock.monotonic()

    @property
    def seconds(self) -> float:
        return self._clock.monotonic() - self._began_at

    @property
    def is_over(self) -> bool:
        return self.seconds >= self._timeout_seconds

    def log_if_due(self, find_reason: Callable[[], str] = str) -> None:
        """Log the wait if the interval has passed; only then find the reason, which may take time."""
        if self._clock.monotonic() - self._logged_at < self._log_interval:
            return
        self._logged_at = self._clock.monotonic()
        finite = math.isfinite(self._timeout_seconds)
        limit = f" of at most {self._timeout_seconds:.0f} (--wait-for-resources)" if finite else ""
        reason = find_reason()
        log.warning("waiting for %s, for %.0f s%s%s", self._what, self.seconds, limit, reason and f"; {reason}")


def back_off(deaths: int) -> float:
    """Return the pause after a number of deaths, in seconds."""
    first, longest = BACK_OFF_SECONDS
    return float(min(longest, first * 2.0 ** min(deaths - 1, 30)))


class RunningTime:
    """The time by which deadlines are judged. It does not pass while this process is stopped."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._now = 0.0
        self._read_at = clock.monotonic()
        self.sleep = clock.sleep

    def tick(self) -> None:
        read_at = self._clock.monotonic()
        self._now += min(read_at - self._read_at, MAX_TICK_SECONDS)
        self._read_at = read_at

    def monotonic(self) -> float:
        return self._now
