"""Fixtures: TensorFlow on two logical CPU devices, digits, a Ray cluster of two nodes, an S3 endpoint and a browser."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # log errors only; TensorFlow reads this on import
os.environ["TERM"] = "xterm-256color"  # a dumb terminal shows no steps and no live table
# Parallel test processes inherit the seed. `make test` simulates worlds from it beside those that are always the same.
FRESH_SEED = os.environ.setdefault("FRESH_SEED", str(int.from_bytes(os.urandom(4))))
# Container images often set this. Each process would then compile the project and rewrite the assertions of all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["RAY_AUTH_MODE"] = "disabled"  # else the first cluster writes a token to the home directory
for name in ("RAY_ADDRESS", "TFDS_DATA_DIR"):
    os.environ.pop(name, None)

import hypothesis
import numpy as np
import pytest

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.table import Table
from mnist_lib.environment import _without_collections
from mnist_lib.pictures.sandbox import Sandbox
from mnist_lib.training.assignment import Resources
from tests.support.bounds import wait_until
from tests.support.job import ROOT, summary_of
from tests.support.shared import made_once

if TYPE_CHECKING:
    from playwright.sync_api import Browser

hypothesis.settings.register_profile("default", deadline=None, max_examples=100)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=25)  # `make test-fast`
# For tests with the mark `fuzz`, which set no number of examples themselves.
hypothesis.settings.register_profile(
    "campaign",
    deadline=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "20000")),
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("default")

S3_SETTINGS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "canary-of-a-secret", "AWS_REGION": "us-east-1"}

# What the complete check may skip, and why. Any other skip fails it.
ALLOWED_SKIPS = {
    "MNIST_SOURCE, a folder with the original MNIST files, is not set": "the project does not contain them",
    "the environment of this peer is missing; run `make bench`": "three frameworks, for a comparison only",
    "only root can act as another user": "a process of another user cannot do so",
}


def pytest_report_header() -> str:
    return f"fresh simulated worlds: FRESH_SEED={FRESH_SEED}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help="fail tests that are skipped for a reason that is not in ALLOWED_SKIPS",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import all tests without a search for garbage, and never search what they have imported."""
    with _without_collections():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--strict-skips") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in ALLOWED_SKIPS:
            report.outcome, report.longrepr = "failed", f"skipped, which the complete check does not allow: {reason}"
    return report


FAILED: dict[str, bool] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        FAILED[report.nodeid] = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let `--last-failed` also select tests whose process died, which xdist has run again in another one."""
    cache = getattr(session.config, "cache", None)  # none with `-p no:cacheprovider`
    if FAILED and cache is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        cache.set("cache/lastfailed", {**cache.get("cache/lastfailed", {}), **FAILED})


# The files that take longest, in this order. They begin first, so that the tests that run last are short.
LONGEST_FIRST = (
    "test_mutants.py",
    "test_benchmarks.py",
    "jobs/retrain/test_retrain.py",
    "jobs/submit/test_submit.py",
    "jobs/train/test_hosts.py",
    "jobs/train/test_resuming.py",
    "jobs/train/test_attempts.py",
    "jobs/train/test_changing_data.py",
    "jobs/track/test_track.py",
    "jobs/doctor/test_doctor.py",
    "jobs/train/test_nodes.py",
    "jobs/train/test_own_models.py",
    "jobs/search/test_search.py",
    "jobs/train/test_train.py",
    "jobs/review/test_browser.py",
    "cluster/test_lanes_on_ray.py",
    "mnist_lib/report/test_page.py",
    "mnist_lib/training/test_trainer.py",
    "mnist_lib/models/test_building.py",
    "mnist_lib/store/test_faults.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONGEST_FIRST)}
    folder = Path(__file__).parent
    items.sort(key=lambda item: order.get(item.path.relative_to(folder).as_posix(), len(order)))
    source = os.environ.get("MNIST_SOURCE")
    for item in items:
        if item.get_closest_marker("mnist") and not source:
            item.add_marker(pytest.mark.skip(reason="MNIST_SOURCE, a folder with the original MNIST files, is not set"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Make a scheduler that forgets the completed files of a process that has crashed.

    The scheduler of pytest-xdist 3.8 gives them to another process, which then waits for ever.
    https://github.com/pytest-dev/pytest-xdist/issues/1378
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def remove_node(self, node: Any) -> Any:
            files = self.assigned_work[node]
            for file in [file for file, tests in files.items() if all(tests.values())]:
                del files[file]
            return super().remove_node(node)

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


IS_CONFIGURED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def tensorflow(pytestconfig: pytest.Config) -> None:
    """Set up TensorFlow as a worker does, with two logical CPU devices."""
    from mnist_lib.training.strategy import configure_process

    configure_process(Resources(cpus=2, cpu_replicas=2))
    pytestconfig.stash[IS_CONFIGURED] = True


@pytest.fixture(autouse=True)
def tensorflow_is_configured_first(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fail a test that is the first to use TensorFlow without its fixture, since those that request it would fail."""
    was_used = is_tensorflow_used()
    yield
    is_new = is_tensorflow_used() and not was_used
    assert not is_new or IS_CONFIGURED in pytestconfig.stash, "request the fixture `tensorflow` to use TensorFlow"


def is_tensorflow_used() -> bool:
    module = sys.modules.get("tensorflow.python.eager.context")
    return module is not None and module._context is not None and module._context._context_handle is not None


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """mnist-mini, read directly from its file."""
    with np.load(FOLDER / "mnist-mini.npz") as arrays:
        train, test = (Table.of(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test"))
    return Dataset.of("mnist-mini", "1.0.0", train, test)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that parallel test processes share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def data_dir(shared_folder: Path) -> Path:
    """A folder for TFDS that all tests share, so that each dataset is prepared once."""
    folder = shared_folder / "tfds"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def mnist_source() -> Path:
    return Path(os.environ["MNIST_SOURCE"])


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a cluster that this process has joined: one node with 1 CPU and 1 logical GPU, one with 2 each."""
    import ray

    from cluster.ray_private import connect
    from tests.support.local_cluster import two_nodes

    with two_nodes(gpus=True) as address:
        connect(address, log_to_driver=False)
        yield address
        ray.shutdown()


@pytest.fixture(scope="session")
def gpu_run(request: pytest.FixtureRequest, data_dir: Path, shared_folder: Path) -> tuple[dict[str, Any], Path]:
    """The summary and the home of a run of both models with two seeds, one logical GPU per trial: three lanes.

    Parallel test processes share it, so no test may change its files.
    """

    def make(home: Path) -> None:
        address = request.getfixturevalue("ray_address")
        arguments = ("--address", address, "--data-dir", data_dir, "--seeds=2", "--epochs=20", "--allow-cpu")
        summary_of(*arguments, home=home)

    home = made_once(shared_folder / "gpu-run", make)
    (path,) = home.glob("results/runs/*/summary.json")
    return json.loads(path.read_text()), home


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A process that reads pictures. To start one takes longer than to read the pictures of a test."""
    with contextlib.closing(Sandbox()) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server that runs in its own process, on a free port."""
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "tests.support.s3_server", "-H", "127.0.0.1", "-p", "0"]
        server = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield wait_for_s3(server, log)
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a folder in a new bucket."""
    for name, value in {**S3_SETTINGS, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    with urllib.request.urlopen(urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT")):
        return f"s3://{bucket}/some/folder"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium; tests are skipped if it is not installed."""
    from tests.support.browser import CHROMIUM, chromium

    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with chromium() as browser:
        yield browser


def wait_for_s3(server: subprocess.Popen[bytes], log: Path) -> str:
    def address() -> str:
        assert server.poll() is None, log.read_text()
        return next((word for word in log.read_text().split() if word.startswith("http://127.0.0.1:")), "")

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(address(), timeout=5):  # also if it is slow
            return True
        return False

    wait_until(lambda: address() and answers(), lambda: f"the S3 server did not start: {log.read_text()}")
    return address()
