"""A process that publishes and promotes: `python -m tests.support.store.publisher STORAGE NAME VERSIONS`.

It prints each operation as a line of JSON: what it was, when it began and ended (in nanoseconds of the machine's
monotonic clock), and its result.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from mnist_lib.objects.storage import open_storage
from mnist_lib.store.champions.appointment import champion
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.publishing import publish
from mnist_lib.store.versions import Version
from tests.support.store.fake_versions import about, files


def main(storage: str, name: str, versions: int) -> None:
    objects = open_storage(storage)

    def timed(what: str, act: Callable[[], Any]) -> Any:
        begin = time.monotonic_ns()
        result, value = act()
        line = {"what": what, "begin": begin, "end": time.monotonic_ns(), "value": value}
        sys.stdout.write(f"{json.dumps(line)}\n")
        return result

    def read() -> tuple[None, int]:
        newest = champion(objects, "keras", "mnist")
        return None, newest.number if newest else 0

    for n in range(versions):
        right = 40 * n + 5 * int(name)  # later versions are better, and no two are equal

        def published(right: int = right, run: str = f"{name}-{n}") -> tuple[Any, int]:
            version = publish(objects, "keras", run, files(right), about(right=right))
            return version, version.number

        version = timed("publish", published)
        timed("read", read)

        def promoted(version: Version = version) -> tuple[None, list[Any]]:
            return None, [version.number, promote(objects, version, Rule()).promote]

        timed("promote", promoted)
        timed("read", read)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
