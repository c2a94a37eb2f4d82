"""What checkpoints cost, and what a kill costs: `make bench`. Whole runs of `jobs.train`, on a cluster of their own.

Every run that is disturbed has to end with the weights of the calm one and one version of each model, or this fails.
"""

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.job import OWN, ROOT
from benchmarks.record import setting
from jobs.rehearse import running_workers
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.runs import RunFolder

OVERHEAD_BOUND = 0.05  # of an epoch's time


@dataclass(frozen=True)
class Ended:
    """A run that was disturbed, or was not."""

    summary: dict[str, Any]
    seconds: float

    @property
    def hashes(self) -> dict[str, str]:
        return {trial["id"]: trial["weights_sha256"] for trial in self.summary["trials"]}


def command(storage: Path, source: Path | None, *more: str) -> list[str]:
    data = ["--dataset", "mnist", "--data-source", str(source)] if source else ["--dataset", "mnist-mini"]
    return [OWN, "-m", "jobs.train", *data, "--storage", str(storage), "--run-name", "r", "--json", *more]


def calm_run(storage: Path, source: Path | None, *more: str) -> Ended:
    begin = time.perf_counter()
    done = subprocess.run(command(storage, source, *more), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return Ended(json.loads(done.stdout), time.perf_counter() - begin)


def kill_a_worker(storage: Path, source: Path | None, chance: random.Random, *more: str) -> Ended:
    """At a random moment of the training."""
    begin = time.perf_counter()
    driver = subprocess.Popen(
        command(storage, source, *more), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _wait_for_the_training(driver, storage, chance)
    running = running_workers(_history(storage))
    if running:
        os.kill(running[chance.choice(sorted(running))], signal.SIGKILL)
    stdout, stderr = driver.communicate()
    if driver.returncode:
        raise SystemExit(stderr)
    return Ended(json.loads(stdout), time.perf_counter() - begin)


def kill_the_driver(storage: Path, source: Path | None, chance: random.Random, *more: str) -> Ended:
    """At a random moment of the training; then the same command again. The seconds are of both."""
    begin = time.perf_counter()
    driver = subprocess.Popen(
        command(storage, source, *more), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _wait_for_the_training(driver, storage, chance)
    driver.kill()
    driver.wait()
    again = calm_run(storage, source, *more)
    return Ended(again.summary, time.perf_counter() - begin)


def _wait_for_the_training(driver: "subprocess.Popen[Any]", storage: Path, chance: random.Random) -> None:
    while driver.poll() is None and not any(entry["event"] == "epoch" for entry in _history(storage)):
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 6))


def _history(storage: Path) -> list[dict[str, Any]]:
    return RunFolder(LocalObjects(storage), "r").history()


def require_same(calm: Ended, other: Ended, storage: Path) -> None:
    if other.hashes != calm.hashes:
        raise SystemExit(f"other weights than those of the calm run: {other.hashes}, {calm.hashes}")
    commits = sorted(path.parts[-3] for path in storage.glob("models/*/commits/*"))
    if commits != sorted(calm.summary["models"]):
        raise SystemExit(f"expected one version of each model, got {commits}")


def epoch_seconds(storage: Path) -> float:
    """From the end of one epoch to that of the next, as the driver sees them: the median, which a busy neighbour moves
    less than the whole run's time."""
    ends: list[float] = [entry["at"] for entry in _history(storage) if entry["event"] == "epoch"]
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(ends))


def overhead(folder: Path, source: Path | None) -> float:
    """Of a checkpoint after each epoch, of the epoch's time: two runs at once, on a thread each, with and without. What
    else the machine does hits both alike."""
    one = ("--models", "keras", "--epochs", "60", "--cpus-per-trial", "1", "--checkpoint-seconds")
    storages = {interval: folder / interval for interval in ("0", "1e9")}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda interval: calm_run(storages[interval], source, *one, interval), storages))
    often, never = (epoch_seconds(storage) for storage in storages.values())
    return often / never - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="a folder with the four original MNIST files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=10, help="runs of which a worker is killed")
    parser.add_argument("--drivers", type=int, default=3, help="runs whose driver is killed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, source = random.Random(options.seed), options.source
    overheads: list[float] = []
    lost: dict[str, list[float]] = {"a worker": [], "the driver": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            overheads.append(overhead(Path(folder, f"pair{number}"), source))
            print(f"pair {number + 1}: checkpoints take {overheads[-1]:.1%}", file=sys.stderr)
        six = ("--seeds", "3", "--checkpoint-seconds", "0")
        calm = calm_run(Path(folder, "calm"), source, *six)
        for name, kill, times in (
            ("a worker", kill_a_worker, options.workers),
            ("the driver", kill_the_driver, options.drivers),
        ):
            for number in range(times):
                storage = Path(folder, f"{name} {number}".replace(" ", "-"))
                ended = kill(storage, source, chance, *six)
                require_same(calm, ended, storage)
                lost[name].append(ended.seconds - calm.seconds)
                print(f"{name} killed: {lost[name][-1]:+.1f} s, the same weights", file=sys.stderr)
    print(report(overheads, lost, calm, options.seed))


def report(overheads: Sequence[float], lost: dict[str, list[float]], calm: Ended, seed: int) -> str:
    """Markdown, as it is recorded."""
    lines = [setting(len(os.sched_getaffinity(0)))]
    if overheads:
        lines.append(
            f"A checkpoint after each of 60 epochs takes {statistics.median(overheads):.1%} of an epoch's time in"
            f" the median of n = {len(overheads)} pairs ({min(overheads):.1%} to {max(overheads):.1%};"
            f" bound {OVERHEAD_BOUND:.0%})."
        )
    lines.append(f"The calm run of {len(calm.summary['trials'])} trials takes {calm.seconds:.1f} s (seed {seed}).")
    lines += ["", "| killed at a random moment | runs | seconds lost, median | min to max |", "|---|---|---|---|"]
    for name, seconds in lost.items():
        if seconds:
            spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
            lines.append(f"| {name} | {len(seconds)} | {statistics.median(seconds):.1f} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
