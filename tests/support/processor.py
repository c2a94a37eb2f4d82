"""A bound for the processor time of a block, scaled to the speed of this machine."""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Iterator

REFERENCE_SECONDS = 0.0097  # of `_reference_work` on a quiet Intel Xeon with Python 3.11, 2026-11-27, minimum of 40
_DOCUMENT = {
    "models": [{"name": f"keras-s{seed}", "accuracy": seed / 100, "epochs": [*range(20)]} for seed in range(50)]
}


@contextlib.contextmanager
def at_most_processor_seconds(seconds: float) -> Iterator[None]:
    """Check the processor time of the block, in this process and in processes that it starts and waits for.

    The same work takes up to three times as long on a slower or busier machine. So a bound that was exceeded is raised
    if a fixed piece of work, timed after the block, is slower than on the reference machine.
    """
    begin = _used()
    yield
    used = _used() - begin
    if used >= seconds:
        bound = seconds * max(1, _slowness())
        assert used < bound, (
            f"used {used:.2f} s of processor time, expected less than {bound:.2f} s ({seconds:g} s if quiet)"
        )


def _slowness() -> float:
    """Return the time of the fixed piece of work as a multiple of what it took on the reference machine."""
    return statistics.median(_reference_work() for _ in range(25)) / REFERENCE_SECONDS


def _reference_work() -> float:
    """Return the processor seconds of encoding and decoding a document 20 times."""
    begin = time.thread_time()
    for _ in range(20):
        json.loads(json.dumps(_DOCUMENT, indent=1))
    return time.thread_time() - begin


def _used() -> float:
    return sum(os.times()[:4])
