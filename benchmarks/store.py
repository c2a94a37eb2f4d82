"""Seconds and fsyncs of publishing a version on a local disk, compared with MLflow's registry."""

import argparse
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.job import CONTENDERS, OWN, last_line, run
from benchmarks.record import PEERS, Ratio, ratio_table, setting

OURS, FLOOR, MLFLOW = "ours", "the same files, written and synced", "MLflow's registry, SQLite"
SCRIPTS = {
    OURS: (OWN, "publish_ours.py"),
    FLOOR: (OWN, "publish_floor.py"),
    MLFLOW: (PEERS, "publish_mlflow.py"),
}
RATIOS = [Ratio(OURS, MLFLOW, 1.0), Ratio(OURS, FLOOR, 5.0)]


def command(name: str, times: int, folder: Path) -> list[str]:
    """Return the command that publishes `times` versions to a new folder, so that every measurement starts empty."""
    python, script = SCRIPTS[name]
    return [python, str(CONTENDERS / script), tempfile.mkdtemp(dir=folder), str(times)]


def syncs(name: str, folder: Path) -> float | None:
    """Return the fsyncs of one publication as strace counts them, or None without strace."""
    if shutil.which("strace") is None:
        return None
    counts = []
    for times in (2, 12):
        trace = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(folder / "trace")]
        run([*trace, *command(name, times, folder)])
        counts.append(len(re.findall(r"^\d+ +f(?:data)?sync\(", (folder / "trace").read_text(), re.MULTILINE)))
    return (counts[1] - counts[0]) / 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="ignored: this benchmark trains nothing")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument("--times", type=int, default=50, help="publications per round, after one warm-up")
    options = parser.parse_args()
    names = [name for name, (python, _) in SCRIPTS.items() if Path(python).exists()]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for name in names:
                _, printed = run(command(name, options.times + 1, Path(folder)))
                seconds[name].append(statistics.median(last_line(printed)["seconds"]))
                print(f"round {number + 1}: {name}: {1_000 * seconds[name][-1]:.1f} ms", file=sys.stderr)
        syncs_by_name = {name: syncs(name, Path(folder)) for name in names}
    print(report(seconds, syncs_by_name, options.rounds, options.times))


def report(seconds: Mapping[str, Sequence[float]], syncs: Mapping[str, float | None], rounds: int, times: int) -> str:
    """Return the record in Markdown."""
    lines = [
        setting(len(os.sched_getaffinity(0))),
        f"A version of 2.0 MB in three files; n = {rounds} rounds, each the median of {times} publications.",
        "",
        "| publishing | milliseconds, median | min to max | fsyncs |",
        "|---|---|---|---|",
    ]
    for name, values in seconds.items():
        milliseconds = [1_000 * value for value in values]
        spread = f"{min(milliseconds):.1f} to {max(milliseconds):.1f}"
        lines.append(f"| {name} | {statistics.median(milliseconds):.1f} | {spread} | {syncs[name] or '-'} |")
    return "\n".join([*lines, "", *ratio_table(RATIOS, seconds)])


if __name__ == "__main__":
    main()
