"""The checks of `jobs.doctor`, in `CHECKS`. Each yields findings; an error in a check becomes one, with its fix."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs import SOURCE_FOLDERS
from jobs.console.datasets import DataOptions
from jobs.console.options import JsonOptions, StorageOptions
from mnist_lib.environment import RESULT_PACKAGES, differing_versions, import_keras, package_versions
from mnist_lib.objects.storage import is_url, open_storage
from mnist_lib.settings import option
from mnist_lib.store.runs import check_writable
from mnist_lib.wording import counted, without_secrets

MIN_DISK = 500 << 20  # bytes, for prepared data, checkpoints and models
MIN_MEMORY = 2 << 30  # bytes, for TensorFlow and a dataset in one worker
NODE_SECONDS = 60.0  # timeout: a new worker has to start, and on GPU nodes import TensorFlow

INSTALL = "install requirements/runtime.lock on every node"
INSTALL_GPU = "install requirements/gpu.lock and the NVIDIA driver there"


# How a dataset is read, which is not checked:
UNUSED = ("tfds_import", "train_split", "test_split", "image_size", "channels", "group_by", "none")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(DataOptions, StorageOptions, JsonOptions, without=UNUSED):
    """Check what a run needs, and print each finding with its fix. The exit code is 0 if there is
    no fault, otherwise the one with which the first fault would end a run."""

    address: str | None = option(None, "Ray cluster to check (default: RAY_ADDRESS or none)", "HOST:PORT")
    gpu: bool = option(
        False,
        "compare what the GPUs of this machine compute with its CPU, and how fast",
    )


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    fix: str = ""
    code: str | None = None  # error code that a run would end with; None if this is not a fault

    @property
    def mark(self) -> str:
        return "fault" if self.code else "warning" if self.fix else "ok"

    @property
    def document(self) -> dict[str, Any]:
        return {"mark": self.mark, **asdict(self)}


@dataclass(frozen=True)
class NodeFacts:
    versions: dict[str, str]
    temporary: str
    disk_free: int  # bytes, in the temporary folder
    memory_free: int  # bytes


def node_facts() -> NodeFacts:
    import psutil  # bundled with Ray

    temporary = tempfile.gettempdir()
    disk_free, memory_free = shutil.disk_usage(temporary).free, psutil.virtual_memory().available
    return NodeFacts(package_versions(), temporary, disk_free, memory_free)


def visible_gpus() -> int:
    """Return how many of the GPUs granted to this task by Ray are visible to TensorFlow."""
    import_keras()
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def versions_here(options: DoctorOptions) -> Iterator[Finding]:
    versions = package_versions()
    missing = [name for name in RESULT_PACKAGES if name.replace("-", "_") not in versions]
    if missing:
        yield Finding("packages", f"{', '.join(missing)} missing", INSTALL, "E-CLUSTER-VERSIONS")
    else:
        yield Finding("packages", ", ".join(f"{name} {version}" for name, version in versions.items()))


def storage(options: DoctorOptions) -> Iterator[Finding]:
    where = options.storage
    is_new = not is_url(where) and not Path(where).exists()
    check_writable(open_storage(where))
    yield Finding("storage", f"{where} is writable, and when two processes create the same file, only one succeeds")
    if not is_url(where):
        yield _disk("storage", where, shutil.disk_usage(where).free, "E-STORE-FULL", "--storage")
    if is_new:
        Path(where).rmdir()


def dataset(options: DoctorOptions) -> Iterator[Finding]:
    from mnist_lib.data.sources.availability import describe_availability

    yield Finding("dataset", describe_availability(options.data()))


def cluster(options: DoctorOptions) -> Iterator[Finding]:
    """Check the head and, if it answers, the dashboard and every node."""
    from cluster.session import address_of, session

    address = address_of(options.address)
    if address is None:
        return
    head = [*findings("head", _head, options)]
    yield from head
    if head[0].code is None:
        with session(address, SOURCE_FOLDERS):
            yield _dashboard()
            yield from _nodes()


def _head(options: DoctorOptions) -> Iterator[Finding]:
    from cluster.session import address_of, require_head

    head = require_head(str(address_of(options.address)), "--address" if options.address else "RAY_ADDRESS")
    yield Finding("head", f"{head} answers")


def _dashboard() -> Finding:
    from cluster.ray_private import dashboard_address

    address = dashboard_address() or "none"
    is_local = address.startswith(("none", "127.", "localhost"))
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token" and not is_local:
        fix = "start the head with --dashboard-host 127.0.0.1, or with RAY_AUTH_MODE=token"
        return Finding("dashboard", f"anyone who can connect to {address} can run code", fix)
    return Finding("dashboard", address)


def _nodes() -> Iterator[Finding]:
    from cluster.tasks import call_on_every_node

    for answer in call_on_every_node(node_facts, NODE_SECONDS):
        what = f"node {answer.node.host} ({answer.node.id[:8]})"
        if answer.value is None:
            fix = "see raylet.out on that node, or restart Ray there"
            yield Finding(what, f"does not run tasks: {answer.error}", fix, "E-CLUSTER")
        else:
            yield from _node(what, answer.node.cpus, answer.value)
    for gpu in call_on_every_node(visible_gpus, NODE_SECONDS, gpus=True):
        what, gpus = f"node {gpu.node.host} ({gpu.node.id[:8]})", counted(gpu.node.gpus, "GPU")
        if gpu.timed_out:
            yield Finding(what, f"{gpus}, not checked: {gpu.error}", "run this again when its GPUs are free")
        elif gpu.value is None:
            yield Finding(what, f"TensorFlow does not start with {gpus}: {gpu.error}", INSTALL_GPU, "E-GPU-INVISIBLE")
        elif gpu.value < 1:
            fix = f"{INSTALL_GPU}, or start Ray there with --num-gpus=0"
            yield Finding(what, f"Ray has {gpus} there, of which TensorFlow sees none", fix, "E-GPU-INVISIBLE")
        else:
            yield Finding(what, f"{gpus}, which TensorFlow sees")


def _node(what: str, cpus: int, facts: NodeFacts) -> Iterator[Finding]:
    """Yield the faults of a node, or one finding if it has none."""
    faults = list[Finding]()
    if differing := differing_versions(facts.versions):
        faults.append(Finding(what, differing, INSTALL, "E-CLUSTER-VERSIONS"))
    if facts.disk_free < MIN_DISK:
        faults.append(_disk(what, facts.temporary, facts.disk_free, "E-RESOURCES", "TMPDIR"))
    if facts.memory_free < MIN_MEMORY:
        fix = f"stop other programs there: a worker needs {MIN_MEMORY / 1e9:.0f} GB"
        faults.append(Finding(what, f"{facts.memory_free / 1e9:.1f} GB of memory free", fix, "E-RESOURCES"))
    free = f"{facts.disk_free / 1e9:.0f} GB of disk and {facts.memory_free / 1e9:.0f} GB of memory free"
    yield from faults or [Finding(what, f"{counted(cpus, 'CPU')}, {free}, same package versions as here")]


def _disk(what: str, folder: str, free: int, code: str, flag: str) -> Finding:
    text = f"{free / 1e6:,.0f} MB free in {folder}"
    if free >= MIN_DISK:
        return Finding(what, text)
    return Finding(what, text, f"free some space, or choose another folder with {flag}", code)


# By what they check, in their order.
CHECKS: dict[str, Callable[[DoctorOptions], Iterator[Finding]]] = {
    "packages": versions_here,
    "storage": storage,
    "dataset": dataset,
    "cluster": cluster,
}


def findings(
    what: str, check: Callable[[DoctorOptions], Iterator[Finding]], options: DoctorOptions
) -> Iterator[Finding]:
    """Yield the findings of a check. An error with a code becomes one; the text after its last "; " is the fix."""
    try:
        yield from check(options)
    except Exception as error:
        code = getattr(error, "code", None)
        if not isinstance(code, str):
            raise
        problem, separator, fix = without_secrets(str(error)).rpartition("; ")
        yield Finding(what, problem, fix, code) if separator else Finding(what, fix, code=code)
