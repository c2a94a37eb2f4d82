"""Buckets: missing buckets, timeouts, credentials, and requests that are sent twice."""

import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from mnist_lib.errors import SpecError, StoreError
from mnist_lib.objects import bucket
from mnist_lib.objects.bucket import BucketObjects
from mnist_lib.objects.storage import open_storage
from mnist_lib.store import runs
from mnist_lib.store.history import DriverConnected
from mnist_lib.store.runs import RunFolder, history_line
from tests.support.bounds import assert_at_most


def test_a_missing_bucket_is_an_error_and_not_an_empty_storage(s3: str) -> None:
    objects = open_storage("s3://no-such-bucket-here/x")
    for act in (
        lambda: objects.read("x"),
        lambda: objects.exists("x"),
        lambda: objects.create("x", b""),
        lambda: list(objects.names("x")),
    ):
        with pytest.raises(StoreError, match=r"no-such-bucket-here/x.*(there is no such bucket|NoSuchBucket)"):
            act()


@pytest.mark.long
@pytest.mark.slow
def test_p7_a_bucket_that_does_not_answer_is_abandoned_within_20_seconds(
    s3: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bucket, "SECONDS_BEFORE_WARNING", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    begin = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(StoreError) as refused:
        open_storage(s3).create("x", b"")
    assert_at_most(20, since=begin)
    assert str(refused.value).startswith(f"{s3}/x cannot be read or written (")
    assert "\n" not in str(refused.value)
    assert f"still waiting for {s3}/x" in caplog.text
    assert "canary" not in str(refused.value) + caplog.text


def test_credentials_are_read_from_an_aws_profile(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text("[nightly]\naws_access_key_id = test\naws_secret_access_key = canary\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "nightly")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    objects = open_storage(s3)
    assert objects.create("x", b"1")
    assert objects.read("x") == b"1"


@pytest.mark.long
@pytest.mark.slow
def test_missing_credentials_are_reported_in_one_line_within_20_seconds(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    begin = time.monotonic()
    with pytest.raises(StoreError) as refused:
        open_storage(s3).create("x", b"1")
    assert_at_most(20, since=begin)
    assert len(str(refused.value).splitlines()) == 1


def test_a_create_that_is_sent_twice_recognises_its_own_content() -> None:
    objects = open_storage("memory://lost-answer")
    objects.create("x", b"mine")
    assert objects.create("x", b"mine")  # the answer to the first request was lost
    assert not objects.create("x", b"another's")


def test_appended_content_is_sent_at_intervals_that_grow_with_the_time_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr("mnist_lib.objects.bucket.time.monotonic", lambda: now)
    objects = open_storage("memory://intervals")
    assert isinstance(objects, BucketObjects)
    objects.append("log", b"line\n")
    for _ in range(2):
        now += 4.0
        objects.append("log", b"line\n")
    assert objects.read("log") == b"line\n"

    def replace_slowly(name: str, content: bytes) -> None:
        nonlocal now
        BucketObjects.replace(objects, name, content)
        now += 2.0

    now = 1_011.0
    monkeypatch.setattr(objects, "replace", replace_slowly)
    objects.append("log", b"line\n")
    assert objects.read("log") == b"line\n" * 4
    now += 39.0  # sending took 2 s, so the next one is due after 40 s
    objects.append("log", b"line\n")
    assert objects.read("log") == b"line\n" * 4
    now += 2.0
    objects.append("log", b"line\n")
    assert objects.read("log") == b"line\n" * 6


def test_a_password_in_the_url_of_the_endpoint_is_not_in_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bucket, "MAX_REASON", 90)  # cuts the URL
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:canary-canary-canary-canary@127.0.0.1:1")
    with pytest.raises(StoreError, match="cannot be read or written") as refused:
        open_storage("s3://bucket").read("name")
    assert "canary" not in str(refused.value)


def test_w7_a_history_sends_no_more_when_much_has_been_written_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "SECONDS_BETWEEN_APPENDS", -1.0)  # send at once
    monkeypatch.setattr(runs, "MAX_HISTORY_BYTES", 1_000)
    sent: list[int] = []
    entries = [DriverConnected(at=float(number + 1)) for number in range(200)]
    store = MemoryStore()
    for first in range(0, 200, 50):  # each process continues what the one before it has written
        objects = BucketObjects("memory://", store)
        put = objects._put

        def noted(name: str, content: bytes, mode: Any, put: Any = put) -> Any:
            sent.append(len(content))
            return put(name, content, mode)

        monkeypatch.setattr(objects, "_put", noted)
        folder = RunFolder(objects, "r")
        for entry in entries[first : first + 50]:
            folder.append_history(entry)
        folder.flush()
        assert [*folder.history()] == entries[: first + 50]
    assert len([*objects.names("runs/r/history")]) > 4
    assert max(sent) <= 1_000 + 2 * len(history_line(entries[-1]))  # the first line has a token


@pytest.mark.parametrize("value", ["", "x", "http://", "http://[", "http://a b", "localhost:9000", "ä"])
@pytest.mark.parametrize("name", ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_p12_a_variable_that_holds_no_address_is_named_in_one_line(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(
        SpecError, match=f"^{name}: expected an address such as .*, got another text; correct or unset it$"
    ):
        open_storage("s3://bucket/x").read("x")
    assert capfd.readouterr().err == ""


def test_p12_a_panic_of_the_library_for_buckets_is_an_error_of_the_storage(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    def get(*_: object) -> None:
        raise panic("request valid: InvalidUri")

    objects = open_storage(s3)
    monkeypatch.setattr("obstore.get", get)
    with pytest.raises(StoreError, match=r"cannot be read or written \(request valid: InvalidUri\)"):
        objects.read("x")
