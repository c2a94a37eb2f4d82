"""Run jobs as a user does, each in its own process, and read what they write."""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from cluster.deadlines import SILENCE_SECONDS
from tests.support.bounds import JOB_SECONDS, wait_until

ROOT = Path(__file__).parents[2]

# The driver must never import TensorFlow.
DRIVER = """
import sys
import termios
{prelude}
from {module} import main
status = main(sys.argv[1:])
assert not {{'tensorflow', 'keras', 'tensorflow_datasets'}} & set(sys.modules)
sys.exit(status)
"""
# On some processors, the weights depend on the number of threads.
SETTINGS = ("--epochs=20", "--cpus-per-trial=1")
TRAINING = (*SETTINGS, "--checkpoint-seconds=0", "--gpus-per-trial=0", "--run-name=r", "--no-report", "--json")
LIMITS = """
import dataclasses
from jobs.train.options import TrainOptions
limits = TrainOptions.limits
TrainOptions.limits = lambda self: dataclasses.replace(limits(self), **{changed})
"""
UNHANDLED = re.compile("Traceback|Exception ignored in|exception was never retrieved")
MARK = "MNIST_TEST_PROCESS"  # environment variable of a driver and of all processes that it starts


def with_limits(**changed: Any) -> str:
    """Return a prelude that changes these fields of `Limits`."""
    return LIMITS.format(changed=changed)


IMPATIENT = with_limits(silence_seconds={**SILENCE_SECONDS, "training": 5.0}, head_seconds=5.0)


def start(
    *arguments: str | Path,
    home: Path,
    prelude: str = "",
    module: str = "jobs.train.__main__",
    terminal: int | None = None,
    **environment: str,
) -> subprocess.Popen[str]:
    """Start a job.

    Args:
        prelude: Python code that runs first, to cause a state that options cannot cause.
        terminal: a file descriptor of the terminal to start it in.
    """
    stream = subprocess.PIPE if terminal is None else terminal

    def set_up() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the tests may run in the background of a shell
        if terminal is not None:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or under nohup
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    return subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(prelude=prelude, module=module), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), MARK: str(home), **environment},
        stdin=terminal,
        stdout=stream,
        stderr=stream,
        text=True,
        start_new_session=True,  # so that a signal to its process group does not reach the tests
        preexec_fn=set_up,
    )


def train(
    *arguments: str | Path, home: Path, prelude: str = "", module: str = "jobs.train.__main__", **environment: str
) -> tuple[int, str, str]:
    process = start(*arguments, home=home, prelude=prelude, module=module, terminal=None, **environment)
    code, stdout, stderr = end_of(process)
    assert "\x1b" not in stdout + stderr  # no colours, since neither is a terminal
    assert not re.search("the (report|index) could not be written", stderr)
    return code, stdout, stderr


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait until a job has ended, and return its exit code, standard output and standard error.

    No job may log a warning, and none that succeeds an exception that nobody has handled.
    """
    stdout, stderr = process.communicate(timeout=JOB_SECONDS)
    assert "Warning: " not in stderr
    assert process.returncode or not UNHANDLED.search(stderr), stderr
    return process.returncode, stdout, stderr


def processes_of(home: Path) -> list[str]:
    """Return the running processes that a driver with that HOME has started."""
    mark, found = f"{MARK}={home}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(f"{process.name} {(process / 'cmdline').read_bytes()[:1_000]!r}")
    return found


def end_orphans(home: Path) -> None:
    """Wait until the processes of a killed driver have ended, but for Ray's agents, and kill those.

    Two agents would try for a minute to report the end of the cluster.
    """
    wait_until(lambda: not [p for p in processes_of(home) if "Agent" not in p], "processes still run")
    for process in processes_of(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.split()[0]), signal.SIGKILL)


def tasks_of_clusters() -> list[psutil.Process]:
    """Return the workers that run a task or an actor in a cluster that this process has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline()[:1])
            if title.startswith("ray::") and title != "ray::IDLE" and not title.endswith("Agent"):
                found.append(process)
    return found


def describe(process: psutil.Process) -> str:
    """Return what a process is and what it waits for: title, state, age, parent, and each thread in the kernel."""
    folder = Path(f"/proc/{process.pid}")
    try:
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
        facts = {name: status[name].strip() for name in ("State", "PPid", "Threads", "SigPnd", "ShdPnd", "SigCgt")}
        waits = Counter(
            f"{(task / 'comm').read_text().strip()} in {(task / 'wchan').read_text() or '?'}"
            for task in (folder / "task").iterdir()
        )
        title, age = " ".join(process.cmdline()[:1]), time.time() - process.create_time()
        return f"{title} (pid {process.pid}, {age:.0f} s old, {facts}, threads {dict(waits)})"
    except (psutil.Error, OSError) as error:  # it has just ended
        return f"pid {process.pid} ({error})"


def history_of(run: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a run's history so far."""
    lines = [line for path in sorted(run.glob("history/*")) for line in path.read_text().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def summary_of(*arguments: str | Path, home: Path) -> dict[str, Any]:
    code, stdout, stderr = train("--json", "--storage", home / "results", *arguments, home=home)
    assert code == 0, stderr
    summary: dict[str, Any] = json.loads(stdout)
    assert summary == json.loads((home / "results/runs" / summary["run"] / "summary.json").read_text())
    return summary


def pid_of(trial: str, run: Path, epoch: int = 1) -> int:
    """Wait until a trial has trained an epoch, and return the process id of its worker."""

    def reached() -> bool:
        return any(e["trial"] == trial and e["event"] == "epoch" and e["epoch"] >= epoch for e in history_of(run))

    wait_until(reached, f"{trial} has not trained epoch {epoch}")
    return int([e for e in history_of(run) if e["trial"] == trial and e["event"] == "started"][-1]["pid"])


def options_for(address: str, data_dir: Path, storage: Path) -> tuple[str | Path, ...]:
    return ("--address", address, "--data-dir", data_dir, "--storage", storage, *TRAINING)


def hashes(stdout: str) -> dict[str, str]:
    return {trial["id"]: trial["weights_sha256"] for trial in json.loads(stdout)["trials"]}


def starts_of(trial: str, run: Path) -> list[int]:
    """Return, for each attempt at a trial, the number of epochs after which it resumed."""
    return [e["resumed_after"] for e in history_of(run) if e["trial"] == trial and e["event"] == "started"]
