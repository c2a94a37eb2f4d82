"""No wait is silent: whoever waits says for what, how long and why, every ten seconds."""

import logging
import math
import time
from collections.abc import Callable

TELL_SECONDS = 10.0

log = logging.getLogger(__name__)


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
