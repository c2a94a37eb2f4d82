"""The server answers only the browser that has opened the address with the token, and only its own page."""

import asyncio

import aiohttp
import pytest

from jobs.review.server import HEADERS, listening_socket
from mnist_lib.errors import SpecError
from tests.support.reviewing import Serve, run


def test_the_token_opens_the_page_and_is_replaced_by_a_cookie(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client, aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            async with browser.get(client.server.address) as page:
                assert (page.status, str(page.url)) == (200, f"{client.base}/")
                assert "<title>Review pictures</title>" in await page.text()
            cookie = page.history[0].headers["Set-Cookie"]
            assert cookie == f"{client.server.cookie_name}={client.token}; HttpOnly; Path=/; SameSite=Lax"
            async with browser.get(f"{client.base}/review.js") as script:
                assert (script.status, script.content_type) == (200, "text/javascript")

    run(test)


@pytest.mark.parametrize("token", ["", "x", "{token:.42}", "{token}0", "\N{LATIN SMALL LETTER E WITH ACUTE}" * 40])
def test_a_wrong_token_opens_nothing(serve_page: Serve, token: str) -> None:
    async def test() -> None:
        async with serve_page() as client:
            query = {"token": token.format(token=client.token)}
            async with client.http.get(client.base, params=query) as answer:
                assert (answer.status, answer.headers.get("Set-Cookie")) == (403, None)

    run(test)


def test_nothing_is_answered_without_the_cookie(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client, serve_page() as other:
            name = client.server.cookie_name
            for path in ("", "review.js", "about", "next", "picture/" + "0" * 32, "nothing"):
                for cookie in ("", f"{name}={'0' * 43}", f"{name}={other.token}", f"other={client.token}"):
                    assert (await client.get(path, Cookie=cookie))[0] == 403
            for path in ("decide", "undo", "skip", "draw"):
                async with client.http.post(f"{client.base}/{path}", headers={"Origin": client.base}) as answer:
                    assert answer.status == 403

    run(test)


def test_the_token_ends_with_the_server(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client:
            earlier = client.token
        async with serve_page() as client:
            assert (await client.get(f"?token={earlier}"))[0] == 403
            assert (await client.get("about", Cookie=f"{client.server.cookie_name}={earlier}"))[0] == 403

    run(test)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}", None]
)
def test_a_decision_from_another_page_is_refused(serve_page: Serve, origin: str | None) -> None:
    async def test() -> None:
        async with serve_page() as client:
            headers = {name: value for name, value in client.headers.items() if name != "Origin"}
            if origin is not None:
                headers["Origin"] = origin.format(port=client.port)
            body = {"label": "3", "image": "0" * 32, "why": "random", "seen": 0}
            url = f"{client.base}/decide"
            async with client.http.post(url, headers=headers, json=body) as answer:
                assert answer.status == 403

    run(test)


def test_every_answer_has_the_headers_that_keep_others_out(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client:
            for path in ("/", f"/?token={client.token}", "/?token=x", "/review.css", "/nothing"):
                async with client.http.get(client.base + path, headers=client.headers, allow_redirects=False) as answer:
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
            statuses = []
            for asked in ("review.js", path):
                reader, writer = await asyncio.open_connection("127.0.0.1", client.port)  # leaves the path as is
                head = "".join(f"{name}: {value}\r\n" for name, value in client.headers.items())
                where = f"GET /{asked} HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
                writer.write(f"{where}{head}Connection: close\r\n\r\n".encode())
                statuses.append(int((await reader.read()).split()[1]))
                writer.close()
            assert statuses[0] == 200
            assert statuses[1] in (400, 403, 404)

    run(test)


def test_only_loopback_is_served() -> None:
    with listening_socket(0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
        with pytest.raises(SpecError, match=r"port: expected a free port, got \d+ \(Address already in use"):
            listening_socket(sock.getsockname()[1])


def test_the_address_is_not_in_the_log(caplog: pytest.LogCaptureFixture, serve_page: Serve) -> None:
    tokens = list[str]()

    async def test() -> None:
        async with serve_page() as client, aiohttp.ClientSession() as browser, browser.get(client.server.address):
            tokens.append(client.token)

    with caplog.at_level("DEBUG"):
        run(test)
    assert tokens[0] not in caplog.text
