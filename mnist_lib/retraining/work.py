"""What there is to do for a slot, and how an attempt at it ends: the side that a retrainer does not know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a run ended.

    Args:
        complete: there is a result, and all of it is stored.
        again: what ended it may be over the next time.
    """

    exit_code: int
    complete: bool
    again: bool = False
    why: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)


class Attempt(Protocol):
    """At a run, going on elsewhere."""

    def poll(self) -> Outcome | None:
        """None while it goes on."""
        ...

    def stop(self) -> None:
        """When it returns, the attempt goes on no more; another one loses little."""
        ...

    def kill(self) -> None:
        """At once."""
        ...


class Work(Protocol):
    """What there is to do for each slot."""

    def was_begun(self, run: str) -> bool:
        """Whether there is a run of that name."""
        ...

    def fingerprint(self) -> str | None:
        """Of all that a result depends on, as it is now; None where that cannot be told."""
        ...

    def start(self, run: str, term: int) -> Attempt:
        """`term`: the fencing number; what the attempt writes under it is refused once there is a higher one."""
        ...
