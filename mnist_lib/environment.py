"""What a process computes with: the versions that a result depends on, beside its spec."""

import platform
from importlib import metadata

PACKAGES = ("tensorflow", "keras", "ray", "tensorflow-datasets", "numpy")


def package_versions() -> dict[str, str]:
    """Of this process's Python and packages, without importing any; what is not installed is left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name.replace("-", "_")] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
