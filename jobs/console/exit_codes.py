"""The one table of exit codes and error codes: what each means, and whether to retry the command.

Retraining, the emitted schedules, the Kubernetes manifests and the documentation are generated from this table or
tested against it. Where the error code is known, it decides: E-NAN and E-OOM both end in 5, but only E-OOM is worth a
retry.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Retry = Literal["no", "once", "yes"]


@dataclass(frozen=True, kw_only=True)
class ErrorCode:
    meaning: str
    retry: bool


@dataclass(frozen=True, kw_only=True)
class ExitCode:
    """One row of the table.

    Args:
        retry: whether a scheduler that sees only the exit code should retry.
        errors: the error codes that end in this exit code.
    """

    number: int
    meaning: str
    retry: Retry
    errors: Mapping[str, ErrorCode] = field(default_factory=dict)


def _permanent(meaning: str) -> ErrorCode:
    return ErrorCode(meaning=meaning, retry=False)


def _transient(meaning: str) -> ErrorCode:
    return ErrorCode(meaning=meaning, retry=True)


TABLE = (
    ExitCode(number=0, meaning="everything succeeded", retry="no"),
    ExitCode(
        number=1,
        meaning="a bug in this program, or Ray ended the driver",
        retry="yes",  # Ray ends a driver with 1, without an error code, when it loses the driver's node
        errors={"E-BUG": _permanent("an unexpected exception; please report it")},
    ),
    ExitCode(
        number=2,
        meaning="the command line, the configuration or the pictures are invalid",
        retry="no",
        errors={
            "E-USAGE": _permanent("an option or its value is invalid"),
            "E-CRON": _permanent("the cron expression is invalid or never matches"),
            "E-IMAGE": _permanent("none of the files is a picture that can be read"),
        },
    ),
    ExitCode(
        number=3,
        meaning="the dataset is missing or damaged",
        retry="no",
        errors={
            "E-DATA": _permanent("the dataset is damaged or differs from the expected one"),
            "E-DATA-MISSING": _permanent("the dataset is not on this machine and cannot be downloaded"),
            "E-DATA-CHECKSUM": _permanent("a source file differs from its checksum"),
        },
    ),
    ExitCode(
        number=4,
        meaning="no node has the free resources that a trial needs",
        retry="yes",
        errors={"E-RESOURCES": _transient("too few CPUs, GPUs, processes, memory or disk")},
    ),
    ExitCode(
        number=5,
        meaning="every trial failed",
        retry="once",
        errors={
            "E-TRAINING": _transient("the trials failed for different reasons"),
            "E-CRASH": _transient("the worker died"),
            "E-GPU-INVISIBLE": _transient("TensorFlow does not see the GPU that Ray granted"),
            "E-NAN": _permanent("the loss is not a number"),
            "E-NODE-LOST": _transient("the node of the worker was lost"),
            "E-OOM": _transient("the worker ran out of memory"),
            "E-SILENT": _transient("the worker sent no event before its deadline"),
            "E-TIMEOUT": _permanent("the trial took longer than --trial-timeout"),
        },
    ),
    ExitCode(
        number=6,
        meaning="the storage cannot be read or written",
        retry="yes",
        errors={
            "E-STORE": _transient("the storage refused the request or did not answer"),
            "E-STORE-CONFLICT": _transient("another process changed the same object"),
            "E-STORE-FULL": _transient("the storage is full"),
        },
    ),
    ExitCode(
        number=7,
        meaning="a stored file or record is damaged, or was written by a newer release",
        retry="no",
        errors={
            "E-INTEGRITY": _permanent("a file or record differs from its hash"),
            "E-SCHEMA": _permanent("a record was written by a newer release"),
        },
    ),
    ExitCode(
        number=8,
        meaning="the cluster cannot be reached or used, or was lost",
        retry="yes",
        errors={
            "E-CLUSTER": _transient("the cluster cannot be reached"),
            "E-CLUSTER-LOST": _transient("the cluster no longer answers"),
            "E-CLUSTER-VERSIONS": _permanent("the workers have different package versions"),
            "E-AUTH": _permanent("the cluster expects a different token"),
        },
    ),
    ExitCode(
        number=9, meaning="some trials failed, or some pictures could not be read; the rest succeeded", retry="once"
    ),
    ExitCode(
        number=75,
        meaning="another process is running this run or schedule",
        retry="yes",
        errors={"E-BUSY": _transient("another process holds the lock or lease")},
    ),
    ExitCode(number=130, meaning="interrupted (Ctrl-C); the same command resumes the run", retry="yes"),
    ExitCode(number=137, meaning="killed; the same command resumes the run", retry="yes"),
    ExitCode(number=143, meaning="terminated; the same command resumes the run", retry="yes"),
)
BY_NUMBER = {row.number: row for row in TABLE}
EXIT_CODE_OF = {code: row.number for row in TABLE for code in row.errors}
ERRORS = {code: error for row in TABLE for code, error in row.errors.items()}
FINAL = [row.number for row in TABLE if row.number and row.retry == "no"]

DONE = 0
INTEGRITY = EXIT_CODE_OF["E-INTEGRITY"]
SOME_FAILED = 9
INTERRUPTED = 128 + signal.SIGINT


def exit_code_of(error_code: str) -> int:
    """Return the exit code of an error code; 1 (a bug) if it is not in the table."""
    return EXIT_CODE_OF.get(error_code, EXIT_CODE_OF["E-BUG"])


def is_worth_a_retry(error_code: str) -> bool:
    """Return whether the same command may succeed when it is retried after this error."""
    return error_code in ERRORS and ERRORS[error_code].retry


class UsageError(Exception):
    """The command line or the configuration is invalid."""

    code = "E-USAGE"


class TrainingError(Exception):
    """Every trial failed.

    Args:
        code: the error code that all trials have in common, if there is one.
    """

    def __init__(self, message: str, code: str = "E-TRAINING") -> None:
        super().__init__(message)
        self.code = code
