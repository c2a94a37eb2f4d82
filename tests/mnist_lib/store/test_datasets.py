"""What a storage knows of its datasets: the last run, the states of runs, and which of these gc deletes."""

import logging
from pathlib import Path

import pytest

from mnist_lib.data.corrections import UsedLabels
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.records import seal
from mnist_lib.store.datasets import (
    LastRun,
    RunData,
    begin_with,
    begun_with,
    collect_states,
    last_run,
    read_state,
    store_state,
)
from mnist_lib.store.publishing import publish
from mnist_lib.store.reference import record_last_run
from mnist_lib.store.runs import RunFolder
from tests.support.store.fake_versions import about, files
from tests.support.store.summaries import small_summary, summary_of

OLD, NEW, OTHER = ("0" * 64, "1" * 64, "2" * 64)


def record(objects: Objects, run: str, fingerprint: str, ended: str) -> None:
    dataset = {**small_summary()["dataset"], "fingerprint": fingerprint}
    record_last_run(RunFolder(objects, run), summary_of(small_summary(run=run, ended=ended, dataset=dataset)))


def test_the_last_run_is_the_one_that_ended_last(objects: Objects) -> None:
    assert last_run(objects, "mnist") is None
    record(objects, "a", OLD, "2026-11-25T03:00:00Z")
    record(objects, "b", NEW, "2026-11-26T03:00:00Z")
    record(objects, "a", OLD, "2026-11-25T03:00:00Z")  # the steps after its summary are repeated
    assert last_run(objects, "mnist") == LastRun("b", NEW, "2026-11-26T03:00:00Z", (28, 28, 1), has_test_folder=False)


def test_a_damaged_record_of_the_last_run_is_a_warning_and_the_next_run_replaces_it(
    objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    for content in (b"{", seal({"run": "../x", "fingerprint": OLD, "at": ""}), b""):
        objects.replace("datasets/mnist/last.json", content)
        with caplog.at_level(logging.WARNING):
            assert last_run(objects, "mnist") is None
        assert "what has changed in mnist is not known: datasets/mnist/last.json" in caplog.text
    record(objects, "b", NEW, "2026-11-26T03:00:00Z")
    assert last_run(objects, "mnist") is not None


def test_what_a_run_began_with_is_read_back_and_not_replaced(objects: Objects) -> None:
    folder = RunFolder(objects, "r")
    assert begun_with(folder) is None
    data = RunData(UsedLabels.of(b"line\n"), LastRun("a", OLD, "2026-11-25T03:00:00Z"))
    begin_with(folder, data)
    assert begun_with(folder) == data
    begin_with(folder, data)
    folder.write("data.json", b"{}")
    with pytest.raises(IntegrityError, match=r"runs/r/data\.json"):
        begun_with(folder)


def test_gc_deletes_the_states_that_nothing_refers_to(objects: Objects) -> None:
    for fingerprint in (OLD, NEW, OTHER):
        store_state(objects, "mnist", fingerprint, b"state")
    record(objects, "b", NEW, "2026-11-26T03:00:00Z")
    version = publish(objects, "keras", "run-1", files(100), about(OTHER, right=100))
    name = "datasets/mnist/states/{}.npz".format
    assert collect_states(objects, dry_run=True) == [name(OLD)]
    assert collect_states(objects, [version.name], dry_run=True) == [name(OLD), name(OTHER)]
    assert read_state(objects, "mnist", OLD) == b"state"
    assert collect_states(objects) == [name(OLD)]
    assert read_state(objects, "mnist", OLD) is None
    assert [read_state(objects, "mnist", each) for each in (NEW, OTHER)] == [b"state"] * 2


def test_gc_deletes_no_state_while_the_last_run_is_not_known(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    store_state(objects, "mnist", OLD, b"state")
    (tmp_path / "datasets/mnist/last.json").write_bytes(b"damaged")
    assert collect_states(objects) == []
