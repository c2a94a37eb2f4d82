"""The one table of exit codes and error codes: what each means, and whether to retry the command.

Retraining, the emitted schedules, the Kubernetes manifests and the documentation are generated from this table or
tested against it. An error code, if known, decides about a retry: E-NAN and E-OOM both exit with 5, but only E-OOM
is worth a retry.
"""

import signal
from dataclasses import dataclass
from typing import Literal

Retry = Literal["no", "once", "yes"]


@dataclass(frozen=True)
class ErrorCode:
    exit_code: int
    meaning: str
    retry: bool = False


@dataclass(frozen=True)
class ExitCode:
    """One row of the table. `retry` is for a scheduler that sees only the exit code."""

    number: int
    meaning: str
    retry: Retry

    @property
    def errors(self) -> dict[str, ErrorCode]:
        return {code: error for code, error in ERRORS.items() if error.exit_code == self.number}


TABLE = (
    ExitCode(0, "everything succeeded", "no"),
    # When Ray loses the driver's node, it ends the driver with exit code 1 and prints no error code.
    ExitCode(1, "a bug in this program, or Ray ended the driver", "yes"),
    ExitCode(2, "the command line, the configuration, a model file or the pictures are invalid", "no"),
    ExitCode(3, "the dataset is missing or damaged", "once"),
    ExitCode(4, "no node has the free resources that a trial needs", "yes"),
    ExitCode(5, "every trial failed", "once"),
    ExitCode(
        6, "the storage cannot be read or written, MLflow cannot be reached, or the clock is wrong by years", "yes"
    ),
    ExitCode(7, "a stored file or record is damaged, or was written by a newer release", "no"),
    ExitCode(8, "the cluster cannot be reached or used, or was lost", "yes"),
    ExitCode(9, "some trials failed, or pictures cannot be read that could be read before, or are new", "once"),
    ExitCode(10, "the version was not promoted; the champion stays", "no"),
    # A retry would repeat work that is done: whatever belongs in the storage has been stored.
    ExitCode(74, "standard output, or a file for the result, cannot be written", "no"),
    ExitCode(75, "another process is running this run or schedule", "yes"),
    ExitCode(129, "the terminal was closed; the same command resumes the run", "yes"),
    ExitCode(130, "interrupted (Ctrl-C); the same command resumes the run", "yes"),
    ExitCode(137, "killed; the same command resumes the run", "yes"),
    ExitCode(143, "terminated; the same command resumes the run", "yes"),
)
ERRORS = {
    "E-BUG": ErrorCode(1, "an unexpected exception; please report it"),
    "E-USAGE": ErrorCode(2, "an option or its value is invalid"),
    "E-CRON": ErrorCode(2, "the cron expression is invalid or never matches"),
    "E-IMAGE": ErrorCode(2, "none of the files is a picture that can be read"),
    "E-MODEL": ErrorCode(
        2,
        "the Python file of a model is invalid or not trusted, the weights to start from do not fit, or --deterministic"
        " excludes an operation of it",
    ),
    "E-DATA": ErrorCode(3, "the dataset is damaged or differs from the expected one"),
    "E-DATA-READ": ErrorCode(3, "prepared images are damaged or missing; they are prepared again", retry=True),
    "E-DATA-MISSING": ErrorCode(3, "the dataset is not on this machine and cannot be downloaded"),
    "E-DATA-CHECKSUM": ErrorCode(3, "a source file differs from its checksum"),
    "E-RESOURCES": ErrorCode(4, "too few CPUs, GPUs or processes, or too little memory or disk space", retry=True),
    "E-TRAINING": ErrorCode(5, "the trials failed for different reasons", retry=True),
    "E-CRASH": ErrorCode(5, "the worker died", retry=True),
    "E-GPU-INVISIBLE": ErrorCode(5, "TensorFlow does not see the GPU that Ray granted", retry=True),
    "E-NAN": ErrorCode(5, "the loss is not a number"),
    "E-NODE-LOST": ErrorCode(5, "the node of the worker was lost", retry=True),
    "E-OOM": ErrorCode(5, "the worker ran out of memory", retry=True),
    "E-SILENT": ErrorCode(5, "the worker sent no event before the deadline", retry=True),
    "E-TIMEOUT": ErrorCode(5, "the trial took longer than --trial-timeout"),
    "E-CLOCK": ErrorCode(6, "the clock of this machine is wrong by years, so nothing is stored", retry=True),
    "E-STORE": ErrorCode(6, "the storage refused the request or did not answer", retry=True),
    "E-STORE-CONFLICT": ErrorCode(6, "another process changed the same object", retry=True),
    "E-STORE-FULL": ErrorCode(6, "the storage is full", retry=True),
    "E-TRACKING": ErrorCode(6, "MLflow refused a request or did not answer", retry=True),
    "E-INTEGRITY": ErrorCode(7, "a stored file differs from its hash, or cannot be read"),
    "E-SCHEMA": ErrorCode(7, "a record was written by a newer release"),
    "E-CLUSTER": ErrorCode(8, "the cluster cannot be reached", retry=True),
    "E-CLUSTER-LOST": ErrorCode(8, "the cluster no longer answers", retry=True),
    "E-CLUSTER-VERSIONS": ErrorCode(8, "the workers have different package versions"),
    "E-AUTH": ErrorCode(8, "the cluster expects a different token"),
    "E-OUTPUT": ErrorCode(74, "the result cannot be written to the requested place"),
    "E-BUSY": ErrorCode(75, "another process holds the lock or lease", retry=True),
}
BY_NUMBER = {row.number: row for row in TABLE}

DONE = 0
INTEGRITY = ERRORS["E-INTEGRITY"].exit_code
SOME_FAILED = 9
REFUSED = 10
OUTPUT = ERRORS["E-OUTPUT"].exit_code
INTERRUPTED = 128 + signal.SIGINT


def exit_code_of(error_code: str) -> int:
    """Return the exit code of an error code; 1 (a bug) if it is not in the table."""
    return ERRORS[error_code if error_code in ERRORS else "E-BUG"].exit_code


def is_worth_a_retry(error_code: str) -> bool:
    """Return whether the same command may succeed when it is retried after this error."""
    return error_code in ERRORS and ERRORS[error_code].retry


def is_final(error_code: str) -> bool:
    """Return whether the same command would end with the same error, as far as is known."""
    return error_code in ERRORS and error_code != "E-BUG" and not is_worth_a_retry(error_code)


class UsageError(Exception):
    """The command line or the configuration is invalid."""

    code = "E-USAGE"


class TrainingError(Exception):
    """Every trial failed.

    Args:
        code: the error code of all trials, if they have the same one.
    """

    def __init__(self, message: str, code: str = "E-TRAINING") -> None:
        super().__init__(message)
        self.code = code
