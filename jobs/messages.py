"""Where messages go while a command works: to standard error."""

import logging
import sys
import time


def to_stderr(*, verbose: bool, stamped: bool = False) -> None:
    """`stamped`: with the time, for what goes on over days."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s %(message)s" if stamped else "%(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    for package in ("jobs", "mnist_lib", "cluster"):
        logging.getLogger(package).addHandler(handler)
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)
