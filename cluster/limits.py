"""When an attempt, an item or a whole run is given up. Imports no Ray: the command line checks them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When an attempt, an item or the whole is given up."""

    max_failures: int = 3  # attempts at an item that may die and be followed by another
    max_out_of_memory: int = 1  # of these, for memory
    item_seconds: float = math.inf  # of an attempt at one item
    # Without any event. Until an item's third event there is no measure; then it is ten times the longest interval
    # since the second.
    first_silence_seconds: float = 900.0
    silence_seconds: float = 60.0  # at least
    cancel_seconds: float = 5.0  # from asking an attempt to end to ending it
    wait_seconds: float = 600.0  # while no attempt has a place
    tell_seconds: float = 10.0  # from one line on why it waits to the next
    head_seconds: float = 30.0  # without an answer of the cluster's head
