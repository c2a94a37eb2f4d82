"""The server of the page: its three files, the pictures, and a few requests in JSON. It listens on 127.0.0.1 only.

It answers only browsers that have opened its address, and only its own page. The address contains a token, which a
cookie then replaces. Both end with the server.
"""

import asyncio
import contextlib
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Annotated, Any, TypeVar

import numpy as np
from aiohttp import web
from msgspec import Meta
from numpy.typing import NDArray

from jobs.review.labels import Decision, DecisionError
from jobs.review.session import NotReadYetError, Session, ShownItem
from mnist_lib.data.request import ClassName
from mnist_lib.documents import Count, decode, encode
from mnist_lib.errors import ImageError, IntegrityError, MnistError, SpecError, StoreError
from mnist_lib.pictures.rejecting import NO_ANSWER, rejection
from mnist_lib.wording import printable

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_UPLOAD_BYTES = 500_000  # a drawing has a few thousand
SECONDS_TO_FINISH = 10.0  # for requests that are being answered at the end
MAX_STRANGERS = 100  # connections that have sent no request of the page
PICTURE_THREADS = 4  # that read pictures; others store decisions
NUM_ANSWERS = 3  # classes of the model that are shown
# Nothing is loaded from elsewhere, no inline code runs, and no other page may show this one in a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "mnist-jobs",
}
FILES = {"": "text/html", "review.js": "text/javascript", "review.css": "text/css"}
STATUSES: dict[type[MnistError], int] = {  # of an answer, by the error; the first that fits
    NotReadYetError: 503,
    StoreError: 503,
    IntegrityError: 400,
    DecisionError: 409,
    ImageError: 409,
    MnistError: 500,
}

Client = Annotated[str, Meta(pattern=r"\A[0-9a-f]{8,64}\Z")]


@dataclass(frozen=True)
class _NextRequest:
    client: Client


@dataclass(frozen=True, kw_only=True)
class _DecisionRequest(Decision):
    client: Client
    seen: Count
    label: ClassName = ""  # "" unless the request is a decision


class Server:
    """Answers the requests of the page.

    Args:
        sock: listens on 127.0.0.1.
    """

    def __init__(self, session: Session, sock: socket.socket) -> None:
        self._session, self._sock = session, sock
        self._token, self._port = secrets.token_urlsafe(32), sock.getsockname()[1]
        self._strangers = deque[web.RequestHandler]()  # that have sent no request of the page, the oldest first
        # Pictures may take seconds each. Decisions do not wait for them, since they have other threads.
        self._threads = ThreadPoolExecutor(PICTURE_THREADS)

    @property
    def address(self) -> str:
        """The address that opens the page; whoever knows it can give labels until the server ends."""
        return f"http://127.0.0.1:{self._port}/?token={self._token}"

    @property
    def cookie_name(self) -> str:
        """The name of the cookie. It contains the port, since browsers send a cookie of 127.0.0.1 to every port."""
        return f"mnist-review-{self._port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve until the block ends; decisions that are being stored then are still stored."""
        # A log of requests would contain the token.
        runner = web.AppRunner(self._application(), shutdown_timeout=SECONDS_TO_FINISH, access_log=None)
        await runner.setup()
        assert runner.server is not None
        connect = partial(self._connected, runner.server)
        listening = await asyncio.get_running_loop().create_server(connect, sock=self._sock)
        try:
            yield
        finally:
            listening.close()
            await runner.cleanup()

    def _connected(self, server: web.Server) -> web.RequestHandler:
        """Return a new connection, and close the oldest one of too many that have sent no request of the page.

        Every user of this machine can connect. Without a limit, idle connections would take all descriptors.
        """
        self._strangers.append(server())
        if len(self._strangers) > MAX_STRANGERS:
            self._strangers.popleft().force_close()
        return self._strangers[-1]

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_UPLOAD_BYTES, middlewares=[self._guarded])
        application.on_response_prepare.append(_add_headers)
        router = application.router
        for name in FILES:
            router.add_get(f"/{name}", self._file)
        router.add_get("/about", self._about)
        router.add_get("/picture/{image:[0-9a-f]{32}}", self._picture)
        router.add_post("/draw", self._draw)
        router.add_post("/next", partial(self._json, _NextRequest, self._next))
        router.add_post("/decide", partial(self._json, _DecisionRequest, self._decide))
        router.add_post("/undo", partial(self._json, _DecisionRequest, self._undo))
        router.add_post("/skip", partial(self._json, _DecisionRequest, self._skip))
        return application

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what does not come from the page, and turn errors into answers."""
        refusal = self._refusal(request)
        if refusal is not None:
            return _refused(403, refusal)
        if request.protocol in self._strangers:
            self._strangers.remove(request.protocol)
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _refused(error.status, error.reason)
        except MnistError as error:
            return _refused(next(status for kind, status in STATUSES.items() if isinstance(error, kind)), str(error))

    def _refusal(self, request: web.Request) -> str | None:
        """Return why a request is refused, or None if it is not."""
        host, origin = request.headers.get("Host"), request.headers.get("Origin")
        if host not in (f"127.0.0.1:{self._port}", f"localhost:{self._port}"):
            # As when the domain name of an attacker leads to 127.0.0.1.
            return "expected the address that the command printed, got another name"
        token = request.query.get("token") or request.cookies.get(self.cookie_name, "")
        if not secrets.compare_digest(token.encode("utf-8", "surrogateescape"), self._token.encode()):
            return "expected the token; open the address that the command printed"
        if origin != f"http://{host}" and (origin is not None or request.method != "GET"):
            return "expected a request of this page, got one of another page"
        return None

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """Return a file of the page. A cookie replaces the token in the address first."""
        if "token" in request.query:
            response = web.Response(status=303, headers={"Location": "/"})
            response.set_cookie(self.cookie_name, self._token, httponly=True, samesite="Lax")
            return response
        name = request.path.removeprefix("/")
        content = resources.files("jobs.review").joinpath("page", name or "review.html").read_bytes()
        return web.Response(body=content, content_type=FILES[name], charset="utf-8")

    async def _about(self, request: web.Request) -> web.StreamResponse:
        return _answer(
            {
                "classes": list(self._session.classes),
                "user": self._session.labels.user,
                "where": printable(self._session.labels.where),
                "lightOnDark": self._session.viewer.is_light_on_dark,
            }
        )

    async def _json(
        self, kind: type[T], act: Callable[[T], dict[str, Any]], request: web.Request
    ) -> web.StreamResponse:
        """Answer a request in JSON. `act` may wait for the storage, so a thread calls it."""
        if request.content_type != "application/json":
            raise IntegrityError(f"expected JSON, got {request.content_type}")
        fields = await asyncio.to_thread(act, decode(await request.read(), kind, "request"))
        return _answer({"status": self._status(), **fields})

    def _next(self, asked: _NextRequest) -> dict[str, Any]:
        return {"pictures": [*map(self._description, self._session.pictures_for(asked.client))]}

    def _decide(self, decision: _DecisionRequest) -> dict[str, Any]:
        self._session.decide(decision)
        return {}

    def _undo(self, asked: _DecisionRequest) -> dict[str, Any]:
        shown = self._session.undo(asked.client, asked.image, asked.why, asked.seen)
        return {"picture": self._description(shown)}

    def _skip(self, asked: _DecisionRequest) -> dict[str, Any]:
        self._session.skip(asked.image)
        return {}

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        item = self._session.item(request.match_info["image"])
        view = await self._in_thread(self._session.viewer.view, item, zoomed="zoomed" in request.query)
        content = view.model_input if "seen" in request.query else view.picture
        if content is None:
            raise ImageError("expected a picture that the model can take, got another")
        return web.Response(body=content, content_type="image/png")

    async def _draw(self, request: web.Request) -> web.StreamResponse:
        """Predict a drawing, a PNG."""
        examined, fields = await self._in_thread(self._session.viewer.examine, await request.read()), dict[str, Any]()
        if examined.problem:
            fields["note"] = examined.problem
        elif self._session.model.state == "ready":
            answers = await self._in_thread(self._session.model.predict, examined.image[None])
            (probabilities,), (to_classes,) = answers
            fields["note"] = rejection(examined.likeness, probabilities, to_classes) or ""
            if fields["note"] not in NO_ANSWER:
                fields["answers"] = self._answers(probabilities)
        return _answer({"status": self._status(), **fields})

    async def _in_thread(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call a function that may take seconds, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *arguments, **named))

    def _status(self) -> dict[str, Any]:
        session, model = self._session, self._session.model
        return {
            "model": {
                "name": model.name,
                "state": model.state,
                "problem": model.problem,
                "notice": printable(model.notice),
            },
            "tally": session.labels.tally(),
            "left": session.num_left(),
            "complete": session.is_complete,
            "pictures": session.num_pictures,
            "read": session.num_read,
            "unreadable": session.num_unreadable,
        }

    def _description(self, shown: ShownItem) -> dict[str, Any]:
        item = shown.item
        return {
            "image": item.image,
            "name": printable(item.name),
            "split": item.split,
            "why": shown.why,
            "label": item.label,
            "isNew": item.is_new,
            "seen": self._session.labels.count(item.image),
            "answers": [] if item.answer is None else self._answers(item.answer),
            "note": item.note,
        }

    def _answers(self, probabilities: NDArray[Any]) -> list[dict[str, Any]]:
        """Return the most probable classes."""
        classes, order = self._session.model_classes, np.argsort(-probabilities, kind="stable")[:NUM_ANSWERS].tolist()
        return [{"class": classes[at], "probability": round(float(probabilities[at]), 4)} for at in order]


def listening_socket(port: int) -> socket.socket:
    """Return a socket on 127.0.0.1. Raises SpecError if the port is in use."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise SpecError(
            f"port: expected a free port, got {port} ({error.strerror}); name another, or omit it"
        ) from error


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _answer(document: Any) -> web.Response:
    return web.Response(body=encode(document), content_type="application/json")


def _refused(status: int, reason: str) -> web.Response:
    return web.Response(status=status, text=f"{printable(reason)}\n")
