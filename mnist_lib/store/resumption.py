"""What a run needs to be resumed: the results of trials that have ended, and checkpoints of those that have not.

    trials/<trial>/ended.json              written last; when it exists, the trial has ended
                   ended/...               its probabilities, and its model if that is the best one so far
                   checkpoints/<epochs trained>-<sha256>.npz

All of it is deleted when the run is complete.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mnist_lib.documents import Sha256, reading
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.archives import npz, read_npz
from mnist_lib.objects.protocol import MAX_CHECKPOINT_BYTES, MAX_EPOCHS_BYTES, MAX_FILE_BYTES, concurrently
from mnist_lib.objects.records import seal, unseal
from mnist_lib.results import EpochDone, TrialRecord, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store.runs import RunFolder
from mnist_lib.wording import counted

CHECKPOINTS_PER_TRIAL = 2
CHECKPOINT = re.compile(r"\d{8}\.\d{5}-[0-9a-f]{64}\.npz")
PROBABILITIES = "probabilities.npz"


@dataclass(frozen=True)
class StoredResult:
    """The record `ended.json`."""

    record: TrialRecord
    history: tuple[EpochDone, ...]
    files: Mapping[str, Sha256]


log = logging.getLogger(__name__)


def store_result(folder: RunFolder, result: TrialResult, *, with_model: bool) -> None:
    """Store the result of a trial that has ended, and delete its checkpoints."""
    fold = {} if result.of_fold is None else {"of_fold": result.of_fold}
    files = {PROBABILITIES: npz({"probabilities": result.probabilities, **fold})}
    if with_model:
        files |= {f"model/{path}": content for path, content in result.files.items()}
    for path, content in files.items():
        folder.write(f"trials/{result.trial}/ended/{path}", content)
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    folder.write(f"trials/{result.trial}/ended.json", seal(StoredResult(result.record, result.history, hashes)))
    folder.delete_below(f"trials/{result.trial}/checkpoints")


def read_result(folder: RunFolder, spec: TrialSpec) -> TrialResult | None:
    """Return the result of a trial, or None if the trial has not ended or its result is damaged."""
    name = f"trials/{spec.id}/ended.json"
    try:
        content = folder.read(name, MAX_EPOCHS_BYTES)
        if content is None:
            return None
        stored = unseal(content, name, StoredResult)
        if stored.record.spec != spec:
            raise IntegrityError(f"{name}: expected {spec}, got another trial")
        files = {path: _read_file(folder, spec.id, path, sha256) for path, sha256 in stored.files.items()}
        with reading(f"{spec.id}: {PROBABILITIES}"):
            arrays: dict[str, Any] = read_npz(files.pop(PROBABILITIES))
            model = {path.removeprefix("model/"): content for path, content in files.items()}
            return TrialResult(trial=spec.id, record=stored.record, history=stored.history, files=model, **arrays)
    except (IntegrityError, SpecError) as error:
        log.warning("%s: its stored result is damaged (%s); training it again", spec.id, error)
        return None


def forget_result(folder: RunFolder, trial: str) -> None:
    """Delete the stored result of a trial, so that the next process of the run trains it again."""
    folder.delete(f"trials/{trial}/ended.json")


def store_checkpoint(folder: RunFolder, trial: str, epoch: float, content: bytes) -> None:
    """Store a checkpoint, and delete all but the newest two. `epoch`: epochs trained, as in `CheckpointTaken`."""
    sha256 = hashlib.sha256(content).hexdigest()
    folder.write(f"trials/{trial}/checkpoints/{epoch:014.5f}-{sha256}.npz", content)
    for name in _checkpoints(folder, trial)[CHECKPOINTS_PER_TRIAL:]:
        folder.delete(name)


def newest_checkpoint(folder: RunFolder, trial: str) -> bytes | None:
    """Return the newest checkpoint that is intact, or None. Damaged ones are deleted."""
    for name in _checkpoints(folder, trial):
        trained, sha256 = name.rpartition("/")[2].removesuffix(".npz").split("-")
        with contextlib.suppress(IntegrityError):
            content = folder.read(name, MAX_CHECKPOINT_BYTES) or b""
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
        log.warning("%s: the checkpoint after %s is damaged; deleted", trial, counted(float(trained), "epoch"))
        folder.delete(name)
    return None


def delete_trial_state(folder: RunFolder, trials: Iterable[str]) -> None:
    """Delete the stored results and checkpoints of all trials of a run that is complete."""

    def delete(trial: str) -> None:
        for part in ("ended", "checkpoints"):
            folder.delete_below(f"trials/{trial}/{part}")
        folder.delete(f"trials/{trial}/ended.json")

    for _ in concurrently(folder.objects, delete, [*trials]):
        pass


def _checkpoints(folder: RunFolder, trial: str) -> list[str]:
    """Return the names of a trial's checkpoints, the newest first."""
    names = folder.names(f"trials/{trial}/checkpoints")
    return sorted((name for name in names if CHECKPOINT.fullmatch(name.rpartition("/")[2])), reverse=True)


def _read_file(folder: RunFolder, trial: str, path: str, sha256: str) -> bytes:
    name = f"trials/{trial}/ended/{path}"
    content = folder.read(name, MAX_FILE_BYTES)
    if content is None or hashlib.sha256(content).hexdigest() != sha256:
        raise IntegrityError(f"{name}: expected sha256 {sha256}, got {'no file' if content is None else 'another'}")
    return content
