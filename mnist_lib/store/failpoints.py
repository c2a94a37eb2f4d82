"""Places where a test lets the process die: `MNIST_FAILPOINT=publish.before_commit`.

Each is named after the step that it comes before. Without the variable, passing one costs a look-up.
"""

import os

VARIABLE = "MNIST_FAILPOINT"
EXIT_STATUS = 86  # tells a test that the process ended here and nowhere else


def failpoint(name: str) -> None:
    if os.environ.get(VARIABLE) == name:
        os._exit(EXIT_STATUS)  # as a kill would: nothing is flushed, no `finally` runs
