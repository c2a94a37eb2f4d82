"""What an unfinished run has reached: the trials that have ended, and checkpoints of those that have not.

    trials/<trial>/ended.json              written last; with it, the trial has ended
                   ended/...               its probabilities, and the model if it is the one to store so far
                   checkpoints/<epoch>-<sha256>.npz

Deleted when the run is complete.
"""

import hashlib
import io
import logging
import re
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from mnist_lib.archives import read_npz
from mnist_lib.catalog import NUM_CLASSES
from mnist_lib.errors import IntegrityError
from mnist_lib.results import Accuracy, EpochDone, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store.log import seal, unseal
from mnist_lib.store.runs import RunFolder

KEPT_CHECKPOINTS = 2
CHECKPOINT = re.compile(r"(\d{8})-([0-9a-f]{64})\.npz")
PROBABILITIES = "probabilities.npz"
LARGEST_PROBABILITIES = 1 << 28  # bytes
APART = ("probabilities", "files", "tensorboard")  # fields of a result that are files of their own

log = logging.getLogger(__name__)


def keep_result(folder: RunFolder, result: TrialResult, attempts: int, *, with_model: bool) -> None:
    """The trial has ended; its checkpoints are no longer needed."""
    probabilities = io.BytesIO()
    np.savez(probabilities, allow_pickle=False, probabilities=result.probabilities)
    files = {PROBABILITIES: probabilities.getvalue()}
    if with_model:
        files |= {f"model/{path}": content for path, content in result.files.items()}
    for path, content in files.items():
        folder.write(f"trials/{result.trial}/ended/{path}", content)
    row = {field.name: getattr(result, field.name) for field in fields(result) if field.name not in APART}
    row |= {name: asdict(row[name]) for name in ("spec", "test")}
    row["validation"] = asdict(result.validation) if result.validation else None
    row["history"] = [asdict(epoch) for epoch in result.history]
    row["versions"] = dict(result.versions)
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    folder.write(f"trials/{result.trial}/ended.json", seal({"result": row, "attempts": attempts, "files": hashes}))
    folder.delete_below(f"trials/{result.trial}/checkpoints")


def read_result(folder: RunFolder, spec: TrialSpec) -> tuple[TrialResult, int] | None:
    """A trial that has ended, and its attempts; None if it has not, or if what is there is damaged."""
    name = f"trials/{spec.id}/ended.json"
    content = folder.read(name)
    if content is None:
        return None
    try:
        record = unseal(content, name)
        files = {path: _read_file(folder, spec.id, path, sha256) for path, sha256 in record["files"].items()}
        result = _result(record["result"], files)
        if result.spec != spec:
            raise IntegrityError(f"{name}: expected {spec}, got {result.spec}")
        return result, int(record["attempts"])
    except (IntegrityError, KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("%s: what an earlier driver left is damaged (%s); it is trained again", spec.id, error)
        return None


def keep_checkpoint(folder: RunFolder, trial: str, epoch: int, content: bytes) -> None:
    """Written whole or not at all; the newest two are kept."""
    prefix = f"trials/{trial}/checkpoints"
    folder.write(f"{prefix}/{epoch:08d}-{hashlib.sha256(content).hexdigest()}.npz", content)
    for name in _checkpoints(folder, trial)[KEPT_CHECKPOINTS:]:
        folder.delete(name)


def newest_checkpoint(folder: RunFolder, trial: str) -> bytes | None:
    """A damaged one is put aside, and the one before it used; None if there is none."""
    for name in _checkpoints(folder, trial):
        content = folder.read(name) or b""
        last_part = name.rpartition("/")[2]
        match = CHECKPOINT.fullmatch(last_part)
        if match and hashlib.sha256(content).hexdigest() == match[2]:
            return content
        aside = f"trials/{trial}/damaged/{last_part}"
        log.warning(
            "%s: the checkpoint of epoch %s is damaged; put aside as %s", trial, last_part[:8].lstrip("0"), aside
        )
        folder.write(aside, content)
        folder.delete(name)
    return None


def forget(folder: RunFolder, trials: Iterable[str]) -> None:
    """All of it: the run is complete."""
    for trial in trials:
        for part in ("ended", "checkpoints"):
            folder.delete_below(f"trials/{trial}/{part}")
        folder.delete(f"trials/{trial}/ended.json")


def _checkpoints(folder: RunFolder, trial: str) -> list[str]:
    """The newest first."""
    names = folder.names(f"trials/{trial}/checkpoints")
    return sorted((name for name in names if CHECKPOINT.fullmatch(name.rpartition("/")[2])), reverse=True)


def _read_file(folder: RunFolder, trial: str, path: str, sha256: str) -> bytes:
    name = f"trials/{trial}/ended/{path}"
    content = folder.read(name)
    if content is None or hashlib.sha256(content).hexdigest() != sha256:
        raise IntegrityError(f"{name}: expected sha256 {sha256}")
    return content


def _result(row: dict[str, Any], files: dict[str, bytes]) -> TrialResult:
    content = files.pop(PROBABILITIES)
    arrays = read_npz(content, PROBABILITIES, {"probabilities": LARGEST_PROBABILITIES})
    probabilities = arrays["probabilities"]
    if probabilities.dtype != np.float32 or probabilities.shape != (row["test"]["total"], NUM_CLASSES):
        raise IntegrityError(f"{PROBABILITIES}: got {probabilities.dtype} {probabilities.shape}")
    return TrialResult(
        **{
            **row,
            "spec": TrialSpec(**row["spec"]),
            "test": Accuracy(**row["test"]),
            "validation": Accuracy(**row["validation"]) if row["validation"] else None,
            "history": tuple(map(EpochDone.of, row["history"])),
            "devices": tuple(row["devices"]),
            "gpus": tuple(row["gpus"]),
        },
        probabilities=probabilities,
        files={path.removeprefix("model/"): of for path, of in files.items()},
    )
