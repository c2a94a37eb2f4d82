"""The server of the page: its three files, the pictures, and a few requests in JSON. It listens on 127.0.0.1 only.

It answers only browsers that have opened its address, and stores only what its own page sends. The address contains a
token, which a cookie then replaces. Both end with the server.
"""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any, TypeVar

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from jobs.review.labels import Decision
from jobs.review.session import ChosenItem, NotReadYetError, Session
from mnist_lib.data.request import ClassName
from mnist_lib.documents import decode, encode
from mnist_lib.errors import ImageError, MnistError, SpecError, StoreError
from mnist_lib.pictures.rejecting import NO_ANSWER, rejection
from mnist_lib.wording import printable

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_UPLOAD_BYTES = 500_000  # a drawing has a few thousand
SECONDS_TO_FINISH = 10.0  # for requests that are being answered at the end
PICTURE_THREADS = 4  # that read pictures; others store decisions
NUM_ANSWERS = 3  # classes of the model that are shown
# No inline code runs, pages of other servers show nothing of this one, and an update of the page is seen at once.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
FILES = {"": "text/html", "review.js": "text/javascript", "review.css": "text/css"}


@dataclass(frozen=True, kw_only=True)
class _PageRequest(Decision):
    label: ClassName = ""  # "" unless the request is a decision


class Server:
    """Answers the requests of the page.

    Args:
        sock: listens on 127.0.0.1.
    """

    def __init__(self, session: Session, sock: socket.socket) -> None:
        self._session = session
        self._sock = sock
        self._token = secrets.token_urlsafe(32)
        self._port = sock.getsockname()[1]
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
        """Serve until the block ends. Decisions that are being stored at that moment are still stored."""
        # A log of requests would contain the token.
        runner = web.AppRunner(self._application(), shutdown_timeout=SECONDS_TO_FINISH, access_log=None)
        await runner.setup()
        await web.SockSite(runner, self._sock).start()
        try:
            yield
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_UPLOAD_BYTES, middlewares=[self._guarded])
        application.on_response_prepare.append(_add_headers)
        router = application.router
        for name in FILES:
            router.add_get(f"/{name}", self._file)
        router.add_get("/about", self._about)
        router.add_get("/next", self._next)
        router.add_get("/picture/{image:[0-9a-f]{32}}", self._picture)
        router.add_post("/draw", self._draw)
        session = self._session
        router.add_post("/decide", partial(self._act, session.decide))
        router.add_post("/undo", partial(self._act, lambda asked: session.undo(asked.image, asked.why, asked.seen)))
        router.add_post("/skip", partial(self._act, lambda asked: session.skip(asked.image)))
        return application

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what does not come from the page, and turn errors into answers."""
        token = request.query.get("token") or request.cookies.get(self.cookie_name, "")
        if not secrets.compare_digest(token.encode("utf-8", "surrogateescape"), self._token.encode()):
            raise web.HTTPForbidden(text="expected the token; open the address that the command printed")
        if request.method != "GET" and request.headers.get("Origin") != f"http://{request.host}":
            raise web.HTTPForbidden(text="expected a request of this page, got one of another page")
        try:
            return await handler(request)
        except MnistError as error:
            # The page sends a request again after 503.
            status = 503 if isinstance(error, (NotReadYetError, StoreError)) else 400
            return web.Response(status=status, text=printable(str(error)))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """Return a file of the page. An address with the token is redirected to one without it, and sets a cookie."""
        if "token" in request.query:
            response = web.Response(status=303, headers={"Location": "/"})
            response.set_cookie(self.cookie_name, self._token, httponly=True, samesite="Lax")
            return response
        name = request.path.removeprefix("/")
        content = resources.files("jobs.review").joinpath("page", name or "review.html").read_bytes()
        return web.Response(body=content, content_type=FILES[name], charset="utf-8")

    async def _about(self, request: web.Request) -> web.StreamResponse:
        session = self._session
        return _answer({"classes": list(session.classes), "lightOnDark": session.viewer.is_light_on_dark})

    async def _next(self, request: web.Request) -> web.StreamResponse:
        return self._with_status(pictures=[*map(self._description, self._session.pictures())])

    async def _act(self, act: Callable[[_PageRequest], ChosenItem | None], request: web.Request) -> web.StreamResponse:
        """Answer a request about a picture. `act` may wait for the storage, so a thread calls it."""
        chosen = await asyncio.to_thread(act, decode(await request.read(), _PageRequest, "request"))
        return self._with_status(**({"picture": self._description(chosen)} if chosen else {}))

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        item = self._session.item(request.match_info["image"])
        view = await self._in_thread(self._session.viewer.view, item, zoomed="zoomed" in request.query)
        content = view.model_input if "seen" in request.query else view.picture
        if content is None:
            raise ImageError("expected a picture that the model can take, got another")
        return web.Response(body=content, content_type="image/png")

    async def _draw(self, request: web.Request) -> web.StreamResponse:
        """Predict a drawing, a PNG."""
        examined = await self._in_thread(self._session.viewer.examine, await request.read())
        fields = dict[str, Any]()
        if examined.problem:
            fields["note"] = examined.problem
        elif self._session.model.state == "ready":
            answers = await self._in_thread(self._session.model.predict, examined.image[None])
            (probabilities,), (to_classes,) = answers
            fields["note"] = rejection(examined.likeness, probabilities, to_classes) or ""
            if fields["note"] not in NO_ANSWER:
                fields["answers"] = self._answers(probabilities)
        return self._with_status(**fields)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call a function that may take seconds, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *arguments, **named))

    def _with_status(self, **fields: Any) -> web.Response:
        """Return an answer that also says how far the review is."""
        session = self._session
        model = session.model
        status = {
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
        return _answer({"status": status, **fields})

    def _description(self, chosen: ChosenItem) -> dict[str, Any]:
        item = chosen.item
        return {
            "image": item.image,
            "name": printable(item.name),
            "split": item.split,
            "why": chosen.why,
            "label": item.label,
            "isNew": item.is_new,
            "seen": self._session.labels.count(item.image),
            "answers": [] if item.answer is None else self._answers(item.answer),
            "note": item.note,
        }

    def _answers(self, probabilities: NDArray[Any]) -> list[dict[str, Any]]:
        """Return the most probable classes."""
        classes = self._session.order.model_classes
        order = np.argsort(-probabilities, kind="stable")[:NUM_ANSWERS].tolist()
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
