"""`python -m jobs.rehearse`: train twice on a local cluster, once while workers and a node are killed at random.

The report says how much work was lost and repeated, and whether both runs ended with the same weights.
"""

import contextlib
import logging
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.local import LocalCluster, temporary_cluster
from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.options import parse
from jobs.console.output import CommandResult, entry_point, log_to_stderr
from jobs.train.option_groups import RunOptions
from jobs.train.options import TrainOptions
from mnist_lib.clock import steady_time
from mnist_lib.environment import code_version
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import EpochDone, HistoryEntry, Started
from mnist_lib.run_documents import AttemptDied, Summary, TrialEnded
from mnist_lib.settings import Seed, option, options_of
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.runs import RunFolder
from mnist_lib.wording import counted, duration

MAX_WORKER_KILLS = 8
SECONDS_BETWEEN_LOOKS = 0.5  # at the history; the moments of the kills are counted in its entries
MIN_NODES = 2
# Options of jobs.train that have no use here: the cluster is local and has no GPUs, nothing is stored, and both runs
# train all epochs.
UNUSED = (
    *("address", "wait_for_resources", "max_failures", "gpus_per_trial", "allow_cpu", "init_from"),
    *options_of(Rule),
    *options_of(RunOptions),
)

log = logging.getLogger("jobs.rehearse")  # __name__ is "__main__" under `python -m`


@dataclass(frozen=True, kw_only=True)
class RehearseOptions(TrainOptions, without=UNUSED):
    """Train twice on a cluster of several nodes on this machine: first undisturbed, then while workers and a node are
    killed at random moments. Nothing is stored. The exit code is 0 if both runs end with the same weights."""

    seed: Seed = option(0, "seed of the random kills, and first seed of the trials")


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    options: RehearseOptions = parse("jobs.rehearse", RehearseOptions, arguments)
    log_to_stderr(verbose=options.verbose, quiet=options.quiet)
    options.require_trusted(arguments)
    options.check()
    options.check_data_dir()
    rehearsal = rehearse(options)
    exit_code = exit_codes.DONE if rehearsal.survived else exit_codes.INTEGRITY
    return CommandResult(rehearsal, rehearsal.lines(), exit_code, json=options.json)


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The run with random kills, compared with an undisturbed run (`calm` in the names of fields)."""

    seed: int
    workers_killed: int
    nodes_lost: int
    trials: int
    identical: int  # trials with the same weights in both runs
    epochs: int  # of all trials
    epochs_repeated: int  # because the attempt that trained them died
    recovery_seconds: tuple[float, ...]  # from each death to the start of the next attempt
    calm_seconds: float
    seconds: float

    @property
    def survived(self) -> bool:
        return self.identical == self.trials

    def lines(self) -> list[str]:
        killed = f"{counted(self.workers_killed, 'worker')} and {counted(self.nodes_lost, 'node')}"
        lines = [
            f"Seed {self.seed}: killed {killed}",
            f"  {self.identical} of {counted(self.trials, 'trial')} ended with the weights of the undisturbed run",
            f"  {self.epochs_repeated} of {counted(self.epochs, 'epoch')} trained twice",
        ]
        if self.recovery_seconds:
            median, longest = statistics.median(self.recovery_seconds), max(self.recovery_seconds)
            lines.append(f"  time from a death to the next attempt: {median:.1f} s (median), {longest:.1f} s (longest)")
        lines.append(f"  {duration(self.seconds)} in total; the undisturbed run took {duration(self.calm_seconds)}")
        return lines


def rehearse(options: RehearseOptions) -> Rehearsal:
    """Train twice on a temporary cluster with temporary storage, and compare the runs."""
    with TemporaryDirectory(prefix="rehearsal-") as storage, temporary_cluster(cpus=0) as cluster:
        nodes = cluster.add_nodes(1 + max(MIN_NODES, os.cpu_count() or 1), cpus=1)  # one of them may be killed
        options = options.changed(address=cluster.address, max_failures=MAX_WORKER_KILLS + 1, report=False)
        objects = LocalObjects(Path(storage))
        log.info("undisturbed run")
        calm, calm_seconds = _train(options, RunFolder(objects, "calm"))
        log.info("the same run with random kills, seed %d", options.seed)
        folder = RunFolder(objects, "chaos")
        killer = _Killer(folder, options.seed, entries=sum(trial.epochs for trial in calm.trials))
        with killer.active(cluster, nodes):
            chaos, seconds = _train(options, folder)
        history = [*folder.history()]
    epochs = [(entry.trial, entry.epoch) for entry in history if isinstance(entry, EpochDone)]
    hashes = [{t.id: t.weights_sha256 for t in summary.successful} for summary in (calm, chaos)]
    return Rehearsal(
        seed=options.seed,
        workers_killed=killer.workers_killed,
        nodes_lost=killer.nodes_lost,
        trials=len(calm.trials),
        identical=sum(hashes[1].get(trial) == sha256 for trial, sha256 in hashes[0].items()),
        epochs=len({*epochs}),
        epochs_repeated=len(epochs) - len({*epochs}),
        recovery_seconds=_recovery_seconds(history),
        calm_seconds=calm_seconds,
        seconds=seconds,
    )


def _train(options: RehearseOptions, folder: RunFolder) -> tuple[Summary, float]:
    """Return the summary of a run and the seconds that it took."""
    from jobs.train.run import Run

    advice, begin = "nothing was stored; start the rehearsal again", time.monotonic()
    summary = Run(options, folder, code_version(SOURCE_FOLDERS), steady_time(), advice).train()
    return summary, time.monotonic() - begin


class _Killer:
    """Kills random workers, and one node, at random moments.

    A moment is a number of entries in the run's history, so that a fast machine sees as many kills as a slow one.
    """

    def __init__(self, folder: RunFolder, seed: int, entries: int) -> None:
        """`entries`: the minimum number of entries in the history when the run ends."""
        self.workers_killed = self.nodes_lost = 0
        self._folder, self._random = folder, random.Random(seed)
        kills = range(1 + MAX_WORKER_KILLS)
        self._moments = deque(sorted(self._random.randrange(1, 1 + entries) for _ in kills))
        self._kills_before_node = self._random.randrange(1, 4)
        self._stopped = threading.Event()

    @contextlib.contextmanager
    def active(self, cluster: LocalCluster, nodes: Sequence[int]) -> Iterator[None]:
        thread = threading.Thread(target=self._run, args=(cluster, nodes), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _run(self, cluster: LocalCluster, nodes: Sequence[int]) -> None:
        while self._moments and not self._stopped.wait(SECONDS_BETWEEN_LOOKS):
            history = [*self._folder.history()]
            running = running_workers(history)
            if len(history) >= self._moments[0] and running and self._kill(cluster, nodes, running):
                self._moments.popleft()

    def _kill(self, cluster: LocalCluster, nodes: Sequence[int], running: Mapping[str, int]) -> bool:
        """Kill a node if its turn has come, otherwise a running worker. Return False if that worker has just ended."""
        if self.workers_killed == self._kills_before_node and not self.nodes_lost:
            cluster.kill(self._random.choice(nodes))
            self.nodes_lost += 1
            log.info("killed a node")
            return True
        trial = self._random.choice(sorted(running))
        try:
            os.kill(running[trial], signal.SIGKILL)
        except ProcessLookupError:
            return False  # the worker has just ended
        self.workers_killed += 1
        log.info("killed the worker of %s", trial)
        return True


def running_workers(history: Sequence[HistoryEntry]) -> dict[str, int]:
    """Return the process id of the worker of each running trial."""
    running: dict[str, int] = {}
    for entry in history:
        if isinstance(entry, Started):
            running[entry.trial] = entry.pid
        elif isinstance(entry, TrialEnded | AttemptDied):
            running.pop(entry.trial, None)
    return running


def _recovery_seconds(history: Sequence[HistoryEntry]) -> tuple[float, ...]:
    died_at: dict[str, float] = {}
    seconds = []
    for entry in history:
        if isinstance(entry, AttemptDied):
            died_at[entry.trial] = entry.at
        elif isinstance(entry, Started) and entry.trial in died_at:
            seconds.append(entry.at - died_at.pop(entry.trial))
    return tuple(seconds)


if __name__ == "__main__":
    sys.exit(main())
