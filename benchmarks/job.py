"""Seconds of whole commands of this project and its peers.

Every round runs each command once. The time includes the interpreter, imports, the start of Ray and storing the models.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.digits import parser_with_source, write_digits
from benchmarks.record import TUNE, Ratio, ratio_table, setting
from mnist_lib.objects.storage import open_storage
from mnist_lib.report.evidence import Course, process_of
from mnist_lib.results import TrialStarted
from mnist_lib.store.history import DriverConnected
from mnist_lib.store.runs import RunFolder
from mnist_lib.wording import counted

ROOT = Path(__file__).parents[1]
CONTENDERS = ROOT / "benchmarks/contenders"
OWN = sys.executable
IMPORT = "from mnist_lib.environment import import_keras; import_keras()"

JOB = "the job: both models, 5 epochs"
RATIOS = [
    Ratio(JOB, "the notebook's cells, 5 epochs", 0.42),
    Ratio("16 trials, 1 epoch", "16 trials, 1 epoch: Ray Tune and fit", 0.5),
    Ratio("16 trials, 1 epoch", "16 trials, 1 epoch: Ray Tune with reused processes, and fit", 0.9),
    Ratio("a worker's import, with scikit-learn and others installed", "a worker's import", 1.3),
]
BOUNDS = {"--help": 0.5, "--plan": 2.0, "keras: a further trial": 0.3, "scratch: a further trial": 0.3}


def commands(digits: Path, folder: Path, dataset: str, threads: int, epochs: int = 5) -> dict[str, list[str]]:
    """Return the commands to time, by name, without those whose environment is not set up."""
    results, thread_count, length = str(folder), str(threads), counted(epochs, "epoch")

    def script(name: str) -> str:
        return str(CONTENDERS / name)

    train = [OWN, "-m", "jobs.train"]
    run = [*train, "--dataset", dataset, "--storage", results]
    all_commands = {
        "--help": [*train, "--help"],
        "--plan": [*train, "--plan"],
        f"the job: both models, {length}": [*run, "--epochs", str(epochs)],
        f"the notebook's cells, {length}": [OWN, script("notebook.py"), dataset, str(epochs), results],
        "16 trials, 1 epoch": [*run, "--epochs", "1", "--seeds", "8"],
        "16 trials, 1 epoch: Ray Tune and fit": [TUNE, script("ray_tune.py"), str(digits), "1", "8", results],
        "16 trials, 1 epoch: Ray Tune with reused processes, and fit": [
            *(TUNE, script("ray_tune.py"), str(digits), "1", "8", results, "reuse")
        ],
        "a worker's import": [OWN, "-c", IMPORT],
        "a worker's import, with scikit-learn and others installed": [TUNE, "-c", IMPORT],
        "keras: a further trial": [OWN, script("warm_lane.py"), str(digits), "5", "keras", thread_count],
        "scratch: a further trial": [OWN, script("warm_lane.py"), str(digits), "5", "scratch", thread_count],
        "10 empty trials": [OWN, script("empty_trials.py"), "10", results],
        "1,000 empty trials": [OWN, script("empty_trials.py"), "1000", results],
    }
    return {name: command for name, command in all_commands.items() if Path(command[0]).exists()}


def run(command: Sequence[str]) -> tuple[float, str]:
    """Return the seconds that a command takes, and its stdout."""
    path = os.pathsep.join(map(str, (ROOT, CONTENDERS)))
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": path,
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    }
    begin = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    return time.perf_counter() - begin, done.stdout


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    dataset = "mnist" if options.source else "mnist-mini"
    seconds: dict[str, list[float]] = {}
    phases: dict[str, list[float]] = {}
    empty: list[tuple[float, float]] = []  # of each round: milliseconds per trial, growth in MiB
    with tempfile.TemporaryDirectory() as folder:
        digits = Path(folder, "digits.npz")
        images = write_digits(digits, options.source)  # this prepares the dataset, too
        for number in range(options.rounds):
            printed: dict[str, str] = {}
            for name, command in commands(digits, Path(folder), dataset, threads).items():
                taken, printed[name] = run(command)
                if name in ("keras: a further trial", "scratch: a further trial"):
                    taken = statistics.median(last_line(printed[name])["seconds"])
                seconds.setdefault(name, []).append(taken)
                if name == JOB:
                    for phase, length in phases_of_newest_run(Path(folder), taken).items():
                        phases.setdefault(phase, []).append(length)
                print(f"round {number + 1}: {name}: {taken:.2f} s", file=sys.stderr)
            few, many = last_line(printed["10 empty trials"]), last_line(printed["1,000 empty trials"])
            empty.append((1_000 * (many["seconds"] - few["seconds"]) / 990, many["mib"] - few["mib"]))
    print(report(seconds, phases, empty, images, options.rounds, threads))


def phases_of_newest_run(storage: Path, total: float) -> dict[str, float]:
    """Return the seconds of each phase of the newest run, in its driver and in the process whose training ended last.

    Args:
        total: the seconds of the whole command.
    """
    newest = max((storage / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    folder = RunFolder(open_storage(str(storage)), newest.name)
    summary = folder.summary()
    assert summary is not None
    attempts = Course.of(folder.history(), summary).attempts
    last = max(attempts, key=lambda attempt: attempt.end).process
    found: dict[str, float] = {}
    for entry in folder.history():
        if isinstance(entry, DriverConnected) or (isinstance(entry, TrialStarted) and process_of(entry) == last):
            for phase, seconds in entry.phases.items():
                found[phase] = found.get(phase, 0.0) + seconds
    found["training"] = sum(attempt.end - attempt.begin for attempt in attempts if attempt.process == last)
    found["store"] = summary.timing.store_seconds
    return {**found, "the rest: starting processes, the report, ending Ray": total - sum(found.values())}


def last_line(printed: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return document


def report(
    seconds: Mapping[str, Sequence[float]],
    phases: Mapping[str, Sequence[float]],
    empty: Sequence[tuple[float, float]],
    images: tuple[int, int],
    rounds: int,
    threads: int,
) -> str:
    """Return the record in Markdown."""
    lines = [
        setting(threads),
        f"{images[0]:,} train images, {images[1]:,} test images; n = {rounds} rounds.",
        "",
        "| command | seconds, median | min to max | bound |",
        "|---|---|---|---|",
    ]
    for name, values in seconds.items():
        bound = BOUNDS.get(name, "")
        lines.append(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} | {bound} |")
    lines += ["", f"| phase of {JOB} | seconds, median | min to max |", "|---|---|---|"]
    for phase, values in phases.items():
        lines.append(f"| {phase} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")
    milliseconds, mib = zip(*empty, strict=True)
    lines += ["", *ratio_table(RATIOS, seconds), ""]
    lines.append(
        f"In 1,000 empty trials, each trial after the first 10 takes {statistics.median(milliseconds):.1f} ms"
        f" ({min(milliseconds):.1f} to {max(milliseconds):.1f}; bound 10), and the driver grows by"
        f" {statistics.median(mib):.0f} MiB ({min(mib):.0f} to {max(mib):.0f}; bound 50)."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
