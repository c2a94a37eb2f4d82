"""How much memory a piece of code needs, measured in a process of its own."""

import subprocess
import sys

MEASURE = """
import resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def peak_bytes(setup: str, code: str, timeout: float = 30.0) -> int:
    """Return by how many bytes the memory of a process grows while it runs `code` after `setup`."""
    done = subprocess.run(
        [sys.executable, "-c", setup + MEASURE.format(code)], capture_output=True, text=True, timeout=timeout
    )
    assert not done.returncode, done.stderr
    return int(done.stdout.split()[-1])
