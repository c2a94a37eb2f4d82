"""Delivery of notices as JSON, to a web server or a command, in a thread.

Notices to a web server are signed as in Standard Webhooks 1.0 (https://www.standardwebhooks.com), which libraries for
many languages verify. A run never waits for a notice, and never fails because of one. A receiver that never answers
delays only the notices that follow.
"""

import contextlib
import json
import logging
import os
import queue
import re
import shlex
import signal
import subprocess
import threading
import time
import urllib.parse
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from jobs.console.exit_codes import UsageError
from jobs.console.values import require_no_controls
from mnist_lib.wording import counted

RECEIVER, SECRET = "MNIST_JOBS_NOTIFY", "MNIST_JOBS_NOTIFY_SECRET"  # variables of the environment
DELIVERY_SECONDS = 60.0  # timeout of one notice with all attempts
ANSWER_SECONDS = 10.0  # timeout of one attempt: to connect, and between two parts of the answer
BACK_OFF_SECONDS = 1.0  # before the second attempt; doubled for each further one
BUSY = (408, 425, 429)  # HTTP status codes below 500 that are worth a retry

log = logging.getLogger(__name__)


def check_receiver(receiver: str) -> None:
    """Raise UsageError unless the receiver is an http(s) URL or begins with a command of this machine.

    The error does not contain the receiver, which can be a secret. For the same reason a mistyped address must not
    reach the shell, which would print it.
    """
    try:
        require_no_controls(receiver)
        if _is_url(receiver):
            parts = urllib.parse.urlsplit(receiver)
            if parts.hostname and parts.port != 0 and " " not in receiver:  # port: ValueError if it is no number
                return
        elif _begins_with_command(receiver):
            return
    except ValueError:  # also of urlsplit and shlex
        pass
    expected = "expected a URL with http:// or https://, or a command"
    raise UsageError(f"notify: {expected}, got neither a valid URL nor a command that exists here")


def _is_url(receiver: str) -> bool:
    return receiver.lower().startswith(("http://", "https://"))


def _begins_with_command(receiver: str) -> bool:
    """Return whether the shell knows the first word, or only the shell can tell, as for ~/notify or $(which notify)."""
    words = shlex.shlex(receiver, posix=True, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, ""
    word = next((word for word in words if not re.match(r"\w+=", word)), "")
    if re.match("[$`()<>~]", word):
        return True
    look_up = ["sh", "-c", 'command -v -- "$1"', "sh", word]
    return subprocess.run(look_up, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


class Notifier:
    """Delivers notices in the order in which they are sent. Raises UsageError for an unusable receiver or secret.

    Args:
        receiver: an http(s) URL, or a shell command, which reads the notice from its standard input.
        secret: key of the signatures, "whsec_" and base64; None to send notices unsigned.
        deadline: seconds after which a notice is abandoned.
    """

    def __init__(self, receiver: str, secret: str | None, deadline: float = DELIVERY_SECONDS) -> None:
        try:
            if secret is not None:
                Webhook(secret)
        except (ValueError, EmptyWebhookSecretError):  # ValueError: not base64, or not ASCII
            raise UsageError(f"{SECRET}: expected whsec_ followed by base64, got other text") from None
        self._receiver, self._secret, self._deadline = receiver.strip(), secret, deadline
        check_receiver(self._receiver)
        self._notices: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        self._undelivered = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._deliver_all, daemon=True)
        self._thread.start()

    def send(self, notice: Mapping[str, Any]) -> None:
        """Queue a notice and return at once."""
        self._undelivered += 1
        self._notices.put(notice)

    def close(self, seconds: float | None = None) -> None:
        """Wait until the queued notices are delivered or abandoned, at most for the given seconds."""
        self._notices.put(None)
        self._thread.join(self._deadline + 1 if seconds is None else seconds)
        if self._thread.is_alive():
            log.warning("%s abandoned, since the process ends", counted(self._undelivered, "notice"))
            if self._child is not None:
                _kill(self._child)

    def _deliver_all(self) -> None:
        while (notice := self._notices.get()) is not None:
            try:
                body = json.dumps(notice).encode() + b"\n"  # so that a command can read it as a line
                if _is_url(self._receiver):
                    self._post(body)
                else:
                    self._run_command(body)
            except Exception as error:  # no failure to deliver may end the run
                log.warning("a notice was not delivered: %s", type(error).__name__)
            self._undelivered -= 1

    def _post(self, body: bytes) -> None:
        """Post the notice until it is accepted or refused, or the deadline passes."""
        end, pause = time.monotonic() + self._deadline, BACK_OFF_SECONDS
        identity = f"msg_{uuid.uuid4().hex}"  # the receiver can ignore a repeated one
        while True:
            answer = self._post_once(identity, body, min(end - time.monotonic(), ANSWER_SECONDS))
            status = answer if isinstance(answer, int) else 500
            if status < 300:
                return
            if (status < 500 and status not in BUSY) or time.monotonic() + pause > end:
                host = urllib.parse.urlsplit(self._receiver).hostname  # the rest of the URL may be a secret
                seconds = self._deadline - (end - time.monotonic())
                error = f"HTTP {answer}" if isinstance(answer, int) else answer
                log.warning("a notice to %s was abandoned after %.0f s: %s", host, seconds, error)
                return
            time.sleep(pause)
            pause *= 2

    def _post_once(self, identity: str, body: bytes, seconds: float) -> int | str:
        """Return the HTTP status of the answer, or the name of an error."""
        import requests  # takes a tenth of a second, and only this thread needs it

        now = datetime.now(UTC)
        headers = {"Content-Type": "application/json", "User-Agent": "mnist-jobs", "webhook-id": identity}
        headers["webhook-timestamp"] = str(int(now.timestamp()))
        if self._secret is not None:
            headers["webhook-signature"] = Webhook(self._secret).sign(identity, now, body.decode())
        # A redirected POST becomes a GET, which delivers nothing. The body of the answer may never end.
        settings: dict[str, Any] = {"timeout": seconds, "allow_redirects": False, "stream": True}
        try:
            with requests.post(self._receiver, data=body, headers=headers, **settings) as answer:
                return int(answer.status_code)
        except (OSError, ValueError) as error:  # all errors of requests are OSErrors
            return type(error).__name__

    def _run_command(self, body: bytes) -> None:
        """Run the command. Its output is not printed, since a shell's messages repeat the command, secrets included."""
        with subprocess.Popen(
            ["sh", "-c", self._receiver],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as self._child:
            try:
                self._child.communicate(body, timeout=self._deadline)
            except subprocess.TimeoutExpired:
                _kill(self._child)
                log.warning("the command of --notify was ended after %.0f s", self._deadline)
                return
        if self._child.returncode:
            log.warning("the command of --notify ended with exit code %d", self._child.returncode)


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """Kill a child with what it has started, such as the commands of a shell."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
