"""The server answers its own page only, and loses no label among several browsers."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from jobs.review.access import HEADERS, Access
from jobs.review.background import Background
from jobs.review.model_process import ModelProcess
from jobs.review.server import MAX_UPLOAD_BYTES, listening_socket
from jobs.review.session import Session
from jobs.review.viewing import Viewer
from mnist_lib.data.split import Dataset
from mnist_lib.errors import SpecError
from mnist_lib.pictures.examination import png
from mnist_lib.pictures.reading import find_pictures
from tests.support.clusters import wait_until
from tests.support.hostile_pictures import many_scans
from tests.support.reviewing import LAYOUT, TOKEN, Client, data_of, lines_of, run, serving, session_of, write_digits

pytestmark = pytest.mark.slow  # loads TensorFlow in a process


@pytest.fixture
def session(folder: Path, new: Path, viewer: Viewer, model: ModelProcess) -> Session:
    """A session over all new pictures, which are read and predicted."""
    data, paths = data_of(folder), find_pictures([new])
    session = session_of(data, viewer)
    background = Background(session, data, LAYOUT, model, paths, np.random.default_rng(0))
    background.start()
    background.wait()
    return session


Serve = Callable[[], Any]


@pytest.fixture(scope="module")
def serve_page(digits: Dataset, model: ModelProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Serve a session without pictures: to read some takes a second, and most requests need none."""
    data = data_of(write_digits(tmp_path_factory.mktemp("page") / "digits", digits, range(120), sorted_by_class=True))
    viewer = Viewer(data, LAYOUT)
    session = session_of(data, viewer)
    session.is_complete = True
    wait_until(lambda: model.state == "ready", "the model is not loaded")
    yield lambda: serving(session, viewer, model)
    viewer.close()


@pytest.fixture
def serve(session: Session, viewer: Viewer, model: ModelProcess) -> Serve:
    return lambda: serving(session, viewer, model)


def test_the_token_opens_the_page_and_is_replaced_by_a_cookie(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client, aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            async with browser.get(client.access.address) as page:
                assert page.status == 200
                assert TOKEN not in str(page.url)
                assert "<title>Review pictures</title>" in await page.text()
            entered = page.history[0]
            assert entered.headers["Set-Cookie"].endswith(f"HttpOnly; Path={client.access.page}; SameSite=Lax")
            assert TOKEN not in entered.headers["Set-Cookie"]
            async with browser.get(f"{client.base}{client.access.page}review.js") as script:
                assert (script.status, script.content_type) == (200, "text/javascript")

    run(test)


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "0", "\N{LATIN SMALL LETTER E WITH ACUTE}" * 40])
def test_a_wrong_token_opens_nothing(serve_page: Serve, token: str) -> None:
    async def test() -> None:
        async with serve_page() as client, client.http.get(client.base, params={"token": token}) as answer:
            assert (answer.status, answer.headers.get("Set-Cookie")) == (403, None)

    run(test)


def test_nothing_is_answered_without_the_cookie(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client:
            for path in ("", "review.js", "about", "picture/" + "0" * 32, "nothing"):
                for cookie in ("", f"{client.access.cookie_name}={'0' * 64}", f"{client.access.cookie_name}={TOKEN}"):
                    assert (await client.get(path, Cookie=cookie))[0] == 403
            async with client.http.post(f"{client.base}{client.access.page}next", json={}) as answer:
                assert answer.status == 403

    run(test)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil:{port}"]
)
def test_a_name_that_leads_to_this_machine_is_refused(serve_page: Serve, host: str) -> None:
    async def test() -> None:
        async with serve_page() as client:
            name = host.format(port=client.access.port)
            assert (await client.get("about", Host=name))[0] == 403
            async with client.http.get(client.access.address, headers={"Host": name}, allow_redirects=False) as answer:
                assert answer.status == 403

    run(test)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}", None]
)
def test_a_decision_from_another_page_is_refused(serve_page: Serve, origin: str | None) -> None:
    async def test() -> None:
        async with serve_page() as client:
            headers = {name: value for name, value in client.headers.items() if name != "Origin"}
            if origin is not None:
                headers["Origin"] = origin.format(port=client.access.port)
            body = {"client": client.client, "label": "3", "image": "0" * 32, "why": "random", "seen": 0}
            url = f"{client.base}{client.access.page}decide"
            async with client.http.post(url, headers=headers, json=body) as answer:
                assert answer.status == 403

    run(test)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_cannot_load_anything(serve_page: Serve, site: str) -> None:
    async def test() -> None:
        async with serve_page() as client:
            assert (await client.get("review.js", **{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}))[0] == 403
            assert (await client.get("", **{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}))[0] == 200

    run(test)


def test_every_answer_has_the_headers_that_keep_others_out(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client:
            for path in (
                "/",
                client.access.page,
                f"{client.access.page}review.css",
                "/nothing",
                f"{client.access.page}x",
            ):
                async with client.http.get(client.base + path, headers=client.headers) as answer:
                    assert {name: answer.headers[name] for name in HEADERS} == HEADERS, path

    run(test)


@pytest.mark.parametrize(
    "path",
    [
        "../jobs/review/server.py",
        "..%2f..%2fpyproject.toml",
        "%2e%2e/%2e%2e/etc/passwd",
        "page/review.html",
        "server.py",
        "picture/..%2f..%2fx",
        "picture/" + "0" * 31 + "g",
        "/etc/passwd",
        "review.js/..",
        "review.js%00",
        "labels.jsonl",
    ],
)
def test_no_other_file_is_served(serve_page: Serve, path: str) -> None:
    async def test() -> None:
        async with serve_page() as client:
            reader, writer = await asyncio.open_connection("127.0.0.1", client.access.port)  # does not tidy the path
            head = "".join(f"{name}: {value}\r\n" for name, value in client.headers.items())
            request = f"GET {client.access.page}{path} HTTP/1.1\r\nHost: 127.0.0.1:{client.access.port}\r\n{head}"
            writer.write(f"{request}Connection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            assert int(answer.split()[1]) in (400, 403, 404), answer

    run(test)


def test_only_loopback_is_served() -> None:
    with listening_socket(0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
        with pytest.raises(SpecError, match=r"port: expected a free port, got \d+ \(Address already in use"):
            listening_socket(sock.getsockname()[1])


def test_a_large_upload_is_refused(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client:
            for path in ("draw", "decide"):
                url = f"{client.base}{client.access.page}{path}"
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
        b'{"client": "x"}',
        b'{"client": "01234567", "held": [{"image": "x", "why": "random"}]}',
        b"\xff",
    ],
)
def test_a_malformed_request_is_refused(serve_page: Serve, body: bytes) -> None:
    async def test() -> None:
        async with serve_page() as client:
            for path in ("next", "decide", "undo", "skip"):
                url = f"{client.base}{client.access.page}{path}"
                headers = {**client.headers, "Content-Type": "application/json"}
                async with client.http.post(url, headers=headers, data=body) as answer:
                    assert answer.status == 400
                async with client.http.post(url, headers=client.headers, data=body) as answer:
                    assert answer.status == 400  # not JSON

    run(test)


def test_a_hostile_drawing_is_an_error_and_the_next_one_is_answered(serve_page: Serve, digits: Dataset) -> None:
    drawing = png(np.kron(255 - digits.test.images[0, ..., 0], np.ones((4, 4), np.uint8))[..., None])

    async def test() -> None:
        async with serve_page() as client:
            url = f"{client.base}{client.access.page}draw"
            for content, status in ((b"x", 409), (drawing[:300], 409), (many_scans()[:400_000], 409), (drawing, 200)):
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
            url = f"{client.base}{client.access.page}draw"
            blank = png(np.full((280, 280, 1), 255, np.uint8))
            async with client.http.post(url, headers=client.headers, data=blank) as answer:
                found = await answer.json()
            assert "single colour" in found["note"] or "expected" in found["note"]

    run(test)


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


def test_wrong_labels_and_unknown_pictures_are_refused(serve: Serve, session: Session, folder: Path) -> None:
    async def test() -> None:
        async with serve() as client:
            (picture, *_) = await client.next()
            assert (await client.decide(picture, "ten"))[0] == 409
            assert (await client.decide({**picture, "image": "0" * 32}, "1"))[0] == 409
            held_out = next(item for item in session.items.values() if item.split == "hold-out")
            asked = {"image": held_out.image, "why": "uncertain", "seen": 0}
            assert (await client.decide(asked, "1")) == (
                409,
                "why: expected a picture of the hold-out only at random or disputed, got uncertain\n",
            )
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


def test_two_browsers_share_the_pictures_and_lose_no_label(serve: Serve, folder: Path, new: Path) -> None:
    async def review(client: Client, decided: dict[str, str]) -> None:
        while pictures := await client.next():
            for picture in pictures:
                label = Path(picture["name"]).stem[-1]
                assert picture["image"] not in decided
                decided[picture["image"]] = label
                assert (await client.decide(picture, label))[0] == 200

    async def test() -> None:
        decided: dict[str, str] = {}
        async with serve() as first:
            second = Client(first.http, first.access, "f" * 16)
            await asyncio.gather(review(first, decided), review(second, decided))
        assert len(decided) == len(find_pictures([new]))
        assert {line.image: line.label for line in lines_of(folder)} == decided
        assert len(lines_of(folder)) == len(decided)

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
    serve: Serve, folder: Path, new: Path, viewer: Viewer, model: ModelProcess
) -> None:
    async def test() -> None:
        async with serve() as client:
            reviewed, undone, skipped, *_ = await client.next()
            await client.decide(reviewed, "3")
            await client.decide(undone, "4")
            await client.decide({**undone, "seen": 1}, "", "undo")
            await client.decide(skipped, "", "skip")
        data, paths = data_of(folder), find_pictures([new])
        session = session_of(data, viewer)
        background = Background(session, data, LAYOUT, model, paths, np.random.default_rng(0))
        background.start()
        background.wait()
        shown = set()
        while (found := session.order.take()) is not None:
            shown.add(found[0].image)
        assert {undone["image"], skipped["image"]} <= shown
        assert len(shown) == len(paths) - 1
        assert reviewed["image"] not in shown

    run(test)


def test_a_picture_that_has_changed_since_is_not_added(serve: Serve, folder: Path) -> None:
    async def test() -> None:
        async with serve() as client:
            (picture, other, *_) = await client.next()
            Path(picture["name"]).write_bytes(Path(other["name"]).read_bytes())
            status, message = await client.decide(picture, "3")
            assert (status, "expected the picture that was shown, got another" in message) == (409, True)
            assert lines_of(folder) == []

    run(test)


def test_the_address_is_not_in_the_log_and_a_short_token_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, serve_page: Serve
) -> None:
    async def test() -> None:
        async with serve_page() as client, aiohttp.ClientSession() as browser, browser.get(client.access.address):
            pass

    with caplog.at_level("DEBUG"):
        run(test)
    assert TOKEN not in caplog.text
    monkeypatch.setenv("MNIST_JOBS_REVIEW_TOKEN", "short")
    with pytest.raises(SpecError, match="expected at least 32"):
        Access.create(1)


def test_pictures_are_shown_as_they_are_and_as_the_model_sees_them(serve: Serve) -> None:
    async def test() -> None:
        async with serve() as client:
            (picture, *_) = await client.next()
            for path in ("", "?zoomed", "?seen"):
                status, content = await client.get(f"picture/{picture['image']}{path}")
                assert (status, content[:4]) == (200, b"\x89PNG")
            status, about = await client.get("about")
            assert (json.loads(about)["classes"], json.loads(about)["user"]) == ([*"0123456789"], "ada")

    run(test)
