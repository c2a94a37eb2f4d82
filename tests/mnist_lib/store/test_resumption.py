"""What an unfinished run has reached, read back as it was, or not at all."""

import hashlib
import logging
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mnist_lib.results import Accuracy, EpochDone, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.objects import Objects
from mnist_lib.store.resumption import forget, keep_checkpoint, keep_result, newest_checkpoint, read_result
from mnist_lib.store.runs import RunFolder

SPEC = TrialSpec.of("keras", seed=3)
EPOCH = EpochDone(trial=SPEC.id, epoch=1, loss=0.5, train=Accuracy(3, 4), validation=Accuracy(1, 2), seconds=0.1)
RESULT = TrialResult(
    trial=SPEC.id,
    spec=SPEC,
    test=Accuracy(2, 3),
    validation=Accuracy(1, 2),
    best_epoch=1,
    history=(EPOCH, replace(EPOCH, epoch=2, validation=None)),
    train_seconds=0.2,
    images_per_second=40.0,
    setup_seconds=1.0,
    replicas=1,
    devices=("CPU:0",),
    gpus=("0",),
    node="here",
    weights_sha256="ab",
    versions={"numpy": "2.4"},
    probabilities=np.random.default_rng(0).random((3, 10), np.float32),
    files={"model.keras": b"model", "a/b": b"more"},
)


def test_a_trial_that_has_ended_is_read_back_as_it_was(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    assert read_result(folder, SPEC) is None
    keep_checkpoint(folder, SPEC.id, 1, b"checkpoint")
    keep_result(folder, RESULT, 2, with_model=True)
    read, attempts = read_result(folder, SPEC) or (None, 0)
    assert read is not None
    assert attempts == 2
    for field in fields(RESULT):
        before, after = getattr(RESULT, field.name), getattr(read, field.name)
        assert np.array_equal(before, after) if field.name == "probabilities" else before == after, field.name
    assert newest_checkpoint(folder, SPEC.id) is None  # no longer needed


def test_the_model_of_a_trial_that_is_not_to_be_stored_is_left_out(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    keep_result(folder, RESULT, 1, with_model=False)
    read, _ = read_result(folder, SPEC) or (None, 0)
    assert read is not None
    assert read.files == {}


def test_whatever_byte_of_it_is_damaged_the_trial_is_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(LocalObjects(tmp_path), "r")
    keep_result(folder, RESULT, 1, with_model=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        content = path.read_bytes()
        for damaged in (content[:-1], b"", bytes([content[0] ^ 1]) + content[1:]):
            path.write_bytes(damaged)
            caplog.clear()
            assert read_result(folder, SPEC) is None
            assert "keras-s3: what an earlier driver left is damaged" in caplog.text
        path.write_bytes(content)
    assert read_result(folder, SPEC) is not None


def test_a_result_of_another_spec_is_not_taken(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    keep_result(folder, RESULT, 1, with_model=True)
    assert read_result(folder, replace(SPEC, epochs=6)) is None


def test_the_newest_two_checkpoints_are_kept(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    for epoch in (1, 2, 10):
        keep_checkpoint(folder, "a", epoch, b"%d" % epoch)
        assert newest_checkpoint(folder, "a") == b"%d" % epoch
    kept = [name.rpartition("/")[2] for name in folder.names("trials/a/checkpoints")]
    assert kept == [f"{epoch:08d}-{hashlib.sha256(b'%d' % epoch).hexdigest()}.npz" for epoch in (2, 10)]


@pytest.mark.parametrize("damage", [lambda _: b"", lambda c: c[:-1], lambda c: bytes([c[0] ^ 1]) + c[1:]])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_used(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    folder = RunFolder(LocalObjects(tmp_path), "r")
    for epoch in (1, 2):
        keep_checkpoint(folder, "a", epoch, b"%d of them" % epoch)
    (newest,) = tmp_path.rglob("00000002-*.npz")
    newest.write_bytes(damage(newest.read_bytes()))  # type: ignore[operator]
    assert newest_checkpoint(folder, "a") == b"1 of them"
    assert "a: the checkpoint of epoch 2 is damaged; put aside as trials/a/damaged/00000002-" in caplog.text
    assert [path.parent.name for path in tmp_path.rglob("00000002-*.npz")] == ["damaged"]
    (older,) = tmp_path.rglob("00000001-*.npz")
    older.write_bytes(b"")
    assert newest_checkpoint(folder, "a") is None


def test_when_the_run_is_complete_nothing_of_it_is_kept(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    keep_result(folder, RESULT, 1, with_model=True)
    keep_checkpoint(folder, "b", 1, b"checkpoint")
    folder.write_json("trials/b/result.json", {})
    forget(folder, [SPEC.id, "b"])
    assert folder.names("trials") == ["trials/b/result.json"]
