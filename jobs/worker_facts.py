"""What a node tells of itself when `jobs.doctor` asks: runs there, as a task."""

import shutil
import tempfile
import time
from dataclasses import dataclass

from mnist_lib.environment import import_keras, package_versions


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    versions: dict[str, str]
    clock: float  # Unix time
    temporary: str
    disk_free: int  # bytes, in the temporary folder
    memory_free: int  # bytes


def node_facts() -> NodeFacts:
    import psutil  # Ray brings its own

    temporary = tempfile.gettempdir()
    return NodeFacts(
        versions=package_versions(),
        clock=time.time(),
        temporary=temporary,
        disk_free=shutil.disk_usage(temporary).free,
        memory_free=psutil.virtual_memory().available,
    )


def visible_gpus() -> int:
    """Of those that Ray has granted to this task, those that TensorFlow can use."""
    import_keras()
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))
