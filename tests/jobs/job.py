"""The job as a user runs it: a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# The driver must end without TensorFlow ever having been loaded.
DRIVER = """
import sys
{prelude}
from jobs.train import main
status = main(sys.argv[1:])
assert not {{'tensorflow', 'keras', 'tensorflow_datasets'}} & set(sys.modules)
sys.exit(status)
"""
MARK = "MNIST_TEST_PROCESS"  # in the environment of a driver and of all processes that it starts


def start(*arguments: str | Path, home: Path, prelude: str = "", **environment: str) -> subprocess.Popen[str]:
    """`prelude`: Python that runs first, to bring about what cannot be had otherwise."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(prelude=prelude), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), MARK: str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a signal to its group is none to the tests
    )


def train(*arguments: str | Path, home: Path, prelude: str = "", **environment: str) -> tuple[int, str, str]:
    process = start(*arguments, home=home, prelude=prelude, **environment)
    stdout, stderr = process.communicate(timeout=200)
    return process.returncode, stdout, stderr


def processes_of(home: Path) -> list[str]:
    """What a driver with that HOME has started, and that still runs."""
    mark, found = f"{MARK}={home}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(f"{process.name} {(process / 'cmdline').read_bytes()[:200]!r}")
    return found


def wait_until(condition: Callable[[], object], what: str, seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def history_of(run: Path) -> list[dict[str, Any]]:
    """Its whole lines so far."""
    path = run / "history.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def summary_of(*arguments: str | Path, home: Path) -> dict[str, Any]:
    code, stdout, stderr = train("--json", "--storage", home / "results", *arguments, home=home)
    assert code == 0, stderr
    summary: dict[str, Any] = json.loads(stdout)
    assert summary == json.loads((home / "results/runs" / summary["run"] / "summary.json").read_text())
    return summary


def pid_of(trial: str, run: Path, epoch: int = 1) -> int:
    """Of the worker that trains it, once it tells that it has trained that epoch."""

    def reached() -> bool:
        return any(e["trial"] == trial and e["event"] == "epoch" and e["epoch"] >= epoch for e in history_of(run))

    wait_until(reached, f"{trial} has not trained epoch {epoch}")
    return int([e for e in history_of(run) if e["trial"] == trial and e["event"] == "started"][-1]["pid"])
