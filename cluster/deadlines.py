"""Every limit on time, and on attempts, of this package. Imports no Ray: the command line checks the limits of a run.

`Limits` are those of one run; the constants hold for every run. All are in seconds.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When an attempt, an item or a whole run is abandoned."""

    max_failures: int = 3  # retries of an item whose attempt has died
    max_out_of_memory: int = 1  # how many of these retries may follow a lack of memory
    item_seconds: float = math.inf  # for one item in one attempt
    # An attempt that sends no event for too long is abandoned. Before the third event of an item, that is
    # first_silence_seconds; then it is ten times the longest interval since the second event, but at least
    # silence_seconds.
    first_silence_seconds: float = 900.0
    silence_seconds: float = 60.0
    cancel_seconds: float = 5.0  # from the cancellation of an attempt to the kill of its process
    wait_seconds: float = 600.0  # while no attempt has been given its resources
    log_interval_seconds: float = 10.0  # between two log lines about the same wait
    head_seconds: float = 30.0  # without an answer from the cluster's head


# Connections
CONNECT_SECONDS = 4.0  # until the head or the job server has answered one question
LOST_SHUTDOWN_SECONDS = 5.0  # for Ray's shutdown after the cluster was lost, which would take a minute
JOB_ANSWER_SECONDS = 60.0  # between two parts of an answer of the job server
JOB_AGENT_SECONDS = 30.0  # until the head's agent, which runs the jobs and starts after the job server, is ready
JOB_SERVER_LOST_SECONDS = 120.0  # without an answer from the job server while a job is followed

# Lanes
TICK_SECONDS = 0.5  # how late a deadline may be noticed
FETCH_SECONDS = 60.0  # for the transfer of one event from a worker's node
BACK_OFF_SECONDS = (1.0, 30.0)  # pause after an item's first death, doubled after each further one; longest pause

# Nodes on this machine
NODE_START_SECONDS = 60.0  # until a node has joined
NODE_KILL_SECONDS = 20.0  # until every process of a node has ended

# The pod of the Kubernetes CronJob
KUBERNETES_REQUEST_SECONDS = 30.0  # for one answer
KUBERNETES_SILENCE_SECONDS = 300.0  # without any answer; the API server may be upgraded meanwhile


class Wait:
    """A wait for `what` since its creation or `restart`, limited by --wait-for-resources. It is logged at intervals."""

    def __init__(
        self, what: str, *, timeout_seconds: float = math.inf, log_interval: float = Limits.log_interval_seconds
    ) -> None:
        self._what, self._timeout_seconds, self._log_interval = what, timeout_seconds, log_interval
        self.restart()

    def restart(self) -> None:
        self._began_at = self._logged_at = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began_at

    @property
    def is_over(self) -> bool:
        return self.seconds >= self._timeout_seconds

    def log_if_due(self, find_reason: Callable[[], str] = str) -> None:
        """Log the wait if the interval has passed; only then find the reason, which may take time."""
        if time.monotonic() - self._logged_at < self._log_interval:
            return
        self._logged_at = time.monotonic()
        finite = math.isfinite(self._timeout_seconds)
        limit = f" of at most {self._timeout_seconds:.0f} (--wait-for-resources)" if finite else ""
        reason = find_reason()
        log.warning("waiting for %s, for %.0f s%s%s", self._what, self.seconds, limit, reason and f"; {reason}")
