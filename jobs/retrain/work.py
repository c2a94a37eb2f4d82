"""What a schedule does for each slot: `jobs.train`, in a process of its own that ends when this one does."""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.output import print_stderr
from jobs.train.options import TrainOptions, terms_of
from mnist_lib.data.availability import fingerprint_of_prepared
from mnist_lib.environment import code_version
from mnist_lib.errors import MnistError
from mnist_lib.retraining.work import AttemptResult, RunAttempt
from mnist_lib.store.objects import Objects
from mnist_lib.store.runs import RUN_RECORD, RunFolder

STOP_SECONDS = 15.0  # then it is killed; it loses no more than since its last checkpoint
ERROR = re.compile(r"error\[E-[A-Z-]+\] .*")
# By what may be over the next time: no resources, no storage, no cluster, another at it, ended by somebody.
AGAIN = {exit_codes.exit_code_of(code) for code in ("E-RESOURCES", "E-STORE", "E-CLUSTER", "E-BUSY")}
AGAIN |= {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)}
LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec, little is allowed
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, of Linux


class TrainWork:
    """`flags`: of `jobs.train`, which are `options` too."""

    def __init__(
        self,
        objects: Objects,
        schedule: str,
        storage: str,
        flags: Sequence[str],
        options: TrainOptions,
        *,
        stop_seconds: float,
    ) -> None:
        self._objects, self._schedule, self._storage = objects, schedule, storage
        self._flags, self._options, self._stop_seconds = flags, options, min(stop_seconds, STOP_SECONDS)

    def was_begun(self, run: str) -> bool:
        return self._objects.exists(f"runs/{run}/{RUN_RECORD}")

    def fingerprint(self) -> str | None:
        from cluster.connection.address import address_of

        options = self._options
        if address_of(options.address) is not None:  # the data are wherever the run prepares them
            return None
        try:
            data = fingerprint_of_prepared(options.dataset, options.data_dir)
        except (MnistError, OSError):
            return None
        if data is None:  # on another machine, or nowhere yet
            return None
        terms = terms_of(options, options.trials(), code_version(SOURCE_FOLDERS))
        return hashlib.sha256(json.dumps([data, terms], sort_keys=True).encode()).hexdigest()

    def start(self, run: str, term: int) -> RunAttempt:
        own = ["--storage", self._storage, "--run-name", run, "--lease", f"{self._schedule}:{term}"]
        command, folder = [sys.executable, "-m", "jobs.train", *self._flags, *own], RunFolder(self._objects, run)
        try:
            return TrainAttempt(command, folder, self._stop_seconds)
        except OSError as error:
            return NoAttempt(f"error[E-RESOURCES] no process can be started: {error.strerror}")


class TrainAttempt:
    """Its output goes where this process's messages go."""

    def __init__(self, command: Sequence[str], folder: RunFolder, stop_seconds: float) -> None:
        self._folder, self._stop_seconds = folder, stop_seconds
        self._error = ""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,  # a Ctrl-C is for this process, which then stops that one
            preexec_fn=functools.partial(_end_with_parent, os.getpid()),
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=[self._process.stderr], daemon=True)
        self._reader.start()

    def poll(self) -> AttemptResult | None:
        if self._process.poll() is None:
            return None
        self._reader.join(timeout=1)
        code = self._process.returncode
        code = 128 - code if code < 0 else code
        complete = code in (exit_codes.DONE, exit_codes.SOME_FAILED)
        summary = self._folder.summary() if complete else None
        return AttemptResult(
            exit_code=code,
            complete=complete,
            again=code in AGAIN,
            why=self._error or _why(code, summary),
            results=results_of(summary or {}),
        )

    def stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._stop_seconds)
        self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self, stderr: IO[str]) -> None:
        for line in stderr:
            print_stderr(line, end="")
            found = ERROR.match(line)
            self._error = found[0] if found else self._error


class NoAttempt:
    """The machine has no room for one."""

    def __init__(self, why: str) -> None:
        self._why = why

    def poll(self) -> AttemptResult:
        return AttemptResult(exit_codes.exit_code_of("E-RESOURCES"), complete=False, again=True, why=self._why)

    def stop(self) -> None:
        pass

    kill = stop


def results_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a schedule keeps of a run, by model."""
    kept = {
        "version": "version",
        "test_accuracy": "best_trial_test_accuracy",
        "champion": "champion",
        "why": "promotion",
        "trials": "trials",
        "mean_test_accuracy": "mean_test_accuracy",
        "ci95": "ci95",
    }
    models = summary.get("models", {})
    return {model: {name: row.get(of) for name, of in kept.items()} for model, row in models.items()}


def _why(code: int, summary: Mapping[str, Any] | None) -> str:
    if summary is not None:
        failed = [trial["id"] for trial in summary["trials"] if trial["status"] == "failed"]
        return f"{len(failed)} of {len(summary['trials'])} trials failed: {', '.join(failed)}" if failed else ""
    return f"it was killed by signal {code - 128}" if code > 128 else f"it ended with exit code {code}"


def _end_with_parent(parent: int) -> None:
    """In the child: the kernel asks it to end when its parent has died, however that came."""
    if sys.platform == "linux":
        LIBC.prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it has died already
            os._exit(128 + signal.SIGTERM)
