"""A web server that receives notices."""

import http.server
import threading
from typing import Any


class Receiver(http.server.ThreadingHTTPServer):
    """Answers with each of the given status codes in turn, then always with the last one; records the requests."""

    def __init__(self, *status_codes: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status_codes = list(status_codes)
        self.requests = list[tuple[dict[str, str], bytes]]()  # headers, body
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/canary-of-a-secret"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
        codes = self.server.status_codes
        self.send_response(code := codes.pop(0) if len(codes) > 1 else codes[0])
        if 300 <= code < 400:
            self.send_header("Location", "/login")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass
