"""The errors of trials, data and stored files. Each has the error code that the driver turns into an exit code.

A message is one line: what was expected, what was found, and what to do about it.
"""


class MnistError(Exception):
    """A failure that the user sees as one line. Every other exception is a bug in this program."""

    code = "E-BUG"


class SpecError(MnistError, ValueError):
    """An option or a field of a spec has an invalid value."""

    code = "E-USAGE"


class CronError(MnistError):
    """A cron expression is invalid, or never matches."""

    code = "E-CRON"


class DataError(MnistError):
    """A dataset is damaged or differs from the one that its name stands for."""

    code = "E-DATA"


class DataMissingError(DataError):
    """A dataset is not on this machine and cannot be downloaded."""

    code = "E-DATA-MISSING"


class DataChecksumError(DataError):
    """A source file of a dataset differs from the published file."""

    code = "E-DATA-CHECKSUM"


class DataReadError(DataError):
    """The pixels of a prepared dataset are damaged or missing. The next run prepares them again."""

    code = "E-DATA-READ"


class DataFolderError(DataError):
    """The folder for prepared datasets cannot be written."""


class ImageError(MnistError):
    """A file is not a readable picture, or the picture is blank."""

    code = "E-IMAGE"


class DivergedError(MnistError):
    """A loss or a probability is not a finite number."""

    code = "E-NAN"


class ModelError(MnistError):
    """A model in a user's Python file cannot be built or trained, or may not be run."""

    code = "E-MODEL"


class GpuInvisibleError(MnistError):
    """TensorFlow does not see the GPUs that Ray granted."""

    code = "E-GPU-INVISIBLE"


class CheckpointError(MnistError):
    """A checkpoint is damaged or belongs to another trial."""

    code = "E-CHECKPOINT"


class StoreError(MnistError):
    """The storage cannot be read or written."""

    code = "E-STORE"


class StoreFullError(StoreError):
    """The storage has no space left."""

    code = "E-STORE-FULL"


class ClockError(StoreError):
    """Nothing can be stored, since the clock of this machine is wrong by years."""

    code = "E-CLOCK"


class ConflictError(StoreError):
    """Another process deleted or replaced an object while this one was using it."""

    code = "E-STORE-CONFLICT"


class OutputError(MnistError):
    """A file for the user, outside of the storage, cannot be written."""

    code = "E-OUTPUT"


class BusyError(MnistError):
    """Another process holds the lock or the lease."""

    code = "E-BUSY"


class VersionsError(MnistError):
    """A worker's package versions differ from those of the driver."""

    code = "E-CLUSTER-VERSIONS"


class IntegrityError(MnistError):
    """Stored data differ from what was committed."""

    code = "E-INTEGRITY"


class TooLargeError(IntegrityError):
    """A stored object has more bytes than an object of its kind needs."""


class SchemaError(IntegrityError):
    """A stored record was written by a newer release."""

    code = "E-SCHEMA"
