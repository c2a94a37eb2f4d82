"""The memory of the driver of a run with many lanes that send large checkpoints, all of which die once.

The lanes are real tasks of Ray on this machine that train nothing. Once the first checkpoint of each trial has come,
all lanes are killed at the same moment; each trial then resumes from its checkpoint, sends the others, and ends. The
driver records them with the code of a run, in a folder on the disk.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import setting
from cluster.deadlines import Limits
from cluster.nodes import LanePlan
from cluster.ray_lanes import RayLanes
from cluster.session import session
from cluster.supervisor import Supervisor
from jobs.train.recorder import Recorder
from jobs.train.supervision import Loop
from jobs.train.trials import Trials
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import (
    Accuracy,
    CheckpointTaken,
    EpochDone,
    Heartbeat,
    LaneReady,
    TrialEvent,
    TrialFailure,
    TrialStarted,
)
from mnist_lib.spec import trial_grid
from mnist_lib.store.runs import RunFolder
from mnist_lib.training.assignment import Assignment

MAX_MEGABYTES = 600.0  # of the driver, without the pages that it shares with the object store
SAMPLE_SECONDS = 0.02
HEARTBEAT_SECONDS = 5.0


def run_lane(assignments: Iterable[Assignment], size: int, checkpoints: int, interval: float) -> Iterator[TrialEvent]:
    """Send checkpoints of that many bytes: the first one in the first attempt at a trial, the others in the second.

    Args:
        interval: seconds from the first checkpoint of a trial to that of the next trial.
    """
    for given in assignments:
        trial, seed, done = given.spec.id, given.spec.seed, len(given.checkpoint or b"") // size
        del given  # as a lane that has read its checkpoint
        yield LaneReady(trial=trial)
        yield TrialStarted(trial=trial, pid=os.getpid(), node="", devices=(), gpus=(), resumed_after=done)
        due = time.monotonic() + (0 if done else seed * interval)
        for epoch in range(done + 1, checkpoints + 1 if done else 2):
            while (left := due - time.monotonic()) > 0:
                yield Heartbeat(trial=trial, epoch=epoch - 1)
                time.sleep(min(left, HEARTBEAT_SECONDS))
            yield EpochDone(trial=trial, epoch=epoch, loss=1.0, train=Accuracy(1, 2), validation=None, seconds=1.0)
            yield CheckpointTaken(trial=trial, epoch=epoch, content=np.zeros(size, np.uint8).data)  # type: ignore[arg-type]
        while not done:  # until it is killed
            yield Heartbeat(trial=trial, epoch=1)
            time.sleep(HEARTBEAT_SECONDS)
        yield TrialFailure(trial=trial, code="E-ENDED", message="sent all checkpoints")


class KilledOnce(Trials):
    """Trials whose lanes are killed once the first checkpoint of each trial has come."""

    def __init__(self, recorder: Recorder, trials: int) -> None:
        super().__init__(recorder, trial_grid(("keras",), range(trials), dataset="mnist-mini"))
        self.checkpoints = 0
        self.resumed: set[str] = set()
        self._pids: dict[str, int] = {}

    def on(self, event: Any, attempt: int) -> None:
        super().on(event, attempt)
        match event:
            case TrialStarted():
                self._pids[event.trial] = event.pid
                self.resumed |= {event.trial} if event.resumed_after else set()
            case CheckpointTaken():
                self.checkpoints += 1
                if self.checkpoints == len(self._specs):
                    for pid in self._pids.values():
                        os.kill(pid, signal.SIGKILL)
            case TrialFailure():  # its checkpoints are deleted, as those of a trial with a result
                delete = partial(self._recorder.folder.delete_below, f"trials/{event.trial}")
                self._recorder.writes.put(delete, event.trial)


class Meter:
    """Measures the memory of this process in megabytes until its context ends."""

    def __init__(self) -> None:
        self.all, self.own = self._read()
        self.peak, self.own_peak = self.all, self.own
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            resident, own = self._read()
            self.peak = max(self.peak, resident)
            self.own_peak = max(self.own_peak, own)

    def _read(self) -> tuple[float, float]:
        """Return the resident pages, and those of them that are not shared with the object store."""
        kilobytes = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/self/status").read_text()))
        resident = int(kilobytes["VmRSS"])
        return resident * 1024 / 1e6, (resident - int(kilobytes["RssShmem"])) * 1024 / 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lanes", type=int, default=100, help="number of lanes, each with one trial (default: 100)")
    parser.add_argument("--megabytes", type=int, default=100, help="of each checkpoint (default: 100)")
    parser.add_argument("--checkpoints", type=int, default=2, help="number per trial (default: 2)")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between first checkpoints (default: 1.0)")
    parser.add_argument("--folder", help="on the disk that stores the checkpoints (default: the temporary folder)")
    options = parser.parse_args(arguments)
    plan, limits = LanePlan(lanes=options.lanes, cpus=0, gpus=0), Limits()
    sent = (options.megabytes * 1_000_000, options.checkpoints, options.interval)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, session(None, []):
        began_at = time.monotonic()
        with Meter() as meter, Recorder(RunFolder(LocalObjects(Path(folder)), "r")) as recorder:
            trials = KilledOnce(recorder, options.lanes)
            Loop(RayLanes(run_lane, plan, limits, *sent), Supervisor(limits, plan), trials, recorder).run()
        seconds = time.monotonic() - began_at
    print(f"{setting(len(os.sched_getaffinity(0)))} n = 1.\n")
    print(f"{options.lanes} lanes, each of which sends {options.checkpoints} checkpoints of {options.megabytes} MB:")
    print(f"{trials.checkpoints} recorded, {len(trials.resumed)} trials resumed, {seconds:.0f} s.\n")
    print("| memory of the driver, MB | before | peak |\n|---|---|---|")
    print(f"| without what is shared with the object store | {meter.own:.0f} | {meter.own_peak:.0f} |")
    print(f"| all | {meter.all:.0f} | {meter.peak:.0f} |")
    if meter.own_peak > MAX_MEGABYTES:
        print(f"missed: expected at most {MAX_MEGABYTES:.0f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
