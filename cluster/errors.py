"""What can go wrong with a cluster, each with the code that the driver turns into an exit status."""


class ClusterError(Exception):
    """The cluster cannot be reached or joined."""

    code = "E-CLUSTER"


class ResourcesError(ClusterError):
    """No node has what one task asks for."""

    code = "E-RESOURCES"


def first_line(error: Exception) -> str:
    """Of a message of Ray's, which go on for many."""
    return next(iter(str(error).splitlines()), type(error).__name__)
