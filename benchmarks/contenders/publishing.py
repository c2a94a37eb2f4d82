"""Publish the same files several times, the first time as a warm-up, and print the seconds as a line of JSON.

Arguments: a folder, and the number of times. The files contain random bytes, and have the sizes of the files of a
trained `keras`.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

SIZES = {"model.keras": 1_642_000, "predictions.npz": 400_000, "manifest.json": 2_000}


def measure(publish: Callable[[int, dict[str, bytes]], object]) -> None:
    """Time calls of `publish(number, files)`, each with a new number and the same files."""
    files = {name: os.urandom(size) for name, size in SIZES.items()}
    seconds = []
    for number in range(int(sys.argv[2])):
        begin = time.perf_counter()
        publish(number, files)
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": seconds[1:]}))


def folder() -> Path:
    return Path(sys.argv[1])
