"""A connection between clients and a server that a test can cut and restore."""

import contextlib
import socket
import threading
import urllib.parse
from collections.abc import Iterator


class Relay:
    """Passes on bytes in both directions. While it is cut, it has no connections and refuses new ones."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server, self._connected = server, threading.Event()
        self._ends: list[socket.socket] = []  # each is closed by the thread that reads from it
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connected.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._connected.clear()
        while self._ends:
            with contextlib.suppress(OSError):
                self._ends.pop().shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        self._connected.set()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # raised when the listener is closed
            while True:
                client, _ = self._listener.accept()
                if not self._connected.is_set():
                    client.close()
                    continue
                server = socket.create_connection(self._server)
                self._ends += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with source, contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relay_to(url: str) -> Iterator[Relay]:
    parts = urllib.parse.urlsplit(url)
    relay = Relay((str(parts.hostname), parts.port or 80))
    try:
        yield relay
    finally:
        relay.close()
