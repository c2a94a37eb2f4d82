"""A simulated run of many trials on nodes whose workers keep dying, and what it costs the driver."""

import json
import logging
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cluster.deadlines import Limits
from cluster.nodes import LanePlan
from cluster.supervisor import Supervisor
from jobs.train.display import display
from jobs.train.recorder import Recorder
from jobs.train.supervision import Loop
from jobs.train.trials import Trials
from mnist_lib.spec import trial_grid
from mnist_lib.store.runs import RunFolder
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.cluster import SimulatedCluster
from tests.support.simulation.memory import MemoryObjects, SimulatedWrites
from tests.support.simulation.trials import Durations

PEAK = re.compile(r"VmHWM:\s+(\d+) kB")  # the most memory of this process; getrusage also counts that of its parent
SECONDS_PER_WRITE = 0.16  # a bucket with a latency of 40 ms, and four requests per write on average


class Nowhere(MemoryObjects):
    """Forgets everything, as if it were stored elsewhere."""

    def replace(self, name: str, content: bytes) -> None:
        pass

    def append(self, name: str, content: bytes) -> None:
        pass


class CountingRecorder(Recorder):
    """Counts the events, and those that come while too many writes wait for the storage."""

    events = events_at_full_storage = 0

    def record(self, event: Any) -> Any:
        self.events += 1
        self.events_at_full_storage += self.is_full
        return super().record(event)


class Lines(logging.Handler):
    """Counts the lines of each kind, per virtual second."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock, self.longest, self.progress = clock, 0, Counter[int]()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        self.longest = max(self.longest, len(line))
        if " images/s, " in line:
            self.progress[int(self._clock.now)] += 1


def main() -> int:
    nodes, num_trials, deaths_per_minute = map(int, sys.argv[1:])
    clock, draw = VirtualClock(), random.Random(0)
    lines = Lines(clock)
    for name in ("cluster", "jobs"):
        logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger(name).addHandler(lines)
    cluster = SimulatedCluster(clock, {"scratch": Durations(epoch=30.0, chunk=10.0)}, [1] * nodes)

    def kill_one() -> None:
        if draw.random() < len(cluster.running) / nodes:  # else the last trials never end
            cluster.kill_worker(draw.choice(cluster.running))
        clock.after(60 / deaths_per_minute, kill_one)

    clock.after(60.0, kill_one)
    specs = trial_grid(("scratch",), range(num_trials), dataset="mnist-mini", epochs=4)
    writes = SimulatedWrites(clock, SECONDS_PER_WRITE)
    limits, plan = Limits(max_failures=100), LanePlan(lanes=nodes, cpus=1, gpus=0)
    begin = time.process_time()
    with CountingRecorder(RunFolder(Nowhere(), "run"), writes) as recorder:
        trials = Trials(recorder, specs)
        with display(trials.progress, clock=clock) as show:
            Loop(cluster, Supervisor(limits, plan), trials, recorder, show=show, clock=clock).run()
    events = recorder.events
    found = {
        "ok": sum(row.status == "ok" for row in trials.rows),
        "attempts": sum(row.attempts for row in trials.rows),
        "events": events,
        "virtual_seconds": clock.now,
        "milliseconds_per_event": 1_000 * (time.process_time() - begin) / events,  # with the simulation's own share
        "megabytes": int(PEAK.findall(Path("/proc/self/status").read_text())[0]) / 1_024,
        "longest_line": lines.longest,
        "most_progress_lines_in_a_second": max(lines.progress.values(), default=0),
        "events_at_full_storage": recorder.events_at_full_storage,
    }
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
