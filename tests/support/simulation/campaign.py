"""`make simulate N=100000 SEED=1`: simulate many worlds on all CPUs, and print each failing seed with its history.

With `--first` after the seed, only the first line of the first failure is printed.
"""

import multiprocessing
import sys
import time
import traceback

from tests.support.simulation.world import simulate

CHUNK = 100


def failure_of(seed: int) -> str:
    """Return the traceback and the history of a failing seed; "" if nothing is wrong."""
    try:
        simulate(seed)
    except Exception:
        return traceback.format_exc()
    return ""


def first_failure(seeds: range) -> str:
    """Return the message and the seed of the first world that fails, or ""."""
    for seed in seeds:
        try:
            simulate(seed)
        except Exception as error:
            return f"{error} (seed {seed})"
    return ""


def main() -> int:
    count, first = map(int, sys.argv[1:3])
    if sys.argv[3:] == ["--first"]:
        print(first_failure(range(first, first + count)))
        return 0
    begin, failures = time.monotonic(), 0
    with multiprocessing.Pool() as pool:
        for done, failure in enumerate(pool.imap_unordered(failure_of, range(first, first + count), CHUNK), start=1):
            if failure:
                failures += 1
                print(failure)
            if done % 10_000 == 0:
                print(f"{done:,} of {count:,} worlds, {failures} failed, {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{count:,} worlds, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
