"""Results and checkpoints of an unfinished run: read back unchanged, or not at all."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from mnist_lib.results import Accuracy, EpochDone, TrialRecord, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store.resumption import (
    delete_trial_state,
    newest_checkpoint,
    read_result,
    store_checkpoint,
    store_result,
)
from mnist_lib.store.runs import RunFolder

SPEC = TrialSpec.of("keras", seed=3)
EPOCH = EpochDone(trial=SPEC.id, epoch=1, loss=0.5, train=Accuracy(3, 4), validation=Accuracy(1, 2), seconds=0.1)
RECORD = TrialRecord(
    id=SPEC.id,
    spec=SPEC,
    attempts=2,
    test=Accuracy(2, 3),
    test_accuracy=2 / 3,
    test_ci95=(0.2, 0.9),
    validation=Accuracy(1, 2),
    best_epoch=1,
    train_seconds=0.2,
    images_per_second=40.0,
    trained_epochs=2.0,
    setup_seconds=1.0,
    replicas=1,
    devices=("CPU:0",),
    gpus=("0",),
    node="here",
    weights_sha256="ab" * 32,
    versions={"numpy": "2.4"},
)
RESULT = TrialResult(
    trial=SPEC.id,
    record=RECORD,
    history=(EPOCH, structs.replace(EPOCH, epoch=2, validation=None)),
    probabilities=np.random.default_rng(0).random((3, 10), np.float32),
    files={"model.keras": b"model", "a/b": b"more"},
)


def with_spec(spec: TrialSpec, **fields: Any) -> TrialResult:
    """Return the result of another trial."""
    return structs.replace(RESULT, trial=spec.id, record=structs.replace(RECORD, id=spec.id, spec=spec), **fields)


def test_the_stored_result_of_a_trial_is_read_back_unchanged(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    assert read_result(folder, SPEC) is None
    store_checkpoint(folder, SPEC.id, 1, b"checkpoint")
    store_result(folder, RESULT, with_model=True)
    read = read_result(folder, SPEC)
    assert read is not None
    for name in RESULT.__struct_fields__:
        before, after = getattr(RESULT, name), getattr(read, name)
        assert np.array_equal(before, after) if name == "probabilities" else before == after, name
    assert newest_checkpoint(folder, SPEC.id) is None  # deleted when the trial ended


def test_the_predictions_of_a_fold_are_read_back(objects: Objects) -> None:
    folder, spec, of_fold = RunFolder(objects, "r"), SPEC.in_folds(2)[1], RESULT.probabilities[:2]
    result = with_spec(spec, of_fold=of_fold)
    store_result(folder, result, with_model=False)
    read = read_result(folder, spec)
    assert read is not None
    assert np.array_equal(read.of_fold, of_fold)  # type: ignore[arg-type]


@pytest.mark.slow
def test_w7_a_result_of_100_000_epochs_is_read_back(tmp_path: Path) -> None:
    spec = replace(SPEC, source_sha256="0" * 64, model="m" * 60, epochs=100_000)
    epoch = structs.replace(EPOCH, trial=spec.id, loss=1 / 3, train=Accuracy(10**7, 10**7), seconds=100 / 3)
    history = tuple(structs.replace(epoch, epoch=number) for number in range(1, spec.epochs + 1))
    folder = RunFolder(LocalObjects(tmp_path), "r")
    store_result(folder, with_spec(spec, history=history), with_model=False)
    read = read_result(folder, spec)
    assert read is not None
    assert read.history == history


def test_a_result_stored_without_its_model_has_no_files(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    store_result(folder, RESULT, with_model=False)
    read = read_result(folder, SPEC)
    assert read is not None
    assert read.files == {}


def test_a_damaged_result_is_reported_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(LocalObjects(tmp_path), "r")
    store_result(folder, RESULT, with_model=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        content = path.read_bytes()
        for damaged in (content[:-1], b"", bytes([content[0] ^ 1]) + content[1:]):
            path.write_bytes(damaged)
            caplog.clear()
            assert read_result(folder, SPEC) is None
            assert "keras-s3: its stored result is damaged" in caplog.text
        path.write_bytes(content)
    assert read_result(folder, SPEC) is not None


def test_a_result_of_another_spec_is_not_used(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    store_result(folder, RESULT, with_model=True)
    assert read_result(folder, replace(SPEC, epochs=6)) is None


def test_all_but_the_newest_two_checkpoints_are_deleted(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    for epoch in (1, 1.99, 2, 10, 10.5):
        store_checkpoint(folder, "a", epoch, b"%g" % epoch)
        assert newest_checkpoint(folder, "a") == b"%g" % epoch
    left = [name.rpartition("/")[2] for name in folder.names("trials/a/checkpoints")]
    assert left == [
        f"000000{e}-{hashlib.sha256(c).hexdigest()}.npz" for e, c in (("10.00000", b"10"), ("10.50000", b"10.5"))
    ]


@pytest.mark.parametrize("damage", [lambda _: b"", lambda c: c[:-1], lambda c: bytes([c[0] ^ 1]) + c[1:]])
def test_f10_a_damaged_checkpoint_is_deleted_and_the_one_before_it_is_used(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    folder = RunFolder(LocalObjects(tmp_path), "r")
    for epoch in (1, 1.25):
        store_checkpoint(folder, "a", epoch, b"%g of them" % epoch)
    (newest,) = tmp_path.rglob("00000001.25*.npz")
    newest.write_bytes(damage(newest.read_bytes()))  # type: ignore[operator]
    assert newest_checkpoint(folder, "a") == b"1 of them"
    assert "a: the checkpoint after 1.25 epochs is damaged; deleted" in caplog.text
    assert [*tmp_path.rglob("00000001.25*.npz")] == []
    (older,) = tmp_path.rglob("00000001.00*.npz")
    older.write_bytes(b"")
    assert newest_checkpoint(folder, "a") is None


def test_deleting_the_state_of_trials_leaves_their_summaries(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    store_result(folder, RESULT, with_model=True)
    store_checkpoint(folder, "b", 1, b"checkpoint")
    folder.write_json("trials/b/result.json", {})
    delete_trial_state(folder, [SPEC.id, "b"])
    assert folder.names("trials") == ["trials/b/result.json"]
