"""What can go wrong with a trial, its data or its files, each with the code that the driver turns into an exit status.

A message says what was expected, what came and what to do, in one line.
"""


class MnistError(Exception):
    """A failure that is told to the user in one line; anything else is a bug of ours."""

    code = "E-BUG"


class SpecError(MnistError, ValueError):
    """A value that no trial can have."""

    code = "E-USAGE"


class CronError(MnistError):
    """A schedule is never, or not as cron has it."""

    code = "E-CRON"


class DataError(MnistError):
    """The dataset is damaged, or not what its name promises."""

    code = "E-DATA"


class DataMissingError(DataError):
    """The dataset is not on this machine and cannot be had from here."""

    code = "E-DATA-MISSING"


class DataChecksumError(DataError):
    """A source file is not the published one."""

    code = "E-DATA-CHECKSUM"


class DataFolderError(DataError):
    """The folder to prepare it in cannot be written."""


class ImageError(MnistError):
    """A file is no picture that can be read, or there is nothing on it."""

    code = "E-IMAGE"


class DivergedError(MnistError):
    """The loss or a weight is no longer a finite number."""

    code = "E-NAN"


class GroupError(MnistError):
    """Of the processes that train one trial together, one is gone or has failed."""


class GpuInvisibleError(MnistError):
    """Ray granted GPUs that TensorFlow cannot see."""

    code = "E-GPU-INVISIBLE"


class CheckpointError(MnistError):
    """A checkpoint is damaged, or not of the trial that it was given to."""

    code = "E-CHECKPOINT"


class StoreError(MnistError):
    """The storage cannot be read or written."""

    code = "E-STORE"


class StoreFullError(StoreError):
    """The storage has no room for what is to be stored."""

    code = "E-STORE-FULL"


class ConflictError(StoreError):
    """What is to be stored or used was given up meanwhile."""

    code = "E-STORE-CONFLICT"


class BusyError(MnistError):
    """Another process is at it."""

    code = "E-BUSY"


class IntegrityError(MnistError):
    """What is stored is not what was committed."""

    code = "E-INTEGRITY"


class SchemaError(IntegrityError):
    """What is stored was written by a newer program."""

    code = "E-SCHEMA"
