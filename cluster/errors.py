"""What can go wrong with a cluster. Each error has the code from which the command line derives its exit code."""


class ClusterError(Exception):
    """The cluster cannot be reached or joined."""

    code = "E-CLUSTER"


class AuthError(ClusterError):
    """The cluster expects a different token."""

    code = "E-AUTH"


class ClusterLostError(ClusterError):
    """The cluster was reached before and no longer answers."""

    code = "E-CLUSTER-LOST"


class ResourcesError(ClusterError):
    """No node has the resources that one task asks for."""

    code = "E-RESOURCES"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; Ray's messages have many."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def counted(number: float, noun: str) -> str:
    """Return the number with its noun, as in "1 CPU" and "2 CPUs"."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
