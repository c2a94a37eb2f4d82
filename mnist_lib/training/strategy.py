"""The devices that were granted -> a tf.distribute strategy over exactly these.

TensorFlow takes its settings once, before its first operation: `configure_process` comes first in a worker.
"""

import tensorflow as tf

from mnist_lib.errors import GpuInvisibleError
from mnist_lib.spec import Group, Resources


def configure_process(resources: Resources) -> None:
    """Threads, visible GPUs and logical CPU devices of this process. Call it before anything else of TensorFlow.

    Raises:
        GpuInvisibleError: TensorFlow sees fewer or more GPUs than were granted, and `allow_cpu` is not set.
    """
    # Logical CPU devices run at the same time, each in a thread of its own beside these, which they share.
    threads = max(1, resources.cpus // resources.cpu_replicas)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    gpus = tf.config.list_physical_devices("GPU")
    if resources.gpus and len(gpus) == resources.gpus:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        return
    if resources.gpus and not resources.allow_cpu:
        raise GpuInvisibleError(
            f"{resources.gpus} GPU(s) granted, TensorFlow sees {len(gpus)}; install the driver and the gpu extra"
            ", or use --allow-cpu to train on CPU devices in their place"
        )
    tf.config.set_visible_devices([], "GPU")  # Ray shows every GPU of the node to a task that asked for none
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas(resources))


def replicas(resources: Resources) -> int:
    """On each node."""
    return resources.gpus or resources.cpu_replicas


def mirrored_strategy(resources: Resources) -> tf.distribute.MirroredStrategy:
    """One replica per device that was granted, each named: the default would take every device it can see."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([f"/{kind}:{i}" for i in range(replicas(resources))])


def group_strategy(group: Group) -> tf.distribute.MultiWorkerMirroredStrategy:
    """The same over the devices of all processes of the group; waits until every one of them has come to this."""
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver_of(group))


def resolver_of(group: Group) -> tf.distribute.cluster_resolver.ClusterResolver:
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": group.addresses}),
        task_type="worker",
        task_id=group.rank,
        num_accelerators={"GPU": len(tf.config.get_visible_devices("GPU"))},  # left out, it would take a CPU
        rpc_layer="grpc",
    )


def devices_of(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """One per replica, as in ("CPU:0", "CPU:1"); of a group with the node before it, as in ("0/CPU:0", "1/CPU:0")."""
    own = [device.rpartition("device:")[2] for device in strategy.extended.worker_devices]
    nodes = strategy.num_replicas_in_sync // len(own)
    return tuple(own) if nodes == 1 else tuple(f"{node}/{device}" for node in range(nodes) for device in own)
