"""The server refuses bad requests, and loses no label among several browsers."""

import asyncio
import contextlib
import json
import socket
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from jobs.review.data import HIDDEN, Viewer
from jobs.review.model_process import ModelProcess
from jobs.review.server import MAX_UPLOAD_BYTES, NUM_ANSWERS
from jobs.review.session import Session
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.sources.scan import find_pictures
from mnist_lib.pictures.examination import png
from tests.support.bounds import assert_at_most
from tests.support.hostile_pictures import many_scans, view_slowly
from tests.support.reviewing import LAYOUT, Client, Serve, data_of, lines_of, read_all, run, serving, session_of


@pytest.fixture
def session(new: Path, viewer: Viewer, model: ModelProcess) -> Session:
    """A session over all new pictures, which are read and predicted."""
    session = session_of(viewer, model)
    read_all(session, new)
    return session


@pytest.fixture
def serve(session: Session) -> Serve:
    return lambda: serving(session)


def test_a_large_upload_is_refused(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client:
            for path in ("draw", "decide"):
                url = f"{client.base}/{path}"
                headers = {**client.headers, "Content-Type": "application/json"}
                with socket.socket():  # the server may close the connection before everything is sent
                    try:
                        async with client.http.post(url, headers=headers, data=b"0" * (MAX_UPLOAD_BYTES + 1)) as answer:
                            assert answer.status == 413
                    except aiohttp.ClientOSError:
                        pass

    run(test)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"image": "x", "why": "random", "seen": 0}',
        b'{"image": "00000000000000000000000000000000", "why": "x", "seen": 0}',
        b"\xff",
    ],
)
def test_a_malformed_request_is_refused(serve_page: Serve, body: bytes) -> None:
    async def test() -> None:
        async with serve_page() as client:
            for path in ("decide", "undo", "skip"):
                async with client.http.post(f"{client.base}/{path}", headers=client.headers, data=body) as answer:
                    assert answer.status == 400

    run(test)


@pytest.mark.long
@pytest.mark.slow
def test_a_hostile_drawing_is_an_error_and_the_next_one_is_answered(serve_page: Serve, digits: Dataset) -> None:
    drawing = png(np.kron(255 - digits.test.images[0, ..., 0], np.ones((4, 4), np.uint8))[..., None])

    async def test() -> None:
        async with serve_page() as client:
            url = f"{client.base}/draw"
            for content, status in ((b"x", 400), (drawing[:300], 400), (many_scans()[:400_000], 400), (drawing, 200)):
                async with client.http.post(url, headers=client.headers, data=content) as answer:
                    assert answer.status == status, await answer.text()
                    if status == 200:
                        found = (await answer.json())["answers"]
            assert len(found) == 3
            assert sum(each["probability"] for each in found) <= 1.001

    run(test)


def test_a_blank_drawing_has_a_note_instead_of_an_answer(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client:
            url = f"{client.base}/draw"
            blank = png(np.full((280, 280, 1), 255, np.uint8))
            async with client.http.post(url, headers=client.headers, data=blank) as answer:
                found = await answer.json()
            assert "single colour" in found["note"] or "expected" in found["note"]

    run(test)


def test_a_picture_that_is_like_no_class_of_the_model_has_that_as_its_note(session: Session) -> None:
    session.wait()
    items = [item for item in session.items.values() if item.split == "training"][:2]
    images = np.zeros((28, 28, 1), np.uint8), np.full((28, 28, 1), 9, np.uint8)
    session._predict([*zip(items, images, strict=True)])
    assert items[0].note == "none of these"
    assert items[1].note in ("", "unsure")


def test_a_decision_is_on_the_disk_before_it_is_confirmed(serve: Serve, folder: Path) -> None:
    async def test() -> None:
        async with serve() as client:
            for picture in await client.next():
                label = Path(picture["name"]).stem[-1]
                before = len(lines_of(folder))
                status, found = await client.decide(picture, label)
                assert status == 200
                assert [line.image for line in lines_of(folder)[before:]] == [picture["image"]]
                assert [path.suffix for path in folder.rglob(f"{picture['image']}.*")] == [".png"]
                assert found["status"]["tally"]["added"] == before + 1

    run(test)


def test_no_answer_of_the_model_is_sent_for_a_picture_that_measures_the_model(serve: Serve) -> None:
    async def test() -> None:
        seen = set[tuple[str, int, bool]]()
        async with serve() as client:
            while pictures := await client.next():
                status, decided = await client.decide(pictures[0], "3")
                assert (status, *decided) == (200, "status")
                _, undone = await client.decide({**pictures[0], "seen": 1}, "", "undo")
                for picture in (*pictures, undone["picture"]):
                    seen.add((picture["split"], len(picture["answers"]), picture["note"] == HIDDEN))
                    assert not {*picture} & {"probabilities", "answer", "likeness"}
                for picture in pictures:
                    await client.decide(picture, "", "skip")
        assert seen == {("training", NUM_ANSWERS, False), ("validation", 0, True), ("hold-out", 0, True)}

    run(test)


def test_wrong_labels_and_unknown_pictures_are_refused(serve: Serve, folder: Path) -> None:
    async def test() -> None:
        async with serve() as client:
            (picture, *_) = await client.next()
            assert (await client.decide(picture, "ten"))[0] == 400
            assert (await client.decide({**picture, "image": "0" * 32}, "1"))[0] == 400
            assert lines_of(folder) == []

    run(test)


def test_a_storage_that_fails_is_reported_and_the_decision_can_be_sent_again(serve: Serve, folder: Path) -> None:
    async def test() -> None:
        async with serve() as client:
            (picture, *_) = await client.next()
            (folder / "labels.jsonl").mkdir()
            status, message = await client.decide(picture, "none")
            assert (status, "cannot be read or written" in message) == (503, True)
            (folder / "labels.jsonl").rmdir()
            assert (await client.decide(picture, "none"))[0] == 200
            assert len(lines_of(folder)) == 1

    run(test)


def test_two_browsers_that_show_the_same_pictures_lose_no_label(serve: Serve, folder: Path, new: Path) -> None:
    async def review(client: Client) -> None:
        while pictures := await client.next():
            for picture in pictures:
                assert (await client.decide(picture, Path(picture["name"]).stem[-1]))[0] == 200

    async def test() -> None:
        async with serve() as client:
            await asyncio.gather(review(client), review(client))
        stored = {line.image: line.label for line in lines_of(folder)}
        assert len(stored) == len(lines_of(folder)) == len(find_pictures([new]))

    run(test)


def test_a_decision_that_is_sent_twice_at_once_is_stored_once(serve: Serve, folder: Path) -> None:
    async def test() -> None:
        async with serve() as client:
            (picture, *_) = await client.next()
            await asyncio.gather(*(client.decide(picture, "3") for _ in range(5)))
            assert len(lines_of(folder)) == 1

    run(test)


def test_undo_and_skip(serve: Serve, folder: Path) -> None:
    async def test() -> None:
        async with serve() as client:
            first, second, *_ = await client.next()
            await client.decide(first, "3")
            status, found = await client.decide({**first, "seen": 1}, "", "undo")
            assert (status, found["picture"]["image"], found["picture"]["label"]) == (200, first["image"], None)
            await client.decide(second, "", "skip")
            images = [picture["image"] for picture in await client.next()]
            assert first["image"] in images
            assert second["image"] not in images
            assert [line.label for line in lines_of(folder)] == ["3", "none"]

    run(test)


def test_reviewed_pictures_do_not_come_back_after_a_restart_but_skipped_and_undone_ones_do(
    serve: Serve, folder: Path, new: Path, model: ModelProcess
) -> None:
    async def test() -> None:
        async with serve() as client:
            reviewed, undone, skipped, *_ = await client.next()
            await client.decide(reviewed, "3")
            await client.decide(undone, "4")
            await client.decide({**undone, "seen": 1}, "", "undo")
            await client.decide(skipped, "", "skip")
        with contextlib.closing(Viewer(data_of(folder), LAYOUT)) as again:
            session = session_of(again, model)
            read_all(session, new)
        shown = {item.image for item, _ in session.order.take(1_000)}
        assert {undone["image"], skipped["image"]} <= shown
        assert len(shown) == len(find_pictures([new])) - 1
        assert reviewed["image"] not in shown

    run(test)


def test_a_picture_that_has_changed_since_is_not_added(serve: Serve, folder: Path) -> None:
    async def test() -> None:
        async with serve() as client:
            (picture, other, *_) = await client.next()
            Path(picture["name"]).write_bytes(Path(other["name"]).read_bytes())
            status, message = await client.decide(picture, "3")
            assert (status, "expected the picture that was shown, got another" in message) == (400, True)
            assert lines_of(folder) == []

    run(test)


def test_pictures_are_shown_as_they_are_and_as_the_model_sees_them(serve: Serve) -> None:
    async def test() -> None:
        async with serve() as client:
            (picture, *_) = await client.next()
            for path in ("", "?zoomed", "?seen"):
                status, content = await client.get(f"picture/{picture['image']}{path}")
                assert (status, content[:4]) == (200, b"\x89PNG")
            status, about = await client.get("about")
            assert json.loads(about)["classes"] == [*"0123456789"]

    run(test)


@pytest.mark.slow
@pytest.mark.long
def test_w14_a_decision_does_not_wait_for_slow_pictures(
    serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with serve() as client:
            pictures = await client.next()
            monkeypatch.setattr("jobs.review.data.view_file", view_slowly)
            slow = [asyncio.create_task(client.get(f"picture/{picture['image']}")) for picture in pictures]
            await asyncio.sleep(0.2)
            begin = time.monotonic()
            chosen = {"image": pictures[0]["image"], "why": pictures[0]["why"], "seen": 0, "label": "3"}
            assert (await client.post("decide", chosen))[0] == 200
            assert_at_most(1.5, since=begin)
            assert not any(task.done() for task in slow[1:])
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    run(test)
    assert [line.label for line in lines_of(folder)] == ["3"]
