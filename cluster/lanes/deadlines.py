"""When an attempt, an item or a whole run is given up. Imports no Ray: the command line checks them."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When an attempt, an item or the whole is given up."""

    max_failures: int = 3  # attempts at an item that may die and be followed by another
    max_out_of_memory: int = 1  # of these, for memory
    item_seconds: float = math.inf  # of an attempt at one item
    # Without any event. Until an item's third event there is no measure; then it is ten times the longest interval
    # since the second.
    first_silence_seconds: float = 900.0
    silence_seconds: float = 60.0  # at least
    cancel_seconds: float = 5.0  # from asking an attempt to end to ending it
    wait_seconds: float = 600.0  # while no attempt has a place
    tell_seconds: float = 10.0  # from one line on why it waits to the next
    head_seconds: float = 30.0  # without an answer of the cluster's head


log = logging.getLogger(__name__)

TELL_SECONDS = 10.0


class Waiting:
    """Begins when it is made, and again with `restart`.

    Args:
        what: is waited for.
        at_most: seconds, those of --wait-for-resources.
        tell_seconds: from one line to the next.
    """

    def __init__(self, what: str, *, at_most: float = math.inf, tell_seconds: float = TELL_SECONDS) -> None:
        self._what, self._at_most, self._tell_seconds = what, at_most, tell_seconds
        self.restart()

    def restart(self) -> None:
        self._begun_at = self._told_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self._begun_at

    @property
    def is_over(self) -> bool:
        return self.seconds >= self._at_most

    def tell(self, why: Callable[[], str] = str) -> None:
        """If it is time. To find out why may be costly: it is asked only then."""
        if time.monotonic() - self._told_at < self._tell_seconds:
            return
        self._told_at = time.monotonic()
        limit = f" of at most {self._at_most:.0f} (--wait-for-resources)" if math.isfinite(self._at_most) else ""
        reason = why()
        log.warning("waiting for %s, for %.0f s%s%s", self._what, self.seconds, limit, f"; {reason}" if reason else "")
