"""Two logical CPU devices, real digits, and one real Ray cluster of two nodes for the whole test run."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # errors only; read when TensorFlow is imported
os.environ["RAY_AUTH_MODE"] = "disabled"  # or the first cluster of a test would write a token into HOME
for name in ("RAY_ADDRESS", "TFDS_DATA_DIR"):
    os.environ.pop(name, None)

import numpy as np
import pytest

from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.split import Dataset, Split
from mnist_lib.spec import Resources


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    source = os.environ.get("MNIST_SOURCE")
    for item in items:
        if item.get_closest_marker("mnist") and not source:
            item.add_marker(pytest.mark.skip(reason="MNIST_SOURCE, a folder with the original files, is not set"))


@pytest.fixture(scope="session")
def tensorflow() -> None:
    """TensorFlow as a worker sets it up, with two logical devices."""
    from mnist_lib.strategy import configure_process

    configure_process(Resources(cpus=2, cpu_replicas=2))


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """mnist-mini, straight from its file."""
    with np.load(FOLDER / "mnist-mini.npz") as arrays:
        train, test = (Split(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test"))
    return Dataset.of("mnist-mini", "1.0.0", train, test)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TFDS' folder, shared by the tests: a set is prepared once."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def mnist_source() -> Path:
    return Path(os.environ["MNIST_SOURCE"])


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Two real nodes on this machine, one with 1 CPU and 1 logical GPU, one with 2 and 2; this process is connected."""
    import ray

    with two_nodes(gpus=True) as address:
        ray.init(address=address, log_to_driver=False)
        yield address
        ray.shutdown()


@pytest.fixture
def ray_address_without_gpus() -> Iterator[str]:
    """Two real nodes on this machine, with 1 and 2 CPUs."""
    with two_nodes(gpus=False) as address:
        yield address


@contextlib.contextmanager
def two_nodes(*, gpus: bool) -> Iterator[str]:
    from ray.cluster_utils import Cluster

    memory = 150 << 20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "num_gpus": 1 if gpus else 0,
            "include_dashboard": False,
            "object_store_memory": memory,
        },
    )
    cluster.add_node(num_cpus=2, num_gpus=2 if gpus else 0, object_store_memory=memory)
    yield cluster.address
    cluster.shutdown()  # type: ignore[no-untyped-call]
