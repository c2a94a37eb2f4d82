"""Real clusters of several nodes on this machine."""

import contextlib
import time
from collections.abc import Iterator

import ray

from cluster.local import LocalCluster, cluster_processes, temporary_cluster
from tests.support.bounds import wait_until


@contextlib.contextmanager
def two_nodes(*, gpus: bool) -> Iterator[str]:
    """Provide the address of a head with 1 CPU and a node with 2; with `gpus`, they have 1 and 2 logical GPUs."""
    with temporary_cluster(cpus=1, gpus=int(gpus), loses_nodes=False) as cluster:
        cluster.add_nodes(cpus=2, gpus=2 * int(gpus))
        yield cluster.address


def kill_gcs(cluster: LocalCluster) -> None:
    """Kill only the GCS server of the head. `ray start` is suspended, since it would kill the other processes."""
    head = cluster_processes(cluster.folder, 0)
    for process in head:
        if "start" in process.cmdline():
            process.suspend()
    (server,) = [process for process in head if process.name() == "gcs_server"]
    server.kill()


@contextlib.contextmanager
def every_cpu_taken(seconds: float) -> Iterator[None]:
    """Keep the 3 CPUs of `two_nodes` busy, for at most the given number of seconds."""

    def sleep() -> None:
        time.sleep(seconds)

    busy = [ray.remote(num_cpus=cpus, max_retries=0)(sleep).remote() for cpus in (1, 2)]
    wait_until(lambda: free_cpus() == 0, "the CPUs have not become busy")
    try:
        yield
    finally:
        for task in busy:
            ray.cancel(task, force=True)
    wait_until(lambda: free_cpus() == 3, "the CPUs have not been released")


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
