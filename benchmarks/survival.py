"""The cost of checkpoints and of killed processes, measured on whole runs of `jobs.train` with a cluster of their own.

It fails if a disturbed run ends with different weights from an undisturbed one, or without one version of each model.
"""

import contextlib
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
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.digits import parser_with_source
from benchmarks.job import OWN, ROOT
from benchmarks.record import setting
from mnist_lib.data.embedded import FOLDER
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import EpochDone, HistoryEntry, TrialStarted
from mnist_lib.store.history import AttemptDied, DriverConnected, TrialEnded
from mnist_lib.store.margins import MARGINS
from mnist_lib.store.runs import RunFolder
from mnist_lib.training.assignment import CHECKPOINT_SECONDS
from mnist_lib.wording import counted

OVERHEAD_BOUND = 0.05  # of an epoch's time
DEFAULT_BOUND = 0.02  # of the time, with the default --checkpoint-seconds
REPEATED_BOUND = 3.0  # seconds of training that a kill within an epoch costs, with --checkpoint-seconds 1
KILLS_WITHIN = 4  # kills in each of these runs
KILLS_AGAIN = 5  # kills in each run of `kill_again_and_again`
# With few pictures, the last trial is often left alone, on more CPUs than it began with.
FEW_PICTURES = 600
FEW = ("--models", "keras-cnn,keras-fast", "--epochs", "15", "--max-failures", "10", "--checkpoint-seconds", "0")
WITHIN_EPOCHS = ("--models", "keras-cnn", "--epochs", "6", "--checkpoint-seconds", "1", "--max-failures", "10")


@dataclass(frozen=True)
class CompletedRun:
    summary: dict[str, Any]
    seconds: float
    storage: Path

    @property
    def margins(self) -> dict[str, bytes]:
        """The margins of each stored model, by its name."""
        return {path.parts[-4]: path.read_bytes() for path in self.storage.glob(f"models/*/versions/*/{MARGINS}")}

    @property
    def hashes(self) -> dict[str, str]:
        return {trial["id"]: trial["weights_sha256"] for trial in self.summary["trials"]}


def data_options(source: Path | None) -> list[str]:
    return ["--dataset", "mnist", "--data-source", str(source)] if source else ["--dataset", "mnist-mini"]


def command(storage: Path, source: Path | None, *more: str) -> list[str]:
    return [
        OWN,
        "-m",
        "jobs.train",
        *data_options(source),
        "--storage",
        str(storage),
        "--run-name",
        "r",
        "--json",
        *more,
    ]


def write_pictures(folder: Path, count: int) -> Path:
    """Write digits as PNG files into a folder for each class, and return the folder."""
    with np.load(FOLDER / "mnist-mini.npz") as arrays:
        images, labels = arrays["train_images"][:count, ..., 0], arrays["train_labels"]
    for number, image in enumerate(images):
        file = folder / str(labels[number]) / f"{number:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder


def undisturbed_run(storage: Path, source: Path | None, *more: str) -> CompletedRun:
    begin = time.perf_counter()
    done = subprocess.run(command(storage, source, *more), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return CompletedRun(json.loads(done.stdout), time.perf_counter() - begin, storage)


def kill_workers(
    storage: Path, source: Path | None, generator: random.Random, *more: str, kills: int = 1
) -> tuple[CompletedRun, list[float]]:
    """Kill a worker at a random moment of the training, and do so again after it has been replaced.

    Returns:
        the run, and for each kill the seconds of training since the trial's newest stored checkpoint, or its start.
    """
    repeated, killed, begin = list[float](), set[int](), time.perf_counter()
    driver = subprocess.Popen(
        command(storage, source, *more), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(kills):
        while driver.poll() is None and {*running_workers(_history(storage)).values()} <= killed:
            time.sleep(0.05)
        time.sleep(generator.uniform(0, 6))
        history = _history(storage)
        if running := running_workers(history):
            trial = generator.choice(sorted(running))
            since = [entry.at for entry in history if isinstance(entry, TrialStarted) and entry.trial == trial]
            since += [path.stat().st_mtime for path in storage.glob(f"runs/r/trials/{trial}/checkpoints/*.npz")]
            repeated.append(time.time() - max(since))
            os.kill(running[trial], signal.SIGKILL)
            killed.add(running[trial])
    stdout, stderr = driver.communicate()
    if driver.returncode:
        raise SystemExit(stderr)
    return CompletedRun(json.loads(stdout), time.perf_counter() - begin, storage), repeated


def running_workers(history: Iterable[HistoryEntry]) -> dict[str, int]:
    """Return the process id of the worker of each running trial."""
    running: dict[str, int] = {}
    for entry in history:
        if isinstance(entry, TrialStarted):
            running[entry.trial] = entry.pid
        elif isinstance(entry, TrialEnded | AttemptDied):
            running.pop(entry.trial, None)
    return running


def kill_the_driver(storage: Path, source: Path | None, generator: random.Random, *more: str) -> CompletedRun:
    """Kill the driver at a random moment of the training and run the command again. Both commands are timed."""
    begin = time.perf_counter()
    driver = subprocess.Popen(
        command(storage, source, *more), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _wait_for_the_training(driver, storage, generator)
    driver.kill()
    driver.wait()
    again = undisturbed_run(storage, source, *more)
    return CompletedRun(again.summary, time.perf_counter() - begin, storage)


def kill_again_and_again(
    storage: Path, source: Path | None, generator: random.Random, *more: str, kills: int = KILLS_AGAIN
) -> CompletedRun:
    """Kill the driver or a worker, chosen at random, at random moments, and run the command again if it has ended."""
    begin, driver = time.perf_counter(), None
    for _ in range(kills):
        if driver is None or driver.poll() is not None:
            driver = subprocess.Popen(
                command(storage, source, *more), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        while driver.poll() is None and not running_workers(_history_of_the_driver(storage)):
            time.sleep(0.05)
        time.sleep(generator.uniform(0, 4))
        victim = generator.choice([driver.pid, *running_workers(_history_of_the_driver(storage)).values()])
        with contextlib.suppress(ProcessLookupError):  # it has just been killed, or has ended
            os.kill(victim, signal.SIGKILL)
        if victim == driver.pid:
            driver.wait()
    if driver is not None:
        driver.wait()
    last = undisturbed_run(storage, source, *more)
    return CompletedRun(last.summary, time.perf_counter() - begin, storage)


def _history_of_the_driver(storage: Path) -> list[HistoryEntry]:
    """Return the history since the last driver connected, without the workers of killed ones."""
    entries: list[HistoryEntry] = []
    for entry in _history(storage):
        entries = [] if isinstance(entry, DriverConnected) else [*entries, entry]
    return entries


def _wait_for_the_training(driver: "subprocess.Popen[Any]", storage: Path, generator: random.Random) -> None:
    while driver.poll() is None and not any(isinstance(entry, EpochDone) for entry in _history(storage)):
        time.sleep(0.05)
    time.sleep(generator.uniform(0, 6))


def _history(storage: Path) -> list[HistoryEntry]:
    return [*RunFolder(LocalObjects(storage), "r").history()] if storage.exists() else []


def require_same(undisturbed: CompletedRun, other: CompletedRun) -> None:
    if other.hashes != undisturbed.hashes:
        raise SystemExit(f"expected the weights of the undisturbed run, {undisturbed.hashes}, got {other.hashes}")
    if not undisturbed.margins or other.margins != undisturbed.margins:
        raise SystemExit("expected the margins of the undisturbed run, got others")
    commits = sorted(path.parts[-3] for path in other.storage.glob("models/*/commits/*"))
    if commits != sorted(undisturbed.summary["models"]):
        raise SystemExit(f"expected one version of each model, got {commits}")


def require_reproduced(storage: Path, pictures: Path) -> None:
    """Train each version of a storage again, and end the program unless its weights are the stored ones."""
    for commit in sorted(storage.glob("models/*/commits/*")):
        name = f"{commit.parts[-3]}@{int(commit.stem)}"
        reproduce = [OWN, "-m", "jobs.models", "reproduce", name, "--storage", str(storage), "--dataset", str(pictures)]
        done = subprocess.run(reproduce, cwd=ROOT, capture_output=True, text=True)
        if done.returncode or "every weight is the same" not in done.stdout:
            raise SystemExit(f"expected {name} with the weights stored, got {done.stdout}{done.stderr}")


def epoch_seconds(storage: Path) -> float:
    """Return the median time between the ends of epochs in the driver, which varies less than a run's time."""
    ends: list[float] = [entry.at for entry in _history(storage) if isinstance(entry, EpochDone)]
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(ends))


def overhead(folder: Path, source: Path | None) -> tuple[float, float]:
    """Return the cost of a checkpoint after each epoch, in seconds, and as a share of the epoch's time.

    Two runs, with and without checkpoints, run at the same time, on one thread each: other load affects both alike.
    """
    options = ("--models", "keras", "--epochs", "60", "--cpus-per-trial", "1", "--checkpoint-seconds")
    storages = {interval: folder / interval for interval in ("0", "1e9")}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda interval: undisturbed_run(storages[interval], source, *options, interval), storages))
    often, never = (epoch_seconds(storage) for storage in storages.values())
    return often - never, often / never - 1


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of pairs of runs (default: 5)")
    parser.add_argument("--workers", type=int, default=10, help="number of runs in which a worker is killed")
    parser.add_argument("--drivers", type=int, default=3, help="number of runs whose driver is killed")
    parser.add_argument(
        "--within", type=int, default=5, help=f"number of runs with {KILLS_WITHIN} kills within epochs (default: 5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random kills (default: 0)")
    parser.add_argument(
        "--again",
        type=int,
        default=20,
        help=f"number of runs in which {KILLS_AGAIN} processes are killed (default: 20)",
    )
    options = parser.parse_args()
    generator, source = random.Random(options.seed), options.source
    overheads: list[tuple[float, float]] = []
    repeated: list[float] = []
    lost: dict[str, list[float]] = {"a worker": [], "the driver": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            overheads.append(overhead(Path(folder, f"pair{number}"), source))
            print(f"pair {number + 1}: checkpoints take {overheads[-1][1]:.1%}", file=sys.stderr)
        six_trials = ("--seeds", "3", "--checkpoint-seconds", "0")
        undisturbed = undisturbed_run(Path(folder, "undisturbed"), source, *six_trials)
        for name, kill, times in (
            ("a worker", lambda *given: kill_workers(*given)[0], options.workers),
            ("the driver", kill_the_driver, options.drivers),
        ):
            for number in range(times):
                storage = Path(folder, f"{name} {number}".replace(" ", "-"))
                completed = kill(storage, source, generator, *six_trials)
                require_same(undisturbed, completed)
                lost[name].append(completed.seconds - undisturbed.seconds)
                print(f"{name} killed: {lost[name][-1]:+.1f} s, the same weights", file=sys.stderr)
        if options.within:
            long = undisturbed_run(Path(folder, "long"), source, *WITHIN_EPOCHS)
        for number in range(options.within):
            storage = Path(folder, f"within-{number}")
            completed, seconds = kill_workers(storage, source, generator, *WITHIN_EPOCHS, kills=KILLS_WITHIN)
            require_same(long, completed)
            repeated += seconds
            print(f"killed within epochs: {seconds} s repeated, the same weights", file=sys.stderr)
        pictures = write_pictures(Path(folder, "few"), FEW_PICTURES)
        few = ("--dataset", str(pictures), *FEW)
        seeds = [str(generator.randint(2, 3)) for _ in range(options.again)]
        wanted = {n: undisturbed_run(Path(folder, f"few-{n}"), None, *few, "--seeds", n) for n in sorted({*seeds})}
        for number, n in enumerate(seeds):
            storage = Path(folder, f"again-{number}")
            require_same(wanted[n], kill_again_and_again(storage, None, generator, *few, "--seeds", n))
            require_reproduced(storage, pictures)
            print(f"{KILLS_AGAIN} processes killed, {2 * int(n)} trials: the same weights, twice", file=sys.stderr)
    print(report(overheads, lost, undisturbed, options.seed, repeated, options.again))


def report(
    overheads: Sequence[tuple[float, float]],
    lost: dict[str, list[float]],
    undisturbed: CompletedRun,
    seed: int,
    repeated: Sequence[float] = (),
    again: int = 0,
) -> str:
    """Return the record in Markdown."""
    lines = [setting(len(os.sched_getaffinity(0)))]
    if overheads:
        costs, shares = zip(*overheads, strict=True)
        lines.append(
            f"A checkpoint after each of 60 epochs takes {statistics.median(shares):.1%} of an epoch's time:"
            f" the median of n = {len(shares)} pairs of runs ({min(shares):.1%} to {max(shares):.1%};"
            f" bound {OVERHEAD_BOUND:.0%}). That is {1000 * statistics.median(costs):.0f} ms for each, and at the"
            f" default, {statistics.median(costs) / CHECKPOINT_SECONDS:.2%} of the time (bound {DEFAULT_BOUND:.0%})."
        )
    if repeated:
        lines.append(
            f"A kill at a random moment within an epoch repeats {statistics.median(repeated):.1f} s of training"
            f" ({min(repeated):.1f} to {max(repeated):.1f}; bound {REPEATED_BOUND:.0f} s; n = {len(repeated)}; seed"
            f" {seed})."
        )
    if again:
        lines.append(
            f"{counted(again, 'run')} of 4 or 6 trials on {FEW_PICTURES} pictures, in each of which {KILLS_AGAIN}"
            f" processes were killed at random moments, drivers or workers, ended with the weights of an undisturbed"
            f" one; `jobs.models reproduce` had them again for each version (seed {seed})."
        )
    lines.append(
        f"The undisturbed run of {counted(len(undisturbed.summary['trials']), 'trial')} takes"
        f" {undisturbed.seconds:.1f} s (seed {seed})."
    )
    lines += ["", "| killed at a random moment | runs | seconds lost, median | min to max |", "|---|---|---|---|"]
    for name, seconds in lost.items():
        if seconds:
            spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
            lines.append(f"| {name} | {len(seconds)} | {statistics.median(seconds):.1f} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
