"""The server answers only the browser that has opened the address with the token, and only its own page."""

import asyncio
import hmac
import json

import aiohttp
import pytest

from jobs.review.access import HEADERS, Access
from jobs.review.server import listening_socket
from mnist_lib.errors import SpecError
from tests.support.reviewing import TOKEN, Serve, run


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
            statuses = []
            for asked in ("review.js", path):
                reader, writer = await asyncio.open_connection("127.0.0.1", client.access.port)  # leaves the path as is
                head = "".join(f"{name}: {value}\r\n" for name, value in client.headers.items())
                where = f"GET {client.access.page}{asked} HTTP/1.1\r\nHost: 127.0.0.1:{client.access.port}\r\n"
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


def test_w14_the_server_proves_that_it_has_the_key_to_a_page_that_sends_no_secret(serve_page: Serve) -> None:
    async def test() -> None:
        async with serve_page() as client:
            nonce = "0123456789abcdef" * 2
            key = json.loads((await client.get("about"))[1])["proofKey"]
            async with client.http.get(f"{client.base}/proof/{nonce}") as answer:
                assert (answer.status, await answer.text()) == (
                    200,
                    hmac.new(key.encode(), nonce.encode(), "sha256").hexdigest(),
                )
            async with client.http.get(f"{client.base}/proof/{nonce}", headers={"Host": "evil.example"}) as answer:
                assert answer.status == 403
            assert key not in (client.access.page, client.access.cookie, TOKEN)

    run(test)
