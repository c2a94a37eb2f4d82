"""Places where a test lets the process die or the storage refuse: `MNIST_FAILPOINT=publish.before_commit=exit`.

Each is named after the step that it comes before. Without the variable, passing one costs a look-up.
"""

import os

from mnist_lib.errors import StoreError

VARIABLE = "MNIST_FAILPOINT"
EXIT_STATUS = 86  # tells a test that the process ended here and nowhere else


def failpoint(name: str) -> None:
    place, _, action = os.environ.get(VARIABLE, "").partition("=")
    if place != name:
        return
    if action == "exit":
        os._exit(EXIT_STATUS)  # as a kill would: nothing is flushed, no `finally` runs
    raise StoreError(f"failpoint {name}")
