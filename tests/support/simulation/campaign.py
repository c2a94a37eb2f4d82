"""`make simulate N=100000 SEED=1`: simulate many worlds on all CPUs, and print each failing seed with its history.

With `--first` after the seed, only the first line of the first failure is printed.
"""

import multiprocessing
import sys
import time
import traceback

from tests.support.simulation.world import simulate

CHUNK = 100


def failure(seed: int) -> tuple[str, str] | None:
    """Return what is wrong in the world of a seed, in one line and with its traceback and history; None if nothing."""
    try:
        simulate(seed)
    except Exception as error:
        return f"{error} (seed {seed})", traceback.format_exc()
    return None


def main() -> int:
    count, first = map(int, sys.argv[1:3])
    seeds = range(first, first + count)
    if sys.argv[3:] == ["--first"]:
        line, _ = next(filter(None, map(failure, seeds)), ("", ""))
        print(line)
        return 0
    begin, failures = time.monotonic(), 0
    with multiprocessing.Pool() as pool:
        for done, result in enumerate(pool.imap_unordered(failure, seeds, CHUNK), start=1):
            if result:
                failures += 1
                print(result[1])
            if done % 10_000 == 0:
                print(f"{done:,} of {count:,} worlds, {failures} failed, {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{count:,} worlds, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
