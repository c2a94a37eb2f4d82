"""What every kind of storage has to do, and what it refuses."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.errors import SpecError, StoreError
from mnist_lib.store import bucket
from mnist_lib.store.bucket import BucketObjects
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.objects import Objects, check_name
from mnist_lib.store.storage import check_storage, open_storage


def test_what_is_written_is_read_and_what_is_not_there_is_none(objects: Objects) -> None:
    assert objects.read("a/x") is None
    assert not objects.exists("a/x")
    assert objects.create("a/x", b"first")
    assert not objects.create("a/x", b"second")
    assert objects.read("a/x") == b"first"
    objects.replace("a/x", b"third")
    objects.replace("a/empty", b"")
    assert (objects.read("a/x"), objects.read("a/empty")) == (b"third", b"")
    assert objects.exists("a/empty")
    objects.delete("a/x")
    objects.delete("a/x")
    assert objects.read("a/x") is None


def test_names_are_those_below_a_folder_in_order(objects: Objects) -> None:
    for name in ("a/2", "a/1", "a/b/3", "ab/4"):
        objects.create(name, b"")
    assert list(objects.names("a")) == ["a/1", "a/2", "a/b/3"]
    assert list(objects.names("none")) == []
    objects.delete_below("a")
    objects.delete_below("none")
    assert list(objects.names("")) == ["ab/4"]


def test_what_is_appended_comes_at_the_end(storage: str, objects: Objects) -> None:
    for line in (b"1\n", b"2\n"):
        objects.append("log", line)
    objects.flush()
    later = open_storage(storage)
    later.append("log", b"3\n")
    later.flush()
    assert objects.read("log") == b"1\n2\n3\n"


def test_of_those_who_create_at_once_exactly_one_is_told_that_it_did(objects: Objects) -> None:
    for key in range(10):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, key=key: objects.create(f"a/{key}", bytes([n])), range(8)))
        assert sum(won) == 1
        assert objects.read(f"a/{key}") == bytes([won.index(True)])


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a//b", ".", "", "a\0b", "-x", "a/-x", "\uff41", "x" * 300])
def test_names_that_could_lead_elsewhere_are_refused(objects: Objects, name: str) -> None:
    for act in (objects.read, objects.exists, objects.delete, lambda name: objects.create(name, b"")):
        with pytest.raises(SpecError, match="name of an object: expected"):
            act(name)


@given(st.text() | st.lists(st.sampled_from(["..", "a", ".", "/", "", "\0", "~", "-", "\\"])).map("/".join))
def test_no_name_leads_out_of_the_root(name: str) -> None:
    root = Path("/nowhere/root")
    try:
        check_name(name)
    except SpecError:
        return
    path = os.path.normpath(LocalObjects(root).where(name))
    assert Path(path).is_relative_to(root)
    assert path != str(root)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("ftp://host/x", "expected a folder, or a URL with s3://, gs://, az://, got ftp://"),
        ("s3://key:canary@bucket/x", "expected a URL without credentials"),
        ("s3://bucket/x?secret=canary", "expected a URL without credentials"),
        ("s3:///x", "expected a bucket, as in s3://bucket/folder"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_and_its_password_not_repeated(storage: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as refused:
        check_storage(storage)
    assert "canary" not in str(refused.value)


def test_a_path_may_be_a_url(tmp_path: Path) -> None:
    open_storage(f"file://{tmp_path}").create("x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_a_bucket_that_is_not_there_is_told_as_such_and_not_taken_for_an_empty_one(s3: str) -> None:
    objects = open_storage("s3://no-such-bucket-here/x")
    for act in (
        lambda: objects.read("x"),
        lambda: objects.exists("x"),
        lambda: objects.create("x", b""),
        lambda: list(objects.names("x")),
    ):
        with pytest.raises(StoreError, match=r"no-such-bucket-here/x.*(there is no such bucket|NoSuchBucket)"):
            act()


@pytest.mark.slow
def test_a_bucket_that_does_not_answer_is_given_up_in_seconds_in_one_line_without_a_secret(
    s3: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bucket, "SECONDS_UNTIL_TOLD", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    begin = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(StoreError) as refused:
        open_storage(s3).create("x", b"")
    assert time.monotonic() - begin < 20
    assert str(refused.value).startswith(f"{s3}/x cannot be read or written (")
    assert "\n" not in str(refused.value)
    assert f"still waiting for {s3}/x" in caplog.text
    assert "canary" not in str(refused.value) + caplog.text


def test_credentials_may_be_those_of_a_profile(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text("[nightly]\naws_access_key_id = test\naws_secret_access_key = canary\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "nightly")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    objects = open_storage(s3)
    assert objects.create("x", b"1")
    assert objects.read("x") == b"1"


@pytest.mark.slow
def test_without_credentials_it_is_told_what_is_missing_in_seconds(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    begin = time.monotonic()
    with pytest.raises(StoreError) as refused:
        open_storage(s3).create("x", b"1")
    assert time.monotonic() - begin < 20
    assert len(str(refused.value).splitlines()) == 1


def test_a_create_whose_answer_was_lost_is_known_by_its_content() -> None:
    objects = open_storage("memory://lost-answer")
    objects.create("x", b"mine")
    assert objects.create("x", b"mine")  # the request was sent twice
    assert not objects.create("x", b"another's")


def test_appending_sends_the_object_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "SECONDS_BETWEEN_APPENDS", 3600)
    objects = open_storage("memory://intervals")
    assert isinstance(objects, BucketObjects)
    objects.flush()
    for _ in range(3):
        objects.append("log", b"line\n")
    assert objects.read("log") is None
    monkeypatch.setattr(bucket, "SECONDS_BETWEEN_APPENDS", 0)
    objects.append("log", b"line\n")
    assert objects.read("log") == b"line\n" * 4


@pytest.mark.slow
def test_a_local_storage_does_not_load_what_buckets_need(tmp_path: Path) -> None:
    code = (
        "import json, sys; from mnist_lib.store.storage import open_storage;"
        f"open_storage({str(tmp_path)!r}).create('x', b'');"
        "print(json.dumps([name for name in sys.modules if 'obstore' in name]))"
    )
    assert json.loads(subprocess.check_output([sys.executable, "-c", code])) == []
