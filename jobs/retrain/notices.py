"""Notices of what happened to a slot: their contents, and their delivery as JSON to a web server or a command.

Notices to a web server are signed as in Standard Webhooks 1.0 (https://www.standardwebhooks.com), which libraries for
many languages verify. Delivery happens in the background, and a run never fails because of it.
"""

import asyncio
import concurrent.futures
import json
import logging
import os
import queue
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from jobs.console import exit_codes
from jobs.console.exit_codes import UsageError
from jobs.console.values import require_no_controls
from jobs.retrain.status import seconds_of, sentence_of
from mnist_lib.documents import builtins_of
from mnist_lib.retraining.journal import Entry
from mnist_lib.wording import counted

NOTICE_SCHEMA = 1
# Kind of a journal entry -> event. The events of a "done" entry depend on its results.
EVENT_OF = {"started": "recovery", "failed": "failure", "unchanged": "skip", "skipped": "skip", "replaced": "skip"}
DELIVERY_SECONDS = 60.0  # timeout of one notice with all attempts, from the first DNS request to the last answer
ANSWER_SECONDS = 10.0  # timeout of one attempt
BACK_OFF_SECONDS = 1.0  # before the second attempt; doubled for each further one
BUSY = (408, 425, 429)  # HTTP status codes below 500 that are worth a retry

log = logging.getLogger(__name__)


def events_of(entry: Entry) -> list[str]:
    """Return the keys of `options.EVENTS` that apply to an entry."""
    if entry.kind != "done":
        return [EVENT_OF[entry.kind]] if entry.kind in EVENT_OF else []
    events = ["success" if entry.exit_code == exit_codes.DONE else "failure"]
    champions = [bool(row.champion) for row in entry.results.values()]
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
        "data": builtins_of(entry.data),
        "models": builtins_of(entry.results),
        "next_command": command,
        "text": sentence_of(entry, schedule) + (f". Next: {command}" if command else ""),
    }


def next_command(entry: Entry, schedule: str, storage: str) -> str | None:
    """Return the command that the reader of a notice may want to run; None if there is nothing to do."""
    promoted = [model for model, row in entry.results.items() if row.champion]
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
    if "/" in word:
        return shutil.which(os.path.expandvars(word)) is not None
    look_up = ["sh", "-c", 'command -v -- "$1"', "sh", word]
    return subprocess.run(look_up, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


class _Loop(asyncio.SelectorEventLoop):
    """Makes DNS requests in daemon threads.

    They cannot be cancelled, and at its end the process would wait for the threads of an executor.
    """

    def run_in_executor(  # type: ignore[override]  # the types of the arguments are of no interest here
        self, executor: Any, function: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
        answer.set_running_or_notify_cancel()

        def run() -> None:
            try:
                answer.set_result(function(*arguments))
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return asyncio.wrap_future(answer, loop=self)


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
        except (ValueError, EmptyWebhookSecretError):  # ValueError: not base64, or not ASCII
            raise UsageError("MNIST_JOBS_NOTIFY_SECRET: expected whsec_ followed by base64, got other text") from None
        self._receiver, self._deadline = receiver.strip(), deadline
        check_receiver(self._receiver)
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
        self._thread.join(self._deadline + 1 if seconds is None else seconds)
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
        begin = time.monotonic()
        if not _is_url(self._receiver):
            self._run_command(body)
            return
        with asyncio.Runner(loop_factory=_Loop) as runner:
            error = runner.run(self._post_until_accepted(body))
        if error:
            host = urllib.parse.urlsplit(self._receiver).hostname  # the rest of the URL may be a secret
            seconds = time.monotonic() - begin
            log.warning("a notice to %s was abandoned after %.0f s: %s", host, seconds, error)

    async def _post_until_accepted(self, body: bytes) -> str:
        """Return the last error if the notice was not accepted before the deadline, otherwise an empty text."""
        identity, pause, error = f"msg_{uuid.uuid4().hex}", BACK_OFF_SECONDS, ""
        until = time.monotonic() + self._deadline
        try:
            async with asyncio.timeout(self._deadline):
                while True:
                    error, final = await self._post(identity, body)
                    if final or time.monotonic() + pause > until:
                        return error
                    await asyncio.sleep(pause)
                    pause *= 2
        except TimeoutError:
            return error or "TimeoutError"

    async def _post(self, identity: str, body: bytes) -> tuple[str, bool]:
        """Return the error ("" if the notice was accepted) and whether a retry is useless."""
        import aiohttp  # takes a tenth of a second, and few schedules send notices to a server
        import yarl

        now = datetime.now(UTC)
        headers = {"Content-Type": "application/json", "User-Agent": "mnist-jobs", "webhook-id": identity}
        headers["webhook-timestamp"] = str(int(now.timestamp()))
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(identity, now, body.decode())
        url = yarl.URL(self._receiver, encoded=self._receiver.isascii())  # unchanged: it may be signed
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,  # with the proxy of https_proxy
                # A redirected POST becomes a GET, which delivers nothing.
                session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                code = answer.status
        except (OSError, ValueError, aiohttp.ClientError) as error:
            return type(error).__name__, False
        return ("", True) if code < 300 else (f"HTTP {code}", code < 500 and code not in BUSY)

    def _run_command(self, body: bytes) -> None:
        """Run the command. Its output is not printed, since a shell's messages repeat the command, secrets included."""
        with subprocess.Popen(
            self._receiver,
            shell=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                process.communicate(body, timeout=self._deadline)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with what the shell has started
                log.warning("the command of --notify was ended after %.0f s", self._deadline)
                return
        if process.returncode:
            log.warning("the command of --notify ended with exit code %d", process.returncode)
