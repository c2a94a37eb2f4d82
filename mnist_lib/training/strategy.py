"""The devices of a trial: setting up TensorFlow for those that were granted, and a tf.distribute strategy over them.

TensorFlow accepts settings only before its first operation, so a worker calls `configure_process` first.
"""

import tensorflow as tf

from mnist_lib.errors import GpuInvisibleError
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Resources
from mnist_lib.wording import counted


def configure_process(resources: Resources, spec: TrialSpec | None = None) -> None:
    """Set the threads, visible GPUs and logical CPU devices of this process, before any other use of TensorFlow.

    Args:
        spec: the first trial; later trials must need the same number of threads.

    Raises:
        GpuInvisibleError: TensorFlow sees a different number of GPUs than were granted, and `allow_cpu` is not set.
    """
    tf.config.threading.set_intra_op_parallelism_threads(resources.threads_for(spec))
    gpus = tf.config.list_physical_devices("GPU")
    if resources.gpus and len(gpus) == resources.gpus:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        return
    if resources.gpus and not resources.allow_cpu:
        raise GpuInvisibleError(
            f"expected TensorFlow to see {counted(resources.gpus, 'GPU')}, got {len(gpus)}; install the driver and"
            " the extra `gpu`, or use --allow-cpu to train on CPU devices instead"
        )
    tf.config.set_visible_devices([], "GPU")  # a task that asked Ray for no GPUs sees all GPUs of the node
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas(resources))


def replicas(resources: Resources) -> int:
    """Return the number of replicas."""
    return resources.gpus or resources.cpu_replicas


def mirrored_strategy(resources: Resources) -> tf.distribute.MirroredStrategy:
    """Return a strategy over the granted devices. Without names it would use every visible device."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([f"/{kind}:{i}" for i in range(replicas(resources))])


def devices_of(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """Return the device of each replica, such as ("CPU:0", "CPU:1")."""
    return tuple(device.rpartition("device:")[2] for device in strategy.extended.worker_devices)
