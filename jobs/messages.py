"""Where messages go while a command works: to standard error."""

import logging
import sys
import time
from typing import TextIO


class _ToStderr(logging.StreamHandler[TextIO]):
    """To what `sys.stderr` is at that moment: a live table puts lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def to_stderr(*, verbose: bool, quiet: bool = False, stamped: bool = False) -> None:
    """`quiet`: warnings only. `stamped`: with the time, for what goes on over days."""
    handler = _ToStderr()
    formatter = logging.Formatter("%(asctime)s %(message)s" if stamped else "%(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    for package in ("jobs", "mnist_lib", "cluster"):
        logging.getLogger(package).addHandler(handler)
        logging.getLogger(package).setLevel(level)
