"""A review for tests: digits as pictures, a session over them, its server in this process, and a browser's requests."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

from jobs.review.data import Additions, ReviewedData, Viewer, read_data
from jobs.review.labels import Labels
from jobs.review.model_process import ModelProcess
from jobs.review.pictures import read_files
from jobs.review.server import Server, listening_socket
from jobs.review.session import Order, Session
from mnist_lib.catalog import DIGITS
from mnist_lib.data.corrections import LabelsFile, labels_file
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources.scan import find_pictures
from mnist_lib.objects.local import LocalObjects
from mnist_lib.pictures.reading import Layout, Shape
from tests.support.job import DRIVER, ROOT, end_of
from tests.support.linear import LINEAR

LAYOUT = Layout.of("mnist-mini", Shape(28, 28, 1))
Serve = Callable[[], Any]  # returns a context that provides a `Client`


def write_digits(folder: Path, digits: Dataset, indices: range, *, sorted_by_class: bool) -> Path:
    """Write training digits as pictures: CLASS/INDEX.png, or INDEX-CLASS.png."""
    order = np.random.default_rng(0).permutation(len(digits.train))
    for index in indices:
        image, label = digits.train.images[order[index], ..., 0], digits.train.labels[order[index]]
        path = folder / (f"{label}/{index}.png" if sorted_by_class else f"{index}-{label}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def data_of(folder: Path, validation_percent: int = 0) -> ReviewedData:
    request, objects = DataRequest(dataset=f"{folder}/", data_dir=folder.parent), LocalObjects(folder.parent)
    return read_data(request, objects, validation_percent=validation_percent)


def session_of(viewer: Viewer, model: ModelProcess, user: str = "ada") -> Session:
    """Return a session over a dataset in a folder, with the labels that are stored there."""
    data = viewer.data
    labels = Labels(labels_file(data.request, LocalObjects(Path("/nonexistent"))), user)
    labels.refresh()
    return Session(labels, viewer, model, Order(DIGITS), Additions.of(data))


def read_all(session: Session, new: Path) -> None:
    """Read and predict the pictures in a folder."""
    paths = find_pictures([new])
    session.begin(read_files(session.viewer.data, paths, LAYOUT), len(paths))
    session.wait()


class Client:
    """A browser, as the server sees it."""

    def __init__(self, session: aiohttp.ClientSession, server: Server) -> None:
        self.http = session
        self.server = server
        self.base, _, self.token = server.address.partition("/?token=")
        self.port = int(self.base.rpartition(":")[2])

    @property
    def headers(self) -> dict[str, str]:
        return {"Origin": self.base, "Cookie": f"{self.server.cookie_name}={self.token}"}

    async def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        async with self.http.get(f"{self.base}/{path}", headers={**self.headers, **headers}) as answer:
            return answer.status, await answer.read()

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        url = f"{self.base}/{path}"
        async with self.http.post(url, headers=self.headers, json=body) as answer:
            return answer.status, await (answer.json() if answer.status == 200 else answer.text())

    async def next(self) -> list[dict[str, Any]]:
        status, content = await self.get("next")
        assert status == 200, content
        pictures: list[dict[str, Any]] = json.loads(content)["pictures"]
        return pictures

    async def decide(self, picture: dict[str, Any], label: str, path: str = "decide") -> tuple[int, Any]:
        return await self.post(path, {**{name: picture[name] for name in ("image", "why", "seen")}, "label": label})


@contextlib.asynccontextmanager
async def serving(session: Session) -> AsyncIterator[Client]:
    """Serve a session in this process, for a client."""
    server = Server(session, listening_socket(0))
    async with server.running(), aiohttp.ClientSession() as http:
        yield Client(http, server)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def handle_signals() -> None:
    """Let a new process handle signals, although the tests may run in the background or under nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Command:
    """`jobs.review` in a process of its own, which can be killed and started again."""

    def __init__(self, *arguments: str | Path, home: Path, port: int, prelude: str = LINEAR) -> None:
        self.arguments, self.home, self.port = [*map(str, arguments), f"--port={port}", "--no-browser"], home, port
        self._code = DRIVER.format(prelude=prelude, module="jobs.review.__main__")

    def start(self) -> str:
        """Start it, and return its address once it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._code, *self.arguments],
            cwd=ROOT,
            env={**os.environ, "HOME": str(self.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=handle_signals,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(f"http://127.0.0.1:{self.port}/?token="), self.process.communicate()
        return line.strip()

    def kill(self) -> None:
        """Kill it, unless it has not been started."""
        if not hasattr(self, "process"):
            return
        self.process.kill()
        self.process.communicate()

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        return end_of(self.process)


def free_port() -> int:
    with listening_socket(0) as sock:
        port: int = sock.getsockname()[1]
    return port


def lines_of(folder: Path) -> list[Any]:
    return LabelsFile(LocalObjects(folder)).read()
