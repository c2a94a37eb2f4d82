"""`python -m jobs.rehearse`: a rehearsal. The run is trained twice on a cluster of several nodes on this machine: once
in peace, once while workers and a node are killed at random moments. What was lost, and do the weights agree?"""

import json
import logging
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster.local import RehearsalCluster, rehearsal_cluster
from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.options import option, parse
from jobs.console.output import log_to_stderr, print_result, run_command
from jobs.console.values import whole_number
from jobs.train.options import TrainOptions
from mnist_lib.environment import code_version
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.runs import RunFolder

WORKER_KILLS = 8
SECONDS_BETWEEN = (1.0, 6.0)
LEAST_NODES = 2

log = logging.getLogger("jobs.rehearse")  # __name__ is "__main__" where this is the command


@dataclass(frozen=True, kw_only=True)
class RehearseOptions(TrainOptions):
    """Trains twice on a cluster of several nodes on this machine: once undisturbed, once while workers and a node are
    killed at random moments. Exits with 0 if both end with the same weights."""

    seed: int = option(0, "of the random moments", whole_number, "N")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, sys.argv[1:] if arguments is None else arguments)


def command(arguments: Sequence[str]) -> int:
    from jobs.train.driver import train_trials

    options: RehearseOptions = parse("jobs.rehearse", RehearseOptions, arguments)
    log_to_stderr(verbose=options.verbose, quiet=options.quiet)
    trials = options.trials()
    options.check()
    code = code_version(SOURCE_FOLDERS)

    def train_at(address: str, folder: RunFolder) -> dict[str, Any]:
        there = replace(options, address=address, max_failures=WORKER_KILLS + 1, report=False)
        return train_trials(there, trials, time.time(), folder, code)

    found = rehearse(options.seed, train_at)
    print_result(json.dumps(asdict(found), indent=2) if options.json else str(found))
    return exit_codes.DONE if found.survived else exit_codes.INTEGRITY


Train = Callable[[str, RunFolder], dict[str, Any]]  # address, folder -> summary


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a run under fire came to, beside the calm one."""

    seed: int
    workers_killed: int
    nodes_lost: int
    trials: int
    identical: int  # trials with the weights of the calm run
    epochs: int  # of all trials
    epochs_repeated: int
    recovery_seconds: tuple[float, ...]  # from a death to the next attempt's start
    calm_seconds: float
    seconds: float

    @property
    def survived(self) -> bool:
        return self.identical == self.trials

    def __str__(self) -> str:
        recovery = "no attempt was hit"
        if self.recovery_seconds:
            median, most = statistics.median(self.recovery_seconds), max(self.recovery_seconds)
            recovery = f"from a death to the next attempt's start: {median:.1f} s in the median, {most:.1f} s at most"
        return "\n".join(
            [
                f"Seed {self.seed}: {self.workers_killed} worker(s) killed, {self.nodes_lost} node(s) lost",
                f"  {self.identical} of {self.trials} trial(s) ended with the weights of the calm run",
                f"  {self.epochs_repeated} of {self.epochs} epochs were trained twice",
                f"  {recovery}",
                f"  {self.seconds:.0f} s in all; the calm run took {self.calm_seconds:.0f} s",
            ]
        )


def rehearse(seed: int, train: Train) -> Rehearsal:
    """Nothing of it is kept."""
    nodes = 1 + max(LEAST_NODES, os.cpu_count() or 1)  # one of them will be lost
    with TemporaryDirectory(prefix="rehearsal-") as storage:
        objects = LocalObjects(Path(storage))
        log.info("the calm run, on %d nodes", nodes)
        with rehearsal_cluster(nodes) as cluster:
            calm, calm_seconds = _timed(lambda: train(cluster.address, RunFolder(objects, "calm")))
        log.info("the same under fire, seed %d", seed)
        with rehearsal_cluster(nodes) as cluster:
            folder = RunFolder(objects, "chaos")
            fire = _Fire(cluster, folder, seed)
            fire.start()
            try:
                chaos, seconds = _timed(lambda: train(cluster.address, folder))
            finally:
                fire.cease()
        history = folder.history()
    epochs = [(entry["trial"], entry["epoch"]) for entry in history if entry["event"] == "epoch"]
    hashes = [{t["id"]: t.get("weights_sha256") for t in summary["trials"]} for summary in (calm, chaos)]
    return Rehearsal(
        seed=seed,
        workers_killed=fire.workers_killed,
        nodes_lost=fire.nodes_lost,
        trials=len(calm["trials"]),
        identical=sum(sha256 is not None and hashes[1].get(trial) == sha256 for trial, sha256 in hashes[0].items()),
        epochs=len({*epochs}),
        epochs_repeated=len(epochs) - len({*epochs}),
        recovery_seconds=_recoveries(history),
        calm_seconds=calm_seconds,
        seconds=seconds,
    )


class _Fire(threading.Thread):
    """Kills a random worker at random moments; one of the times, a node goes in its place."""

    def __init__(self, cluster: RehearsalCluster, folder: RunFolder, seed: int) -> None:
        super().__init__(daemon=True)
        self.workers_killed = self.nodes_lost = 0
        self._cluster, self._folder, self._chance = cluster, folder, random.Random(seed)
        self._node_goes_after = self._chance.randrange(1, 4)
        self._ceased = threading.Event()

    def run(self) -> None:
        while self.workers_killed < WORKER_KILLS and not self._ceased.wait(self._chance.uniform(*SECONDS_BETWEEN)):
            running = running_workers(self._folder.history())
            if not running:
                continue
            if self.workers_killed == self._node_goes_after and not self.nodes_lost:
                self._cluster.lose_a_node(self._chance)
                self.nodes_lost += 1
                log.info("a node is lost")
                continue
            trial = self._chance.choice(sorted(running))
            try:
                os.kill(running[trial], signal.SIGKILL)
            except ProcessLookupError:
                continue  # it has just ended
            self.workers_killed += 1
            log.info("the worker of %s is killed", trial)

    def cease(self) -> None:
        self._ceased.set()
        self.join()


def _timed(train: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float]:
    begin = time.monotonic()
    return train(), time.monotonic() - begin


def running_workers(history: list[dict[str, Any]]) -> dict[str, int]:
    """The worker's process of each trial that is being trained."""
    running: dict[str, int] = {}
    for entry in history:
        if entry["event"] == "started":
            running[entry["trial"]] = entry["pid"]
        elif entry["event"] in ("ended", "died"):
            running.pop(entry["trial"], None)
    return running


def _recoveries(history: list[dict[str, Any]]) -> tuple[float, ...]:
    died_at: dict[str, float] = {}
    seconds = []
    for entry in history:
        if entry["event"] == "died":
            died_at[entry["trial"]] = entry["at"]
        elif entry["event"] == "started" and entry["trial"] in died_at:
            seconds.append(entry["at"] - died_at.pop(entry["trial"]))
    return tuple(seconds)


if __name__ == "__main__":
    sys.exit(main())
