"""What a schedule runs for each slot: jobs.train, in a child process that ends when this process does."""

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
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from msgspec import structs

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.output import print_stderr
from jobs.retrain.journal import DataOfRun, ModelResult
from jobs.retrain.notices import RECEIVER, SECRET
from jobs.retrain.retrainer import AttemptResult, RunAttempt
from jobs.train.commands import plan_of
from jobs.train.options import TrainOptions
from mnist_lib.data.corrections import labels_in_storage
from mnist_lib.data.prepared.index import fingerprint_of_files
from mnist_lib.environment import MODULE, child_variables, code_version
from mnist_lib.errors import IntegrityError, MnistError
from mnist_lib.objects.protocol import Objects
from mnist_lib.report.texts import totals
from mnist_lib.run_documents import ModelSummary, Summary
from mnist_lib.store.runs import RUN_RECORD, RunFolder
from mnist_lib.wording import counted

STOP_SECONDS = 15.0  # maximum wait before a stopped run is killed and loses what it trained since its checkpoint
COMPLETE = (exit_codes.DONE, exit_codes.SOME_FAILED, exit_codes.REFUSED)
WITH_SUMMARY = (*COMPLETE, exit_codes.exit_code_of("E-TRAINING"))
ERROR_LINE = re.compile(r"error\[(E-[A-Z-]+)\] .*")
LIBC = ctypes.CDLL(None)  # loaded here, since little is allowed between fork and exec
PARENT_DEATH_SIGNAL = 1  # Linux: PR_SET_PDEATHSIG


@dataclass(frozen=True)
class TrainWork:
    objects: Objects
    storage: str
    flags: Sequence[str]  # the command line of jobs.train, without those of the next field
    options: TrainOptions  # all of its options, parsed
    configuration: Mapping[str, Any]  # what its --config file is to hold
    stop_seconds: float  # wait before a stopped run is killed

    def has_run(self, run: str) -> bool:
        return self.objects.exists(f"runs/{run}/{RUN_RECORD}")

    def fingerprint(self) -> str | None:
        options = replace(self.options)  # a copy, which reads the file of --tfds-import again
        request = options.data()
        data = None
        # Even with --address, the data are on this machine or in a bucket: they are prepared where the driver runs.
        with contextlib.suppress(MnistError, OSError):
            data = fingerprint_of_files(request, labels_in_storage(request, self.objects))
        if data is None:  # not prepared yet
            return None
        try:
            terms = plan_of(options).terms(code_version(SOURCE_FOLDERS))
        except MnistError:  # the file of a model is damaged; the run will say so
            return None
        return hashlib.sha256(json.dumps([data, terms], sort_keys=True).encode()).hexdigest()

    def start(self, run: str, *, last: bool) -> RunAttempt:
        file = _config_file(self.configuration)
        # The file comes first, so that one among the flags overrides it.
        command = [*MODULE, self.options.COMMAND, f"--config={file.name}", *self.flags]
        command += ["--storage", self.storage, "--run-name", run, *([] if last else ["--require-all"])]
        return TrainAttempt(command, RunFolder(self.objects, run), min(self.stop_seconds, STOP_SECONDS), file)


class TrainAttempt:
    """A process of jobs.train, whose output goes to this process's standard error."""

    def __init__(
        self, command: Sequence[str], folder: RunFolder, stop_seconds: float, file: IO[str] | None = None
    ) -> None:
        self._folder = folder
        self._stop_seconds = stop_seconds
        self._file = file  # exists as long as the attempt
        self._error = ""
        self._error_code = ""
        self._process = subprocess.Popen(
            command,
            env={name: value for name, value in child_variables().items() if name not in (RECEIVER, SECRET)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # always read to its end, even if our own output cannot be written
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            start_new_session=True,  # Ctrl-C reaches only this process, which then stops the run
            preexec_fn=functools.partial(_end_with_parent, os.getpid()),
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=[self._process.stdout], daemon=True)
        self._reader.start()

    def poll(self) -> AttemptResult | None:
        if self._process.poll() is None:
            return None
        self._reader.join(timeout=1)
        code = self._process.returncode
        code = 128 - code if code < 0 else code
        summary, why = None, self._error
        try:
            summary = self._folder.summary() if code in WITH_SUMMARY else None
        except IntegrityError as error:
            why = why or str(error)
        return AttemptResult(
            exit_code=code,
            complete=code in COMPLETE,
            retry=retry_after(code, self._error_code, summary),
            failed_trials=len(summary.failed) if summary else 0,
            why=why or _why(code, summary),
            results=results_of(summary) if summary else {},
            data=data_of(summary, is_refused=code == exit_codes.REFUSED) if summary else None,
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

    def _read(self, output: IO[str]) -> None:
        with output:
            for line in output:
                print_stderr(line, end="")
                if match := ERROR_LINE.match(line):
                    self._error = match[0]
                    self._error_code = match[1]


def _config_file(options: Mapping[str, Any]) -> IO[str]:
    """Return a temporary --config file: as flags, texts such as "007" and lists would change their types."""
    file: IO[str] = tempfile.NamedTemporaryFile("w", suffix=".yaml")  # noqa: SIM115  # deleted with its attempt
    json.dump(options, file, indent=2, default=str)
    file.flush()
    return file


def retry_after(exit_code: int, error_code: str, summary: Summary | None) -> exit_codes.Retry:
    """Return whether to retry.

    The error codes of failed trials decide; if there are none, the one that the run printed; otherwise, the exit code.
    """
    codes = [trial.error.code for trial in (summary.failed if summary else ())] or ([error_code] if error_code else [])
    if codes:
        return "yes" if any(map(exit_codes.is_worth_a_retry, codes)) else "no"
    row = exit_codes.BY_NUMBER.get(exit_code)
    return row.retry if row else "no"


def results_of(summary: Summary) -> dict[str, ModelResult]:
    """Return what the journal stores about a complete run, by model."""

    def result(row: ModelSummary) -> ModelResult:
        same = {name: getattr(row, name) for name in ModelResult.__struct_fields__ if hasattr(row, name)}
        return ModelResult(
            **same,
            why=row.promotion or None,
            test_accuracy=row.best_trial_test_accuracy,
            balanced_accuracy=None if row.score == "accuracy" else row.best_trial_test_balanced_accuracy,
        )

    return {model: result(row) for model, row in summary.models.items()}


def data_of(summary: Summary, *, is_refused: bool = False) -> DataOfRun | None:
    """Return what the journal stores about the data of a complete run; None if it is not known.

    Args:
        is_refused: whether no model was promoted because of the objections to the dataset.
    """
    dataset, changes, corrections = summary.dataset, summary.dataset.changes, summary.dataset.corrections
    data = DataOfRun(
        name=dataset.name,
        objections=dataset.objections if is_refused else (),
        accept=dataset.accept if is_refused else None,
        newly_damaged=dataset.newly_damaged or None,
        label_errors=(summary.label_errors.count or None) if summary.label_errors else None,
    )
    if changes:
        data = structs.replace(data, since=changes.since, unusual=changes.unusual, **totals(changes))
    if corrections:
        corrected = corrections.applied + corrections.removed
        data = structs.replace(data, corrected=corrected, disputed_holdout=corrections.disputed_holdout)
    return data if data != DataOfRun(name=dataset.name) or changes or corrections else None


def _why(code: int, summary: Summary | None) -> str:
    if summary is not None:
        failed, trials = summary.failed, counted(len(summary.trials), "trial")
        damaged = summary.dataset.newly_damaged
        if damaged and not failed:
            return f"{counted(damaged, 'picture')} could not be read and {'was' if damaged == 1 else 'were'} left out"
        return f"{len(failed)} of {trials} failed: {', '.join(trial.id for trial in failed)}" if failed else ""
    return f"killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"


def _end_with_parent(parent: int) -> None:
    """Make the kernel terminate this child process when its parent dies."""
    if sys.platform == "linux":
        LIBC.prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # the parent has died already
            os._exit(128 + signal.SIGTERM)
