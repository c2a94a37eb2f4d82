"""What can go wrong with a cluster, each with the code that the driver turns into an exit status."""


class ClusterError(Exception):
    """The cluster cannot be reached or joined."""

    code = "E-CLUSTER"


class AuthError(ClusterError):
    """It wants another token than it gets."""

    code = "E-AUTH"


class ClusterLostError(ClusterError):
    """It could be reached, and no longer can."""

    code = "E-CLUSTER-LOST"


class VersionsError(ClusterError):
    """What computes on the workers is not what is installed here."""

    code = "E-CLUSTER-VERSIONS"


class ResourcesError(ClusterError):
    """No node has what one task asks for."""

    code = "E-RESOURCES"


def first_line(error: Exception) -> str:
    """Of a message of Ray's, which go on for many."""
    return next(iter(str(error).splitlines()), type(error).__name__)
