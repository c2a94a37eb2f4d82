"""Every document that is read, changed in any way: a value within its ranges, or our own error with the path in it."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.data.prepared.index import _About
from mnist_lib.documents import Moment, builtins_of, decode, encode, require_schema
from mnist_lib.errors import IntegrityError, SchemaError
from mnist_lib.objects.lease import LeaseTerm
from mnist_lib.objects.records import seal, unseal
from mnist_lib.report.summary import settings_of
from mnist_lib.results import Accuracy, EpochDone
from mnist_lib.run_documents import Summary
from mnist_lib.spec import TrialSpec
from mnist_lib.store.champions.log import Champion
from mnist_lib.store.contents import Manifest
from mnist_lib.store.history import HistoryLine, SearchDocument
from mnist_lib.store.opening import UnfinishedRun
from mnist_lib.store.publishing import Claim
from mnist_lib.store.resumption import StoredResult
from mnist_lib.store.runs import BegunRun
from mnist_lib.store.versions import Version
from tests.support.job import ROOT
from tests.support.json_documents import DEEP, HOSTILE, changed, values
from tests.support.store.fake_versions import DATASET, about, small_manifest
from tests.support.store.summaries import small_model, small_summary, small_trial, successful_trial

AT, SHA256 = "2026-11-27T03:00:00Z", "0" * 64
SPEC = asdict(TrialSpec.of("keras"))
EPOCH = EpochDone(trial="keras-s0", epoch=1, loss=0.5, train=Accuracy(9, 10), validation=Accuracy(1, 2), seconds=1.0)
FILE = {"bytes": 5, "sha256": SHA256}
MANIFEST = small_manifest(
    spec=SPEC, dataset={**DATASET, "image_shape": [28, 28, 1], "classes": ["a", "b"]}, history=[builtins_of(EPOCH)]
)
RESULT = {
    **{"status": "ok", "id": "keras-s0", "spec": SPEC, "attempts": 1, "test": {"correct": 1, "total": 2}},
    **{"test_accuracy": 0.5, "test_ci95": [0.1, 0.9], "validation": None, "best_epoch": 1},
    **{"trained_epochs": 1.0, "train_seconds": 1.0, "images_per_second": 9.5, "setup_seconds": 0.5},
    **{"replicas": 1, "devices": ["CPU:0"], "gpus": [], "node": "n", "weights_sha256": SHA256, "versions": {"a": "1"}},
}
DONE_SLOT = {"slot": AT, "run": "r", "fingerprint": None}
DONE = {"keras": {"version": 1, "champion": True, "why": "first", "test_accuracy": 0.5}}

RECORDS: dict[type, dict[str, Any]] = {
    Version: asdict(Version("keras", 1, "r", AT, {"model.keras": FILE}, about())),  # type: ignore[dict-item]
    Champion: asdict(
        Champion(
            *("keras", "mnist", 2, 1, AT, "keep", "may be chance", "r", 1, 2),
            *(0.05, 1, 1, 1, Accuracy(1, 2), {"p": 0.1, "collapse": {"class": 1}}),
        )
    ),
    Claim: asdict(Claim("r", AT)),
    LeaseTerm: asdict(LeaseTerm("process 1", "host", AT)),
    BegunRun: asdict(BegunRun("r", AT, {"trials": {"keras-s0": SPEC}, "code": "abc"}, "jobs.train")),
    UnfinishedRun: asdict(UnfinishedRun("r")),
    StoredResult: {"record": RESULT, "history": [builtins_of(EPOCH)], "files": {"probabilities.npz": SHA256}},
}  # fmt: skip
if find_spec("jobs.retrain"):  # a command that the project can do without
    from jobs.retrain.journal import Entry

    entry = Entry("done", AT, AT, "host", begun=AT, results=DONE, last_done=DONE_SLOT)  # type: ignore[arg-type]
    RECORDS[Entry] = asdict(entry)
SUMMARY = small_summary(
    models={"keras": small_model()}, trials=[small_trial(0), successful_trial(1, arguments={"hidden_units": 1})]
)
DOCUMENTS: dict[Any, Any] = {
    Manifest: MANIFEST,
    Summary: SUMMARY,
    SearchDocument: {
        "schema": 1,
        "space": {"hidden_units": [8, 16]},
        "strategy": "halving",
        "rungs": [1, 3],
        "configurations": {"0": {"hidden_units": 8}},
        "decisions": [
            {"bracket": 0, "rung": 0, "epochs": 1, "scores": {"0": {"correct": 1, "total": 2}}, "survivors": [0]}
        ],
        "unfinished": {"1": {"correct": 1, "total": 2}},
        "cut": {"brackets": 1, "over": False},
        "best": {"configuration": 0, "validation": {"correct": 1, "total": 2}},
    },
    HistoryLine: {"at": 1.5, **builtins_of(EPOCH)},
    _About: {
        "version": "1",
        "classes": ["a", "b"],
        "fingerprint": "f",
        "notices": [],
        "unreadable": [],
        "has_test_folder": False,
        "image_shape": [28, 28, 1],
        "count": 3,
        "checksum": 0,
    },
}


def outcome(read: Callable[[], Any]) -> Any:
    """Return what is read, or None for our own error in one line; any other exception is a failure."""
    try:
        return read()
    except IntegrityError as error:
        text = str(error)
    assert "\n" not in text
    assert len(text) < 2_000
    return None


def includes(written: Any, document: Any) -> bool:
    """Return whether what was written has all values of a document, and may have defaults of fields that it lacks."""
    if isinstance(document, dict):
        return all(name in written and includes(written[name], value) for name, value in document.items())
    if isinstance(document, list):
        return len(written) == len(document) and all(map(includes, written, document))
    return bool(written == document)


def as_bytes(document: Any) -> bytes:
    return json.dumps(builtins_of(document)).encode()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_is_written_as_in_records_of_earlier_versions_of_the_program(text: str) -> None:
    """`verify` compares a copy of a record with the record written again."""
    assert encode({"a": text}, indent=2) == json.dumps({"a": text}, indent=2).encode()


def test_the_name_of_a_file_that_is_not_utf_8_can_be_written_and_read() -> None:
    assert decode(encode({"a": "\udc80ü\ud800"}), dict[str, str], "x") == {"a": "?ü?"}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_is_read_as_it_was_written(kind: type) -> None:
    sealed = seal(RECORDS[kind])
    assert json.loads(encode(unseal(sealed, "x", kind))) == json.loads(as_bytes(RECORDS[kind]))


@pytest.mark.parametrize("kind", DOCUMENTS, ids=lambda kind: getattr(kind, "__name__", "HistoryLine"))
def test_a_document_is_read_as_it_was_written(kind: Any) -> None:
    found = decode(as_bytes(DOCUMENTS[kind]), kind, "x")
    assert decode(encode(found), kind, "x") == found
    assert includes(json.loads(encode(found)), DOCUMENTS[kind])


@pytest.mark.slow
@pytest.mark.fuzz
@given(st.sampled_from(list(RECORDS)).flatmap(lambda kind: st.tuples(st.just(kind), changed(RECORDS[kind]))))
def test_a_changed_record_is_decoded_or_refused_with_an_error_of_ours(change: tuple[type, Any]) -> None:
    kind, document = change
    content = seal(document) if isinstance(document, dict) and document else as_bytes(document)
    found = outcome(lambda: unseal(content, "x", kind))
    if isinstance(found, Version):
        facts = outcome(lambda: found.facts)
        assert facts is None or facts.dataset.classes
    assert found is None or seal(found)  # and can be written again


@pytest.mark.slow
@pytest.mark.fuzz
@given(st.sampled_from(list(DOCUMENTS)).flatmap(lambda kind: st.tuples(st.just(kind), changed(DOCUMENTS[kind]))))
def test_a_changed_document_is_decoded_or_refused_with_an_error_of_ours(change: tuple[Any, Any]) -> None:
    kind, document = change
    found = outcome(lambda: decode(as_bytes(document), kind, "x"))
    if kind is Manifest and found is not None:
        assert found.dataset.classes
        assert isinstance(found.spec, TrialSpec)
    if kind is Summary and found is not None:
        settings_of(found)


@pytest.mark.fuzz
@given(st.binary(max_size=30) | values().map(as_bytes), st.sampled_from([*RECORDS, *DOCUMENTS]))
def test_bytes_that_are_no_document_are_our_error(content: bytes, kind: Any) -> None:
    outcome(lambda: unseal(content, "x", kind) if kind in RECORDS else decode(content, kind, "x"))


def test_a_mismatch_is_named_with_the_file_and_the_path_in_it() -> None:
    names = ["a", "b", "c", 4]
    document = {**MANIFEST, "dataset": {**MANIFEST["dataset"], "classes": names}}
    with pytest.raises(
        IntegrityError, match=r"^keras@1: manifest.json: .*Expected `str`, .* `\$.dataset.classes\[3\]`$"
    ):
        decode(as_bytes(document), Manifest, "keras@1: manifest.json")


def test_a_document_of_a_newer_schema_is_a_schema_error() -> None:
    with pytest.raises(SchemaError, match="x: expected schema 1 or older, got 2; install a newer version"):
        require_schema(b'{"schema": 2, "anything": null}', 1, "x")
    for content in (b"{}", b'{"schema": 1}'):
        require_schema(content, 1, "x")


def test_a_deeply_nested_value_is_our_error() -> None:
    with pytest.raises(IntegrityError):
        decode(as_bytes(DEEP), Summary, "x")


@pytest.mark.parametrize("text", [value for value in HOSTILE if isinstance(value, str)])
def test_a_time_is_in_utc(text: str) -> None:
    assert decode(as_bytes(AT), Moment, "x") == AT
    with pytest.raises(IntegrityError):
        decode(as_bytes(text), Moment, "x")


def test_a_record_is_intact_only_with_its_exact_bytes() -> None:
    content = seal(RECORDS[Claim])
    assert unseal(content, "x", Claim) == Claim("r", AT)
    for other in (content.replace(b"  ", b" "), content + b"\n", as_bytes(json.loads(content)), content[:-1]):
        with pytest.raises(IntegrityError, match=r"^x: expected a record"):
            unseal(other, "x", Claim)
    assert unseal(seal({**RECORDS[Claim], "more": 1}), "x", Claim) == Claim("r", AT)  # as of an earlier release


def test_the_index_shows_a_run_with_any_valid_summary() -> None:
    summary = decode(as_bytes(SUMMARY), Summary, "x")
    index = pytest.importorskip("mnist_lib.report.index")
    page = index.index([index.Row(summary, None, settings_of(summary))], [], ["run <odd>, because"])
    assert b"<h2>Left out</h2>" in page
    assert b"run &lt;odd&gt;, because" in page


FIRST_USE_IN_THREADS = """
import sys, threading
from mnist_lib.objects.records import unseal
from mnist_lib.store.versions import Version
content, barrier = sys.stdin.buffer.read(), threading.Barrier(16)

def read():
    barrier.wait()
    unseal(content, "record", Version).facts

sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=read) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_that_read_the_first_records_of_a_process_do_not_crash_it() -> None:
    """msgspec ended four of five such processes with a segmentation fault."""
    record = seal(RECORDS[Version])
    for _ in range(3):
        subprocess.run([sys.executable, "-c", FIRST_USE_IN_THREADS], input=record, cwd=ROOT, check=True)
