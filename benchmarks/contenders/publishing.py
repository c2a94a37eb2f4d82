"""How publishing is timed: the same files again and again, the first time not counted, one JSON line of seconds.

Arguments: a folder, how many times. What is published is random bytes of the sizes that a trained `keras` leaves.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

SIZES = {"model.keras": 1_642_000, "predictions.npz": 400_000, "manifest.json": 2_000}


def measure(publish: Callable[[int, dict[str, bytes]], object]) -> None:
    """`publish` gets a number that is new each time, and the files."""
    files = {name: os.urandom(size) for name, size in SIZES.items()}
    seconds = []
    for number in range(int(sys.argv[2])):
        begin = time.perf_counter()
        publish(number, files)
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": seconds[1:]}))


def folder() -> Path:
    return Path(sys.argv[1])
