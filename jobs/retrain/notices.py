"""Notices of what happened to a slot: their contents, and their delivery as JSON to a web server or a command.

Notices to a web server are signed as in Standard Webhooks 1.0 (https://www.standardwebhooks.com), which libraries for
many languages verify. Delivery happens in the background, and a run never fails because of it.
"""

import binascii
import http.client
import json
import logging
import queue
import shlex
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from jobs.console import exit_codes
from jobs.console.exit_codes import UsageError
from jobs.retrain.status import seconds_of, sentence_of
from mnist_lib.retraining.journal import Entry
from mnist_lib.wording import counted

NOTICE_SCHEMA = 1
# Kind of a journal entry -> event. The events of a "done" entry depend on its results.
EVENT_OF = {"started": "recovery", "failed": "failure", "unchanged": "skip", "skipped": "skip", "replaced": "skip"}
DELIVERY_SECONDS = 60.0  # timeout of one notice with all attempts
ANSWER_SECONDS = 10.0  # timeout of one attempt
BACK_OFF_SECONDS = 1.0  # before the second attempt; doubled for each further one
BUSY = (408, 425, 429)  # HTTP status codes below 500 that are worth a retry

log = logging.getLogger(__name__)


def events_of(entry: Entry) -> list[str]:
    """Return the keys of `options.EVENTS` that apply to an entry."""
    if entry.kind != "done":
        return [EVENT_OF[entry.kind]] if entry.kind in EVENT_OF else []
    events = ["success" if entry.exit_code == exit_codes.DONE else "failure"]
    champions = [bool(row["champion"]) for row in entry.results.values()]
    return [*events, *(["promotion"] if any(champions) else []), *(["rejection"] if not all(champions) else [])]


def notice_of(entry: Entry, schedule: str, storage: str) -> dict[str, Any]:
    """Return an entry as a JSON document. `text` is a sentence for people, which Slack's webhooks display."""
    command = next_command(entry, schedule, storage)
    return {
        "schema": NOTICE_SCHEMA,
        "events": events_of(entry),
        "schedule": schedule,
        "host": socket.gethostname(),
        "slot": entry.slot,
        "outcome": entry.kind,
        "at": entry.at,
        "seconds": seconds_of(entry),
        "run": entry.run or None,
        "attempt": entry.attempt,
        "missed": entry.missed,
        "exit_code": entry.exit_code,
        "cause": entry.why or None,
        "models": dict(entry.results),
        "next_command": command,
        "text": sentence_of(entry, schedule) + (f". Next: {command}" if command else ""),
    }


def next_command(entry: Entry, schedule: str, storage: str) -> str | None:
    """Return the command that the reader of a notice may want to run; None if there is nothing to do."""
    promoted = [model for model, row in entry.results.items() if row["champion"]]
    final = (exit_codes.exit_code_of("E-USAGE"), exit_codes.exit_code_of("E-TRAINING"))
    if entry.kind == "failed" and entry.run and entry.exit_code not in final:
        words = ["jobs.train", "--resume", entry.run]
    elif entry.kind == "failed":
        words = ["jobs.retrain", "status", "--name", schedule]
    elif entry.kind == "done" and promoted:
        words = ["jobs.models", "history", promoted[0]]
    else:
        return None
    return shlex.join(["python", "-m", *words, "--storage", storage])


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirected POST becomes a GET, which delivers nothing."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


_WITHOUT_REDIRECTS = urllib.request.build_opener(_NoRedirects)


class Notifier:
    """Delivers notices in a thread of its own. Raises UsageError for an unusable receiver or secret.

    Args:
        receiver: an http(s) URL, or a shell command, which reads the notice from its standard input.
        secret: key of the signatures, "whsec_" and base64; None to send notices unsigned.
        deadline: seconds after which a notice is abandoned.
    """

    def __init__(self, receiver: str, secret: str | None, deadline: float = DELIVERY_SECONDS) -> None:
        try:
            self._signer = None if secret is None else Webhook(secret)
        except (binascii.Error, EmptyWebhookSecretError) as error:
            raise UsageError("MNIST_JOBS_NOTIFY_SECRET: expected whsec_ followed by base64, got other text") from error
        self._receiver, self._deadline = receiver.strip(), deadline
        self._is_url = self._receiver.lower().startswith(("http://", "https://"))
        # The error message of a shell would print a URL, which can hold a secret.
        if not self._is_url and "://" in self._receiver.partition(" ")[0]:
            raise UsageError("notify: expected a URL with http:// or https://, or a command, got a URL of another kind")
        self._notices: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        self._undelivered = 0
        self._thread = threading.Thread(target=self._deliver_all, daemon=True)
        self._thread.start()

    def send(self, notice: Mapping[str, Any]) -> None:
        """Queue a notice and return at once."""
        self._undelivered += 1
        self._notices.put(notice)

    def close(self, seconds: float | None = None) -> None:
        """Wait until the queued notices are delivered or abandoned, at most for the given seconds."""
        self._notices.put(None)
        self._thread.join(self._deadline + ANSWER_SECONDS if seconds is None else seconds)
        if self._thread.is_alive():
            log.warning("%s abandoned, since the process ends", counted(self._undelivered, "notice"))

    def _deliver_all(self) -> None:
        while (notice := self._notices.get()) is not None:
            try:
                self._deliver(json.dumps(notice).encode())
            except Exception as error:  # no failure to deliver may end the run
                log.warning("a notice was not delivered: %s", type(error).__name__)
            self._undelivered -= 1

    def _deliver(self, body: bytes) -> None:
        if not self._is_url:
            self._run_command(body)
            return
        identity, begin, pause = f"msg_{uuid.uuid4().hex}", time.monotonic(), BACK_OFF_SECONDS
        while True:
            error, final = self._post(identity, body)
            if not error:
                return
            seconds = time.monotonic() - begin
            if final or seconds + pause > self._deadline:
                host = urllib.parse.urlsplit(self._receiver).hostname  # the rest of the URL may be a secret
                log.warning("a notice to %s was abandoned after %.0f s: %s", host, seconds, error)
                return
            time.sleep(pause)
            pause *= 2

    def _post(self, identity: str, body: bytes) -> tuple[str, bool]:
        """Return the error ("" if the notice was accepted) and whether a retry is useless."""
        now = datetime.now(UTC)
        headers = {"Content-Type": "application/json", "User-Agent": "mnist-jobs", "webhook-id": identity}
        headers["webhook-timestamp"] = str(int(now.timestamp()))
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(identity, now, body.decode())
        request = urllib.request.Request(self._receiver, body, headers, method="POST")
        try:
            with _WITHOUT_REDIRECTS.open(request, timeout=ANSWER_SECONDS):
                return "", True
        except urllib.error.HTTPError as error:
            return f"HTTP {error.code}", error.code < 500 and error.code not in BUSY
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__, False

    def _run_command(self, body: bytes) -> None:
        done = subprocess.run(self._receiver, shell=True, input=body, timeout=self._deadline, stdout=subprocess.DEVNULL)
        if done.returncode:
            log.warning("the command of --notify ended with exit code %d", done.returncode)
