"""What `jobs.search` gains: over Ray Tune and Optuna or, with --sets, over the default settings on few pictures.

Without --sets, it is compared with Ray Tune and ASHA, and with Optuna and Hyperband, which both train with `keras.fit`.
`jobs.search` and Ray Tune draw configurations at random, Optuna proposes them by TPE. All search the same space with
the same processor time: each rival is asked to end once it has used as much as `jobs.search` did from its start until
its model was stored. Each winner is then trained with fresh seeds and measured on the test images.

With --sets, each seed has other pictures. `jobs.search` with a time limit and `jobs.train` with its defaults train the
same seeds on the same pictures, and are measured on other ones, which decide nothing.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.digits import parser_with_source, write_digits
from benchmarks.drawings import Random
from benchmarks.few_pictures import splits_of
from benchmarks.job import CONTENDERS, OWN, ROOT, last_line
from benchmarks.pictures import PictureSet, picture_sets
from benchmarks.record import TUNE, paired_difference_text, paired_interval, setting
from benchmarks.survival import data_options
from mnist_lib.wording import percent

OURS, ASHA, HYPERBAND = "jobs.search", "Ray Tune, ASHA, fit", "Optuna, Hyperband, fit"
SPACE = (  # that of contenders/fit_configuration.py
    "--vary=learning_rate=1e-4..1e-1:log",
    "--vary=hidden_units=64,128,256,512",
    "--vary=batch_size=32,64,128,256",
    "--vary=optimizer=sgd,adam,rmsprop",
)
EPOCHS = 9
FIRST_FRESH_SEED = 1_000
SECONDS_TO_END = 120  # timeout for a rival to end after it was asked to
MAX_BEHIND = 0.001  # by which the test accuracy may be below that of either rival
DIGITS = "1,000 digits"
SETS, MODELS = ("letters", "colour scenes", DIGITS), ("keras", "keras-cnn")
FEW_SPACE = ("--vary=learning_rate=1e-4..1e-2:log", "--vary=label_smoothing=0,0.1")
NUM_TEST = 2_000  # pictures of a set on which the accuracy is measured
# The lower end of each interval of what a search gains on few pictures, in points, and in how many rows it is above 0.
MIN_GAIN, MIN_ROWS_GAINED = -0.5, 2


@dataclass(frozen=True)
class Found:
    settings: Mapping[str, Any]
    configurations: int  # that were trained for an epoch or more
    processor_seconds: float


class Meter:
    """The processor time of a process and of all that it starts."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._seconds = process, dict[tuple[int, float], float]()

    def seconds(self) -> float:
        """Return the processor time until now. What a process uses between the last call and its end is not counted."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (self._process, *self._process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._seconds[process.pid, process.create_time()] = times.user + times.system
        return sum(self._seconds.values())

    def kill(self) -> None:
        for process in (*self._process.children(recursive=True), self._process):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def run(command: Sequence[str], stop: Path | None = None, budget: float = float("inf")) -> tuple[str, float]:
    """Run a command, and return its stdout and the processor seconds that it used.

    Args:
        stop: the file whose existence asks the command to end.
        budget: the processor seconds after which that file is made.
    """
    path = os.pathsep.join(map(str, (ROOT, CONTENDERS)))
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2", "RAY_AIR_NEW_OUTPUT": "0"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=error, text=True, cwd=ROOT)
        meter = Meter(psutil.Process(process.pid))
        deadline = math.inf
        while process.poll() is None:
            if meter.seconds() > budget and stop is not None and not stop.exists():
                stop.touch()
                deadline = time.monotonic() + SECONDS_TO_END
            if time.monotonic() > deadline:
                meter.kill()
                raise SystemExit(f"{command} did not end within {SECONDS_TO_END} s")
            time.sleep(0.25)
        out.seek(0), error.seek(0)
        if process.returncode:
            raise SystemExit(f"{command} failed:\n{error.read()}")
        return out.read(), meter.seconds()


def search(source: Path | None, seed: int, seconds: float, folder: Path) -> Found:
    options = [*SPACE, f"--epochs={EPOCHS}", f"--seed={seed}", "--trials=10000", "--final-seeds=1", "--models=keras"]
    limits = [f"--max-seconds={seconds}", "--promote=never", "--no-report", "--json", "--run-name=r"]
    printed, used = run(
        [OWN, "-m", "jobs.search", *data_options(source), *options, *limits, "--storage", str(folder / "results")]
    )
    found = json.loads(printed)["search"]
    return Found(found["settings"], found["configurations"], used)


def rival(script: str, digits: Path, seed: int, budget: float, folder: Path, *more: str) -> Found:
    stop = folder / "stop"
    command = [TUNE, str(CONTENDERS / script), str(digits), str(EPOCHS), str(seed), str(folder), str(stop), *more]
    printed, used = run(command, stop, budget)
    found = last_line(printed)
    return Found(found["settings"], found["configurations"], used)


def fresh_accuracies(source: Path | None, settings: Mapping[str, Any], seeds: int, folder: Path) -> list[float]:
    """Return the test accuracy of each fresh seed."""
    chosen = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name != "hidden_units"]
    units = [f"--model-arg=hidden_units={settings['hidden_units']}"] if settings else []  # none for the defaults
    options = [*chosen, *units, "--models=keras", "--promote=never"]
    options += [f"--epochs={EPOCHS}", f"--seeds={seeds}", f"--seed={FIRST_FRESH_SEED}", "--no-report", "--json"]
    printed, _ = run([OWN, "-m", "jobs.train", *data_options(source), *options, "--storage", str(folder / "fresh")])
    return [trial["test_accuracy"] for trial in json.loads(printed)["trials"]]


def main() -> None:
    parser = parser_with_source(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=5, help="number of searches of each kind (default: 5)")
    parser.add_argument(
        "--seeds", type=int, help="number of fresh seeds of each winner (default: 10); with --sets, of searches (5)"
    )
    parser.add_argument("--seconds", type=float, help="time limit of each jobs.search (default: 200; with --sets, 300)")
    parser.add_argument("--sets", nargs="*", choices=SETS, help="search on these few pictures; without a name, on all")
    parser.add_argument("--models", nargs="+", default=MODELS, help=f"with --sets (default: {' '.join(MODELS)})")
    parser.add_argument("--sources", type=Path, help="fonts of the letters, from benchmarks.sources (default: a few)")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    if options.sets is not None:
        sets = few_pictures(options.sources, options.source)
        seconds = options.seconds or 300
        seeds = range(options.seeds or 5)
        for line in on_sets({name: sets[name] for name in options.sets or SETS}, options.models, seeds, seconds):
            print(line, flush=True)
        return
    options.seeds, options.seconds = options.seeds or 10, options.seconds or 200
    found: dict[str, list[Found]] = {}
    accuracies: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        digits = Path(name, "digits.npz")
        write_digits(digits, options.source)
        for seed in range(options.rounds):
            ours = search(options.source, seed, options.seconds, new_folder(name, OURS, seed))
            budget = ours.processor_seconds
            tune = rival("search_tune.py", digits, seed, budget, new_folder(name, "tune", seed))
            optuna = rival("search_optuna.py", digits, seed, budget, new_folder(name, "optuna", seed), str(threads))
            for contender, winner in ((OURS, ours), (ASHA, tune), (HYPERBAND, optuna)):
                found.setdefault(contender, []).append(winner)
                fresh = fresh_accuracies(
                    options.source, winner.settings, options.seeds, new_folder(name, f"fresh-{contender}", seed)
                )
                accuracies.setdefault(contender, []).append(statistics.mean(fresh))
                print(f"search {seed + 1}: {contender}: {winner} {statistics.mean(fresh):.4%}", file=sys.stderr)
    print(report(found, accuracies, options.seeds, threads))


def few_pictures(sources: Path | None, digits: Path | None) -> dict[str, PictureSet]:
    """Return the sets by name. The arguments: see `picture_sets`."""
    splits = splits_of(digits)

    def digit(label: int, test: bool, random: Random) -> Image.Image:
        split = splits[test]
        return Image.fromarray(split.images[random.choice(np.flatnonzero(split.labels == label))].squeeze())

    found = picture_sets(sources, digits) | {DIGITS: PictureSet(classes="0123456789", train=1_000, test=0, draw=digit)}
    return {name: replace(found[name], test=NUM_TEST) for name in SETS}


@dataclass(frozen=True)
class Gain:
    """A search and default training on the same pictures; accuracies in percent, means over the same seeds."""

    default: float
    searched: float
    configurations: int
    seconds: float  # of the search


def on_sets(
    sets: Mapping[str, PictureSet], models: Sequence[str], seeds: Sequence[int], seconds: float
) -> Iterator[str]:
    """Yield the lines of the record in Markdown."""
    yield setting(len(os.sched_getaffinity(0)))
    yield f"n = {len(seeds)} seeds, each with other pictures; searches of {seconds:g} s; 95% intervals."
    yield ""
    yield "| pictures | model | defaults | search | gained, points | configurations, median | seconds, median |"
    yield "|---" * 7 + "|"
    lows = []
    for (name, pictures), model in itertools.product(sets.items(), models):
        gains = []
        for seed in seeds:
            gains.append(gain(pictures, model, seed, seconds))
            print(f"{name}, {model}, seed {seed}: {gains[-1]}", file=sys.stderr)
        differences = [one.searched - one.default for one in gains]
        lows.append(paired_interval(differences)[0])
        accuracies = (statistics.fmean(one.default for one in gains), statistics.fmean(one.searched for one in gains))
        tried = statistics.median(one.configurations for one in gains)
        took = statistics.median(one.seconds for one in gains)
        shown = " | ".join(f"{accuracy:.2f}%" for accuracy in accuracies)
        yield f"| {name} | {model} | {shown} | {paired_difference_text(differences)} | {tried:g} | {took:.0f} |"
    gained = sum(low > 0 for low in lows)
    yield ""
    yield (
        f"The lowest lower end is {min(lows):+.2f} points (bound {MIN_GAIN:+.1f}); {gained} of {len(lows)} are above 0"
        f" (bound {MIN_ROWS_GAINED})."
    )


def gain(pictures: PictureSet, model: str, seed: int, seconds: float) -> Gain:
    with tempfile.TemporaryDirectory() as home:
        pictures.write(folder := Path(home, "pictures"), seed)
        Path(home, "data").mkdir()
        shared = [f"--dataset={folder}", f"--data-dir={home}/data", f"--models={model}", "--no-report", "--json"]
        shared += [f"--storage={home}/results", "--promote=never"]
        begin = time.monotonic()
        options = [*FEW_SPACE, f"--seed={seed}", f"--max-seconds={seconds}"]
        found = json.loads(run([OWN, "-m", "jobs.search", *shared, *options])[0])
        took = time.monotonic() - begin
        seeds = ",".join(str(trial["spec"]["seed"]) for trial in found["trials"])
        default = json.loads(run([OWN, "-m", "jobs.train", *shared, f"--seeds={seeds},"])[0])
    return Gain(mean_accuracy(default), mean_accuracy(found), found["search"]["configurations"], took)


def mean_accuracy(summary: Mapping[str, Any]) -> float:
    return 100 * statistics.fmean(trial["test_accuracy"] for trial in summary["trials"])


def new_folder(parent: str, name: str, seed: int) -> Path:
    folder = Path(parent, f"{name}-{seed}".replace(" ", "-").replace(",", ""))
    folder.mkdir()
    return folder


def rival_versions() -> str:
    code = "from importlib.metadata import version; print(f\"ray {version('ray')}, optuna {version('optuna')}\")"
    printed = subprocess.check_output([TUNE, "-c", code], text=True) if Path(TUNE).exists() else "not installed"
    return f"The rivals use {printed.strip()}."


def report(
    found: Mapping[str, Sequence[Found]], accuracies: Mapping[str, Sequence[float]], seeds: int, threads: int
) -> str:
    """Return the record in Markdown."""
    rounds = len(accuracies[OURS])
    lines = [
        setting(threads),
        rival_versions(),
        f"n = {rounds} searches of each kind; each winner's accuracy is the mean of {seeds} fresh seeds.",
        "",
        "| search | test accuracy, mean | lowest to highest | configurations, median | processor seconds, median |",
        "|---|---|---|---|---|",
    ]
    for name, values in accuracies.items():
        tried = statistics.median(winner.configurations for winner in found[name])
        used = statistics.median(winner.processor_seconds for winner in found[name])
        spread = f"{percent(min(values))} to {percent(max(values))}"
        lines.append(f"| {name} | {percent(statistics.mean(values))} | {spread} | {tried:g} | {used:.0f} |")
    lines.append("")
    for name in (ASHA, HYPERBAND):
        ahead = [100 * (own - other) for own, other in zip(accuracies[OURS], accuracies[name], strict=True)]
        more = [own.configurations / other.configurations for own, other in zip(found[OURS], found[name], strict=True)]
        lines.append(
            f"Against {name}: {statistics.mean(ahead):+.2f} points on average (bound 0), {min(ahead):+.2f} to"
            f" {max(ahead):+.2f} (bound {-100 * MAX_BEHIND:+.1f}); {statistics.median(more):.1f} times as many"
            f" configurations, {min(more):.1f} to {max(more):.1f} (bound 3)."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
