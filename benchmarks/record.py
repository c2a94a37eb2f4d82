"""The first line of every record, which names the machine and versions, and tables of ratios."""

import math
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnist_lib.environment import package_versions
from mnist_lib.intervals import student_t_quantile
from mnist_lib.wording import counted

# Environments for packages that would slow the import of Keras: see the Makefile.
PEERS = str(Path(__file__).parents[1] / ".venv-bench/bin/python")  # PyTorch, JAX, MLflow
TUNE = str(Path(__file__).parents[1] / ".venv-tune/bin/python")  # Ray Tune, Optuna, scikit-learn, pandas, SciPy

PEER_PACKAGES = ("torch", "jax", "mlflow")


@dataclass(frozen=True)
class Ratio:
    """A claim: `ours` takes at most `bound` times as long as `peer`."""

    ours: str
    peer: str
    bound: float


def setting(threads: int) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (package_versions() | _peer_versions()).items())
    return f"{time.strftime('%Y-%m-%d')}, {_machine()}, {counted(threads, 'thread')}; {versions}."


def ratio_table(ratios: Sequence[Ratio], seconds: Mapping[str, Sequence[float]]) -> list[str]:
    """Return a Markdown table. `seconds` has one figure per round; a ratio compares two figures of the same round."""
    lines = ["| ratio | median of rounds | min to max | bound |", "|---|---|---|---|"]
    for ratio in ratios:
        if ratio.ours in seconds and ratio.peer in seconds:
            pairs = [a / b for a, b in zip(seconds[ratio.ours], seconds[ratio.peer], strict=True)]
            spread = f"{min(pairs):.2f} to {max(pairs):.2f}"
            lines.append(f"| {ratio.ours} / {ratio.peer} | {statistics.median(pairs):.2f} | {spread} | {ratio.bound} |")
    return lines


def paired_difference_text(differences: Sequence[float]) -> str:
    """Return the mean of paired differences with its 95% interval over the seeds."""
    mean, (low, high) = statistics.fmean(differences), paired_interval(differences)
    return f"{mean:+.2f}" if len(differences) < 2 else f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def paired_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of the mean of paired differences; everything for a single one."""
    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return -math.inf, math.inf
    margin = student_t_quantile(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return mean - margin, mean + margin


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.processor()


def _peer_versions() -> dict[str, str]:
    if not Path(PEERS).exists():
        return {}
    code = f"from importlib.metadata import version; print(*map(version, {PEER_PACKAGES}))"
    return dict(zip(PEER_PACKAGES, subprocess.check_output([PEERS, "-c", code], text=True).split(), strict=True))
