"""The one table of exit codes and error codes: what each means, and whether running the same command again may help.

Retraining, the emitted schedules, the Kubernetes manifests and the documentation follow this table or are tested
against it. Where the error code is known it decides, since codes that end in one exit code differ: E-NAN and E-OOM
both end in 5, and only the second is worth another attempt.
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
        retry: for a scheduler that sees no more than the exit code.
        errors: the error codes that end in this exit code.
    """

    number: int
    meaning: str
    retry: Retry
    errors: Mapping[str, ErrorCode] = field(default_factory=dict)


def _final(meaning: str) -> ErrorCode:
    return ErrorCode(meaning=meaning, retry=False)


def _passing(meaning: str) -> ErrorCode:
    return ErrorCode(meaning=meaning, retry=True)


TABLE = (
    ExitCode(number=0, meaning="everything was done", retry="no"),
    ExitCode(
        number=1,
        meaning="a bug in this program, or Ray ended the driver",
        retry="yes",  # Ray ends a driver with 1 when it loses its node, and prints no error code
        errors={"E-BUG": _final("an unexpected exception; please report it")},
    ),
    ExitCode(
        number=2,
        meaning="the command line, the configuration or a picture cannot be used",
        retry="no",
        errors={
            "E-USAGE": _final("an option or a value is wrong"),
            "E-CRON": _final("the timetable is wrong"),
            "E-IMAGE": _final("none of the files is a picture that can be read"),
        },
    ),
    ExitCode(
        number=3,
        meaning="data are missing or damaged",
        retry="no",
        errors={
            "E-DATA": _final("the data are damaged or not what was expected"),
            "E-DATA-MISSING": _final("the data are not there and cannot be downloaded"),
            "E-DATA-CHECKSUM": _final("a source file has another checksum"),
        },
    ),
    ExitCode(
        number=4,
        meaning="no node has, or frees in time, what a trial needs",
        retry="yes",
        errors={"E-RESOURCES": _passing("too few CPUs, GPUs, processes, memory or disk")},
    ),
    ExitCode(
        number=5,
        meaning="every trial failed",
        retry="once",
        errors={
            "E-TRAINING": _passing("the trials failed for different reasons"),
            "E-CRASH": _passing("the worker died"),
            "E-GPU-INVISIBLE": _passing("TensorFlow does not see the GPU that Ray granted"),
            "E-NAN": _final("the loss is not a number"),
            "E-NODE-LOST": _passing("the node of the worker was lost"),
            "E-OOM": _passing("the worker ran out of memory"),
            "E-SILENT": _passing("the worker sent no event in time"),
            "E-TIMEOUT": _final("the trial took longer than --trial-timeout"),
        },
    ),
    ExitCode(
        number=6,
        meaning="the storage cannot be read or written",
        retry="yes",
        errors={
            "E-STORE": _passing("the storage refused or did not answer"),
            "E-STORE-CONFLICT": _passing("another process changed the same object"),
            "E-STORE-FULL": _passing("the storage is full"),
        },
    ),
    ExitCode(
        number=7,
        meaning="what is stored is not what was committed, or is of a newer release",
        retry="no",
        errors={
            "E-INTEGRITY": _final("a file or record differs from its hash"),
            "E-SCHEMA": _final("a record is of a newer release"),
        },
    ),
    ExitCode(
        number=8,
        meaning="the cluster cannot be reached, was lost, or does not fit this program",
        retry="yes",
        errors={
            "E-CLUSTER": _passing("the cluster cannot be reached"),
            "E-CLUSTER-LOST": _passing("the cluster no longer answers"),
            "E-CLUSTER-VERSIONS": _final("the workers have other versions of a package"),
            "E-AUTH": _final("the cluster expects another token"),
        },
    ),
    ExitCode(
        number=9, meaning="some trials failed, or some pictures could not be read; the rest was done", retry="once"
    ),
    ExitCode(
        number=75,
        meaning="another process is doing this run",
        retry="yes",
        errors={"E-BUSY": _passing("another process has the lock or lease")},
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
    """Return the exit code of an error code; 1, a bug, for one that is not in the table."""
    return EXIT_CODE_OF.get(error_code, EXIT_CODE_OF["E-BUG"])


def is_worth_a_retry(error_code: str) -> bool:
    """Return whether the same command may succeed after it ended with this error."""
    return error_code in ERRORS and ERRORS[error_code].retry


class UsageError(Exception):
    """The command line or the configuration cannot be understood."""

    code = "E-USAGE"


class TrainingError(Exception):
    """Every trial failed.

    Args:
        code: the error code of all trials if they agree.
    """

    def __init__(self, message: str, code: str = "E-TRAINING") -> None:
        super().__init__(message)
        self.code = code
