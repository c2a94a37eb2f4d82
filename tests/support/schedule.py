"""One schedule in one storage, and its commands as a user types them."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.retrain.journal import Journal
from mnist_lib.documents import builtins_of
from mnist_lib.objects.local import LocalObjects
from tests.support.bounds import JOB_SECONDS
from tests.support.job import MARK, ROOT, history_of
from tests.support.untrained import UNTRAINED

HOURLY, DAILY = "--cron=0 * * * *", "--cron=0 0 * * *"
HOUR = timedelta(hours=1)
TRAIN = f"""{UNTRAINED}
import sys
from jobs.train.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
# Runs jobs.retrain with a wall clock that can be ahead of this machine's, so that a test need not wait for a slot, and
# with the program above in place of jobs.train, unless the training is to be real.
COMMAND = f"""
import os, sys
from datetime import timedelta
from mnist_lib.environment import SystemClock
now, ahead = SystemClock.now, timedelta(seconds=float(os.environ["MNIST_TEST_AHEAD"]))
SystemClock.now = lambda self: now(self) + ahead
from jobs.retrain.__main__ import main
from jobs.retrain.work import TrainAttempt
begin = TrainAttempt.__init__
def begin_untrained(self, command, *rest):
    begin(self, [command[0], "-c", {TRAIN!r}, *command[4:]], *rest)
if os.environ["MNIST_TEST_UNTRAINED"]:
    TrainAttempt.__init__ = begin_untrained
sys.exit(main(sys.argv[1:]))
"""


class Schedule:
    """A schedule whose clock shows a quarter past an hour at first, so that no slot comes due during a test."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.folder, self.data_dir, self.storage = folder, data_dir, folder / "results"
        now = datetime.now(UTC)
        self.ahead = (now.replace(minute=15, second=0) - now) % HOUR  # of this machine's clock
        self.trains = False  # whether its trials train, instead of waiting for a moment

    def start(
        self, *arguments: str, train: tuple[str, ...] = (), later: timedelta = timedelta(0)
    ) -> subprocess.Popen[str]:
        """Start a command. later: how much more its clock is ahead."""
        ahead = (self.ahead + later).total_seconds()
        words = [*arguments, "--storage", str(self.storage), "--", "--data-dir", str(self.data_dir), *train]
        environment = {"HOME": str(self.folder), MARK: str(self.folder), "MNIST_TEST_AHEAD": str(ahead)}
        environment["MNIST_TEST_UNTRAINED"] = "" if self.trains else "1"
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", COMMAND, *words],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def run(self, *arguments: str, train: tuple[str, ...] = (), later: timedelta = timedelta(0)) -> tuple[int, str]:
        process = self.start(*arguments, train=train, later=later)
        stdout, _ = process.communicate(timeout=JOB_SECONDS)
        return process.returncode, stdout

    def read(self, command: str, *arguments: str) -> Any:
        code, stdout = self.run(command, "--json", *arguments)
        assert code == 0, self.log()
        return json.loads(stdout)

    def entries(self) -> list[dict[str, Any]]:
        """Return the journal, the oldest entry first."""
        newest = Journal(LocalObjects(self.storage), "nightly").newest()
        return [builtins_of(entry) for entry in newest][::-1]

    def log(self) -> str:
        return (self.folder / "log").read_text()


def epochs_of(schedule: Schedule) -> int:
    """Return the number of epochs in the history of the newest run."""
    runs = sorted((schedule.storage / "runs").glob("*"))
    return sum(line["event"] == "epoch" for line in history_of(runs[-1])) if runs else 0


def kill(daemon: subprocess.Popen[str]) -> None:
    daemon.kill()
    daemon.communicate()


def terminate(daemon: subprocess.Popen[str]) -> int:
    daemon.terminate()
    daemon.communicate(timeout=JOB_SECONDS)
    return daemon.returncode
