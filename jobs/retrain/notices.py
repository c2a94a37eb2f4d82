"""Tells somebody what became of a slot: JSON to a web server or a command, in the background.

Signed as Standard Webhooks 1.0 has it (https://www.standardwebhooks.com), which libraries of many languages verify.
Who cannot be reached in time is not told: a run does not fail for that.
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
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from jobs.console import exit_codes
from jobs.console.exit_codes import UsageError
from mnist_lib.clock import moment_of
from mnist_lib.retraining.journal import Entry

DEADLINE_SECONDS = 60.0  # for one notice, with all attempts
ANSWER_SECONDS = 10.0  # for one attempt
BACK_OFF_SECONDS = 1.0  # doubled each time
BUSY = (408, 425, 429)  # of HTTP: later, perhaps

log = logging.getLogger(__name__)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET of another page: nobody would have read the notice."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


_WITHOUT_REDIRECTS = urllib.request.build_opener(_NoRedirects)


class Notifier:
    """
    Args:
        receiver: a URL, or a command for the shell, which reads the notice from its standard input.
        secret: of the signature, "whsec_" and base64; None: notices are not signed.

    Raises:
        UsageError: it is no secret.
    """

    def __init__(self, receiver: str, secret: str | None, deadline: float = DEADLINE_SECONDS) -> None:
        try:
            self._signer = None if secret is None else Webhook(secret)
        except (binascii.Error, EmptyWebhookSecretError) as error:
            raise UsageError("MNIST_JOBS_NOTIFY_SECRET: expected whsec_ and base64, got something else") from error
        self._receiver, self._deadline = receiver.strip(), deadline
        if not is_url(self._receiver) and "://" in self._receiver.partition(" ")[0]:  # or a shell would print it
            raise UsageError("notify: expected a URL with http:// or https://, or a command, got a URL of another kind")
        self._notices: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._deliver_all, daemon=True)
        self._thread.start()

    def tell(self, notice: Mapping[str, Any]) -> None:
        """Returns at once."""
        self._notices.put(notice)

    def close(self, seconds: float | None = None) -> None:
        """Waits for what is still to be told, for so long, or until it is given up."""
        self._notices.put(None)
        self._thread.join(self._deadline + ANSWER_SECONDS if seconds is None else seconds)

    def _deliver_all(self) -> None:
        while (notice := self._notices.get()) is not None:
            try:
                self._deliver(json.dumps(notice).encode())
            except Exception as error:  # of whatever kind: the run is not to blame
                log.warning("a notice was not delivered: %s", type(error).__name__)

    def _deliver(self, body: bytes) -> None:
        if not is_url(self._receiver):
            self._run(body)
            return
        identity, begin, pause = f"msg_{uuid.uuid4().hex}", time.monotonic(), BACK_OFF_SECONDS
        while True:
            why_not, final = self._post(identity, body)
            if not why_not:
                return
            if final or time.monotonic() + pause - begin > self._deadline:
                host = urllib.parse.urlsplit(self._receiver).hostname  # the rest of a URL may be a secret
                log.warning("%s was not told for %.0f s (%s); given up", host, time.monotonic() - begin, why_not)
                return
            time.sleep(pause)
            pause *= 2

    def _post(self, identity: str, body: bytes) -> tuple[str, bool]:
        """Why it was not accepted, "" if it was, and whether another attempt would not be either."""
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

    def _run(self, body: bytes) -> None:
        done = subprocess.run(self._receiver, shell=True, input=body, timeout=self._deadline, stdout=subprocess.DEVNULL)
        if done.returncode:
            log.warning("the command of --notify ended with exit code %d", done.returncode)


def is_url(receiver: str) -> bool:
    return receiver.lower().startswith(("http://", "https://"))


NOTICE_SCHEMA = 1
EVENTS_OF = {
    "started": ["recovery"],
    "failed": ["failure"],
    "unchanged": ["skip"],
    "skipped": ["skip"],
    "replaced": ["skip"],
}


def events_of(entry: Entry) -> list[str]:
    """Of `retrain_options.EVENTS`."""
    if entry.kind != "done":
        return EVENTS_OF.get(entry.kind, [])
    events = ["success" if entry.exit_code == exit_codes.DONE else "failure"]
    champions = [bool(row["champion"]) for row in entry.results.values()]
    return [*events, *(["promotion"] if any(champions) else []), *(["rejection"] if not all(champions) else [])]


def document_of(entry: Entry, schedule: str, storage: str) -> dict[str, Any]:
    """For programs; `text` is for people, and is what a Slack webhook shows."""
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


def sentence_of(entry: Entry, schedule: str) -> str:
    outcome = "goes on after its process has died" if entry.kind == "started" else entry.kind
    parts = [f"{schedule}, slot {entry.slot}: {outcome}"]
    if entry.why:
        parts.append(entry.why)
    if entry.missed:
        parts.append(f"{entry.missed:,} missed before it")
    for model, row in entry.results.items():
        champion = "the champion" if row["champion"] else "not the champion"
        parts.append(f"{model}@{row['version']} has {row['test_accuracy']:.2%} and is {champion} ({row['why']})")
    return "; ".join(parts)


def next_command(entry: Entry, schedule: str, storage: str) -> str | None:
    """What somebody who is told may want to type; None where there is nothing to do."""
    if entry.kind == "failed":
        if entry.run and entry.exit_code not in (
            exit_codes.exit_code_of("E-USAGE"),
            exit_codes.exit_code_of("E-TRAINING"),
        ):
            return _python("jobs.train", "--resume", entry.run, "--storage", storage)
        return _python("jobs.retrain", "status", "--name", schedule, "--storage", storage)
    promoted = [model for model, row in entry.results.items() if row["champion"]]
    if entry.kind == "done" and promoted:
        return _python("jobs.models", "history", promoted[0], "--storage", storage)
    return None


def teller(
    tell: Callable[[Mapping[str, Any]], None], events: Sequence[str], schedule: str, storage: str
) -> Callable[[Entry], None]:
    """Of those events only."""

    def tell_entry(entry: Entry) -> None:
        if set(events_of(entry)) & set(events):
            tell(document_of(entry, schedule, storage))

    return tell_entry


def seconds_of(entry: Entry) -> float | None:
    """That its last attempt took."""
    return (moment_of(entry.at) - moment_of(entry.begun)).total_seconds() if entry.begun else None


def _python(module: str, *words: str) -> str:
    return shlex.join(["python", "-m", module, *words])
