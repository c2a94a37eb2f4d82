"""What `jobs.doctor` looks at. Each check yields findings; an error that it runs into is one, with its fix."""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnist_lib.catalog import DATASETS, require_known
from mnist_lib.environment import PACKAGES, differing_versions, import_keras, package_versions
from mnist_lib.store.runs import check_writable
from mnist_lib.store.storage import is_url, open_storage


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


LEAST_DISK = 500 << 20  # bytes: for the prepared data, checkpoints and models
LEAST_MEMORY = 2 << 30  # bytes: TensorFlow and a dataset in one worker
MOST_CLOCK_SECONDS = 5.0
NODE_SECONDS = 60.0  # a new worker has to start, and on GPU nodes import TensorFlow


@dataclass(frozen=True, kw_only=True)
class Finding:
    what: str
    found: str
    fix: str = ""
    code: str | None = None  # of the error that a run would end with; None: it would not

    @property
    def mark(self) -> str:
        return "fault" if self.code else "warning" if self.fix else "ok"


def findings_of(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Those of the check; of an error with a code, its message, whose last part is what to do."""
    try:
        yield from check()
    except Exception as error:
        code = getattr(error, "code", None)
        if not isinstance(code, str):
            raise
        found, told, fix = str(error).rpartition("; ")
        yield Finding(what=what, found=found if told else fix, fix=fix if told else "", code=code)


def versions_here() -> Iterator[Finding]:
    versions = package_versions()
    missing = [name for name in PACKAGES if name.replace("-", "_") not in versions]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    if missing:
        fix = "install requirements/runtime.lock"
        yield Finding(what="packages", found=f"{', '.join(missing)} missing", fix=fix, code="E-CLUSTER-VERSIONS")
    else:
        yield Finding(what="packages", found=told)


def storage(where: str) -> Iterator[Finding]:
    is_new = not is_url(where) and not Path(where).exists()
    check_writable(open_storage(where))
    yield Finding(what="storage", found=f"{where} can be written, and a second writer is refused")
    if not is_url(where):
        yield _disk("storage", Path(where), shutil.disk_usage(where).free, "E-STORE-FULL", "--storage")
    if is_new:
        Path(where).rmdir()


def dataset(name: str, data_dir: Path | None, source: Path | None) -> Iterator[Finding]:
    from mnist_lib.data.availability import what_is_available

    require_known("dataset", name, DATASETS)
    yield Finding(what="dataset", found=what_is_available(name, data_dir, source))


def token() -> Iterator[Finding]:
    """Where it is, and who else could read it."""
    from cluster.connection.tokens import token_file

    mode = os.environ.get("RAY_AUTH_MODE", "").lower() or "unset"
    file = token_file()  # None without a home
    if os.environ.get("RAY_AUTH_TOKEN"):
        yield Finding(what="token", found=f"in RAY_AUTH_TOKEN; RAY_AUTH_MODE is {mode}")
    elif file is not None and file.is_file():
        if _others_read(file):
            fix = f"chmod 600 {file}, and `ray get-auth-token --generate` a new one: it may have been read"
            yield Finding(what="token", found=f"{file} can be read by others", fix=fix)
        else:
            yield Finding(what="token", found=f"in {file}; RAY_AUTH_MODE is {mode}")
    else:
        yield Finding(what="token", found=f"none; RAY_AUTH_MODE is {mode}")


def head(address: str, given_by: str) -> Iterator[Finding]:
    from cluster.connection.address import lost_nodes, require_head

    resolved = require_head(address, given_by)
    yield Finding(what="head", found=f"{resolved} answers")
    for host in lost_nodes(resolved):
        fix = (
            "start Ray there again, as in `ray start --address`; its log is in /tmp/ray/session_latest/logs/raylet.out"
        )
        yield Finding(what=f"node {host}", found="it died", fix=fix)


def dashboard() -> Iterator[Finding]:
    from cluster.lanes.tasks import dashboard_address

    address = dashboard_address()
    if address is None:
        fix = "start the head with `ray start --head`, of ray[default], to submit jobs"
        yield Finding(what="dashboard", found="none", fix=fix)
    elif os.environ.get("RAY_AUTH_MODE", "").lower() != "token" and not address.startswith(("127.", "localhost")):
        fix = "start the head with --dashboard-host 127.0.0.1, or with RAY_AUTH_MODE=token"
        yield Finding(what="dashboard", found=f"whoever reaches {address} can run anything", fix=fix)
    else:
        yield Finding(what="dashboard", found=address)


def nodes() -> Iterator[Finding]:
    from cluster.lanes.tasks import ask_every_node

    asked = time.time()
    for told in ask_every_node(node_facts, NODE_SECONDS):
        what = f"node {told.node.host} ({told.node.id[:8]})"
        if told.answer is None:
            fix = "look into its raylet.out, or start Ray there again"
            yield Finding(what=what, found=f"does not run tasks: {told.why_not}", fix=fix, code="E-CLUSTER")
        else:
            yield from _node(what, told.node.cpus, told.answer, asked)
    for gpu in ask_every_node(visible_gpus, NODE_SECONDS, gpus=True):
        what = f"node {gpu.node.host} ({gpu.node.id[:8]})"
        if gpu.late:
            fix = "look again when its GPUs are free"
            yield Finding(what=what, found=f"{gpu.node.gpus} GPU(s), not looked at: {gpu.why_not}", fix=fix)
        elif gpu.answer is None:
            fix = "install requirements/gpu.lock and the driver there"
            found = f"TensorFlow does not start beside its GPU(s): {gpu.why_not}"
            yield Finding(what=what, found=found, fix=fix, code="E-GPU-INVISIBLE")
        elif gpu.answer < 1:
            fix = "install tensorflow[and-cuda] and the driver there, or start its Ray with --num-gpus=0"
            found = f"TensorFlow sees none of the {gpu.node.gpus} GPU(s) that Ray has there"
            yield Finding(what=what, found=found, fix=fix, code="E-GPU-INVISIBLE")
        else:
            yield Finding(what=what, found=f"{gpu.node.gpus} GPU(s), which TensorFlow sees")


def _node(what: str, cpus: int, facts: NodeFacts, asked: float) -> Iterator[Finding]:
    found = len(faults := list(_faults(what, facts, asked)))
    yield from faults
    if not found:
        free = f"{facts.disk_free / 1e9:.0f} GB of disk and {facts.memory_free / 1e9:.0f} GB of memory free"
        yield Finding(what=what, found=f"{cpus} CPU(s), {free}, the same versions")


def _faults(what: str, facts: NodeFacts, asked: float) -> Iterator[Finding]:
    if differing := differing_versions(facts.versions):
        fix = "install requirements/runtime.lock on every node"
        yield Finding(what=what, found=differing, fix=fix, code="E-CLUSTER-VERSIONS")
    if facts.disk_free < LEAST_DISK:
        yield _disk(what, Path(facts.temporary), facts.disk_free, "E-RESOURCES", "TMPDIR")
    if facts.memory_free < LEAST_MEMORY:
        fix = f"end what else runs there: a worker needs {LEAST_MEMORY / 1e9:.0f} GB"
        yield Finding(what=what, found=f"{facts.memory_free / 1e9:.1f} GB of memory free", fix=fix, code="E-RESOURCES")
    # It was told between the question and now.
    off = max(asked - facts.clock, facts.clock - time.time())
    if off > MOST_CLOCK_SECONDS:
        fix = "let NTP set the clocks (timedatectl set-ntp true)"
        yield Finding(what=what, found=f"its clock is {off:.0f} s off", fix=fix)


def _disk(what: str, folder: Path, free: int, code: str, flag: str) -> Finding:
    told = f"{free / 1e6:,.0f} MB free in {folder}"
    if free >= LEAST_DISK:
        return Finding(what=what, found=told)
    return Finding(what=what, found=told, fix=f"free some, or name another folder with {flag}", code=code)


def _others_read(file: Path) -> bool:
    """Not if a folder above it keeps them out."""
    mode, above = file.stat().st_mode, [folder.stat().st_mode for folder in file.resolve().parents]
    ways = [(stat.S_IRGRP, stat.S_IXGRP | stat.S_IXOTH), (stat.S_IROTH, stat.S_IXOTH)]
    return any(mode & read and all(folder & enter for folder in above) for read, enter in ways)


def document(finding: Finding) -> dict[str, Any]:
    return {"mark": finding.mark, **asdict(finding)}
