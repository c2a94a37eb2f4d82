"""Two logical CPU devices, real digits, and for the whole test run one real Ray cluster of two nodes and one real S3
endpoint."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # errors only; read when TensorFlow is imported
os.environ["RAY_AUTH_MODE"] = "disabled"  # or the first cluster of a test would write a token into HOME
for name in ("RAY_ADDRESS", "TFDS_DATA_DIR"):
    os.environ.pop(name, None)

import numpy as np
import pytest

from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.split import Dataset, Split
from mnist_lib.spec import Resources

if TYPE_CHECKING:
    from playwright.sync_api import Browser

S3_SETTINGS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "canary-of-a-secret", "AWS_REGION": "us-east-1"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    source = os.environ.get("MNIST_SOURCE")
    for item in items:
        if item.get_closest_marker("mnist") and not source:
            item.add_marker(pytest.mark.skip(reason="MNIST_SOURCE, a folder with the original files, is not set"))


@pytest.fixture(scope="session")
def tensorflow() -> None:
    """TensorFlow as a worker sets it up, with two logical devices."""
    from mnist_lib.training.strategy import configure_process

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

    from tests.support.clusters import two_nodes

    with two_nodes(gpus=True) as address:
        ray.init(address=address, log_to_driver=False)
        yield address
        ray.shutdown()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of moto's server, in a process of its own, on a port that the system chose."""
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        url = wait_for_s3(server, log)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket."""
    for name, value in {**S3_SETTINGS, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    with urllib.request.urlopen(urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT")):
        return f"s3://{bucket}/some/folder"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium, where it is installed."""
    from tests.support.browser import CHROMIUM, chromium

    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with chromium() as browser:
        yield browser


@pytest.fixture
def ray_address_without_gpus() -> Iterator[str]:
    """Two real nodes on this machine, with 1 and 2 CPUs."""
    from tests.support.clusters import two_nodes

    with two_nodes(gpus=False) as address:
        yield address


def wait_for_s3(server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        found = [word for word in log.read_text().split() if word.startswith("http://127.0.0.1:")]
        if found:
            try:
                with urllib.request.urlopen(found[0], timeout=5):
                    return found[0]
            except (urllib.error.URLError, ConnectionError):
                pass
        time.sleep(0.1)
    pytest.fail(f"the S3 server did not start: {log.read_text()}")
