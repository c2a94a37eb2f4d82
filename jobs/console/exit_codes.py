"""How a command ends: the one table of exit codes, and the one place where exceptions become a line and a code."""

# By how the error code begins: E-DATA-MISSING is E-DATA.
EXIT_CODES = {
    "E-BUG": 1,
    "E-USAGE": 2,
    "E-CRON": 2,
    "E-IMAGE": 2,
    "E-DATA": 3,
    "E-RESOURCES": 4,
    "E-TRAINING": 5,
    # What a trial can end with: this is the code of a run whose every trial has.
    "E-CRASH": 5,
    "E-GPU-INVISIBLE": 5,
    "E-NAN": 5,
    "E-NODE-LOST": 5,
    "E-OOM": 5,
    "E-SILENT": 5,
    "E-TIMEOUT": 5,
    "E-STORE": 6,
    "E-INTEGRITY": 7,
    "E-SCHEMA": 7,
    "E-AUTH": 8,
    "E-CLUSTER": 8,
    "E-BUSY": 75,
}
DONE = 0
INTEGRITY = EXIT_CODES["E-INTEGRITY"]
SOME_FAILED = 9  # trials, or pictures; the others are stored, or predicted
INTERRUPTED = 130


class UsageError(Exception):
    """The command line or the configuration cannot be understood."""

    code = "E-USAGE"


class TrainingError(Exception):
    """Every trial failed.

    Args:
        code: that of all of them, where they agree.
    """

    def __init__(self, message: str, code: str = "E-TRAINING") -> None:
        super().__init__(message)
        self.code = code


def exit_code_of(code: str) -> int:
    return next((EXIT_CODES[known] for known in sorted(EXIT_CODES, reverse=True) if code.startswith(known)), 1)
