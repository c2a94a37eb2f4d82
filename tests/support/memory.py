"""How much memory a piece of code needs, measured in a process of its own."""

import subprocess
import sys

# Not `ru_maxrss`: it begins with the peak of the process that started this one, so that a large one would hide growth.
MEASURE = """
import re
from pathlib import Path
def peak():
    return int(re.search("VmHWM:\\\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
{}
print((peak() - before) * 1024)
"""


def peak_bytes(setup: str, code: str, timeout: float = 30.0) -> int:
    """Return by how many bytes the memory of a process grows while it runs `code` after `setup`."""
    done = subprocess.run(
        [sys.executable, "-c", setup + MEASURE.format(code)], capture_output=True, text=True, timeout=timeout
    )
    assert not done.returncode, done.stderr
    return int(done.stdout.split()[-1])
