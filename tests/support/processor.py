"""Bounds on processor time, for code that computes and does not wait. On a busy machine, elapsed time says little."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def at_most_processor_seconds(seconds: float) -> Iterator[None]:
    """Check the processor time of the block, in this process and in processes that it starts and waits for."""
    begin = _used()
    yield
    used = _used() - begin
    assert used < seconds, f"used {used:.2f} s of processor time, expected less than {seconds:g} s"


def _used() -> float:
    return sum(os.times()[:4])
