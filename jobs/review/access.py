"""Who may use the page: a browser that has opened the address with the token, and no other page or program.

The address contains the token only once; a cookie then replaces it. Browsers send the cookies of 127.0.0.1 to every
port, and so to the servers of other users of this machine. So the cookie is valid only for a path that is derived from
the token.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from mnist_lib.errors import SpecError

TOKEN_VARIABLE = "MNIST_JOBS_REVIEW_TOKEN"  # with a fixed token, a page stays usable after a restart
MIN_TOKEN_LENGTH = 32

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


@dataclass(frozen=True)
class Access:
    """The secrets of one server. All follow from the token, so that they are the same after a restart."""

    token: str
    port: int

    @classmethod
    def create(cls, port: int) -> "Access":
        """Return new secrets, or those of the token in the environment. Raises SpecError if that token is invalid."""
        token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(32)
        if (
            len(token) < MIN_TOKEN_LENGTH
            or not token.isascii()
            or not token.replace("-", "").replace("_", "").isalnum()
        ):
            raise SpecError(f"{TOKEN_VARIABLE}: expected at least {MIN_TOKEN_LENGTH} letters, digits, - and _; omit it")
        return cls(token, port)

    @property
    def address(self) -> str:
        """The address that opens the page; whoever knows it can give labels."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def page(self) -> str:
        """The path of the page, with a slash at both ends."""
        return f"/{self._derived('page')[:32]}/"

    @property
    def cookie_name(self) -> str:
        return f"mnist-review-{self.port}"

    @property
    def cookie(self) -> str:
        return self._derived("cookie")

    @property
    def proof_key(self) -> str:
        """The key of `proof`, which the page gets when it is opened, and which is sent in no request."""
        return self._derived("proof")

    def proof(self, nonce: str) -> str:
        """Return what only this server and its page can compute from a random text.

        The page asks for it, without a cookie, before each request. So it sends nothing to another program that binds
        the port when this one has ended.
        """
        return hmac.new(self.proof_key.encode(), nonce.encode(), hashlib.sha256).hexdigest()

    def is_token(self, token: str) -> bool:
        return _equal(token, self.token)

    def refusal(self, method: str, headers: Mapping[str, str], cookies: Mapping[str, str]) -> str | None:
        """Return why a request to the page is refused, or None if it is not."""
        if self.is_foreign(headers):
            return "expected the address that the command printed, got another name"
        if not _equal(cookies.get(self.cookie_name, ""), self.cookie):
            return "expected the token; open the address that the command printed"
        origin = headers.get("Origin")
        if origin != f"http://{headers['Host']}" and (origin is not None or method != "GET"):
            return "expected a request of this page, got one of another page"
        is_navigation = headers.get("Sec-Fetch-Mode") == "navigate" and method == "GET"
        if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none") and not is_navigation:
            return "expected a request of this page, got one of another page"
        return None

    def is_foreign(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request names another host, as when an attacker's domain name resolves to 127.0.0.1."""
        return headers.get("Host") not in (f"127.0.0.1:{self.port}", f"localhost:{self.port}")

    def _derived(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), f"{purpose} {self.port}".encode(), hashlib.sha256).hexdigest()


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode())
