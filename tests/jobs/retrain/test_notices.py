"""Notices are delivered to a real web server or a command, signed, retried and abandoned."""

import contextlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from jobs.console.exit_codes import UsageError
from jobs.retrain.notices import Notifier, check_receiver
from tests.support.bounds import assert_at_most, wait_until
from tests.support.receiver import Receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # example in the Standard Webhooks specification
NOTICE = {"schedule": "nightly", "outcome": "done"}


@pytest.fixture
def start_receiver() -> Iterator[Callable[..., Receiver]]:
    started: list[Receiver] = []

    def start(*status_codes: int) -> Receiver:
        started.append(Receiver(*status_codes))
        return started[-1]

    yield start
    for receiver in started:
        receiver.close()


def test_the_standardwebhooks_library_verifies_the_signature_of_a_notice(
    start_receiver: Callable[..., Receiver],
) -> None:
    receiver = start_receiver(204)
    notifier = Notifier(receiver.url, SECRET)
    notifier.send(NOTICE)
    notifier.close()
    ((headers, body),) = receiver.requests
    assert Webhook(SECRET).verify(body, headers) == NOTICE
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)


@pytest.mark.slow
def test_after_a_500_a_notice_is_sent_again_with_the_same_id(start_receiver: Callable[..., Receiver]) -> None:
    receiver = start_receiver(500, 503, 200)
    notifier = Notifier(receiver.url, SECRET)
    notifier.send(NOTICE)
    notifier.close()
    assert len(receiver.requests) == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1  # lets the receiver ignore repetitions


@pytest.mark.slow
@pytest.mark.long
def test_a_notice_is_abandoned_after_its_deadline_and_the_next_one_is_sent(
    start_receiver: Callable[..., Receiver], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    receiver = start_receiver(500)
    notifier = Notifier(receiver.url, None, deadline=4)
    begin = time.monotonic()
    notifier.send(NOTICE)
    assert_at_most(0.1, since=begin)  # a run does not wait for its notices
    notifier.send(NOTICE)
    notifier.close(20)
    assert_at_most(15, since=begin)
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 2
    assert re.search(r"a notice to 127\.0\.0\.1 was abandoned after \d s: HTTP 500", caplog.text)
    assert "canary" not in caplog.text


def test_a_redirect_does_not_count_as_delivered(
    start_receiver: Callable[..., Receiver], caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(start_receiver(302).url, None)
    notifier.send(NOTICE)
    notifier.close()
    assert "HTTP 302" in caplog.text


@pytest.mark.parametrize("receiver", ["ftp://canary", " htps://canary"])
def test_a_url_of_another_scheme_is_refused_and_not_run_as_a_command(receiver: str) -> None:
    with pytest.raises(UsageError, match="notify: expected a URL with http:// or https://, or a command") as refused:
        Notifier(receiver, None)
    assert "canary" not in str(refused.value)


def test_a_url_with_whitespace_around_it_or_in_capitals_is_accepted(start_receiver: Callable[..., Receiver]) -> None:
    receiver = start_receiver(200)
    notifier = Notifier(" " + receiver.url.replace("http", "HTTP", 1) + "\n", None)
    notifier.send(NOTICE)
    notifier.close()
    assert len(receiver.requests) == 1


def test_a_notice_that_is_refused_is_not_sent_again(
    start_receiver: Callable[..., Receiver], caplog: pytest.LogCaptureFixture
) -> None:
    receiver = start_receiver(401)
    notifier = Notifier(receiver.url, None)
    notifier.send(NOTICE)
    notifier.close()
    assert len(receiver.requests) == 1
    assert "HTTP 401" in caplog.text


@pytest.mark.slow
def test_without_a_server_a_notice_is_abandoned_without_an_error(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier("http://127.0.0.1:1/canary-of-a-secret", None, deadline=5)
    notifier.send(NOTICE)
    notifier.close()
    assert re.search(r"a notice to 127\.0\.0\.1 was abandoned after \d s: ConnectionError", caplog.text)
    assert "canary" not in caplog.text


@pytest.mark.parametrize("secret", ["whsec_", "whsec_canaryc" + "ana"[:2], "", "whsec_canaryé", "canary\u2028"])
def test_an_invalid_secret_is_refused_and_not_printed(secret: str) -> None:
    with pytest.raises(UsageError, match="MNIST_JOBS_NOTIFY_SECRET: expected whsec_ followed by base64") as refused:
        Notifier("http://127.0.0.1:1", secret)
    assert "canary" not in str(refused.value)


class SlowServer:
    """Accepts every connection, then sends bytes of an answer one by one, or nothing, and never ends it."""

    def __init__(self, answer: bytes) -> None:
        self._answer, self._closed = answer, threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/canary"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._drip, args=[connection], daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            for byte in self._answer:
                connection.sendall(bytes([byte]))
                self._closed.wait(0.02)
            self._closed.wait(60)

    def close(self) -> None:
        self._closed.set()
        self._listening.close()


HEADERS = b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(1000))


@pytest.mark.slow
def test_a_server_that_sends_no_answer_holds_a_notice_up_to_the_deadline_only(caplog: pytest.LogCaptureFixture) -> None:
    server = SlowServer(b"")
    notifier = Notifier(server.url, SECRET, deadline=2)
    begin = time.monotonic()
    notifier.send(NOTICE)
    notifier.send(NOTICE)
    wait_until(lambda: caplog.text.count("a notice to 127.0.0.1 was abandoned") == 2, "no notice was abandoned", 10)
    assert time.monotonic() - begin >= 2
    notifier.close()
    server.close()
    assert "canary" not in caplog.text


def test_a_server_that_never_ends_its_answer_delays_only_its_notices(caplog: pytest.LogCaptureFixture) -> None:
    server = SlowServer(HEADERS)  # one byte at a time
    notifier = Notifier(server.url, None, deadline=1)
    begin = time.monotonic()
    notifier.send(NOTICE)
    notifier.send(NOTICE)
    assert_at_most(0.1, since=begin)
    notifier.close()  # as at the end of the process
    assert_at_most(5, since=begin)
    assert "2 notices abandoned, since the process ends" in caplog.text
    server.close()
    notifier.close()  # so that nothing is logged during another test


def test_a_notice_is_accepted_although_the_body_of_the_answer_never_ends(caplog: pytest.LogCaptureFixture) -> None:
    server = SlowServer(b"HTTP/1.1 200 OK\r\n\r\n")
    notifier = Notifier(server.url, None)
    notifier.send(NOTICE)
    notifier.close()
    server.close()
    assert caplog.text == ""


def test_notices_that_are_not_delivered_before_the_end_are_counted_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notifier = Notifier("sleep 0.6", secret=None, deadline=2)
    for _ in range(3):
        notifier.send(NOTICE)
    notifier.close(seconds=0.2)
    assert "3 notices abandoned, since the process ends" in caplog.text
    notifier.close()  # so that nothing is logged during another test


def test_a_command_reads_the_notice(tmp_path: Path) -> None:
    notifier = Notifier(f"cat > {tmp_path}/notice", None)
    notifier.send(NOTICE)
    notifier.close()
    assert json.loads((tmp_path / "notice").read_text()) == NOTICE


ADDRESSES = [
    "hooks.example.com/canary",
    "localhost:8080/canary",
    "//hooks.example.com/canary",
    "https:/hooks.example.com/canary",
    "http:canary",
    "user:canary@hooks.example.com/x",
    "https://",
    "https://hooks.example.com:port/canary",
    "https://hooks.example.com:99999/canary",
    "https://[canary",
    "https:// hooks.example.com/canary",
    "https://hooks.example.com/\x1bcanary",
    "'hooks.example.com/canary'",
    "A=canary",
    "canary-command --to someone",
    "/nowhere/canary",
    "'canary",
    "",
]


@pytest.mark.parametrize("receiver", ADDRESSES)
def test_a_mistyped_receiver_is_refused_and_neither_run_nor_printed(
    receiver: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="notify: expected a URL with http:// or https://, or a command") as refused:
        Notifier(receiver, None)
    assert "canary" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


COMMANDS = [
    '"$HOME/my notify" -x',
    "/bin/cat",
    "'/bin/cat' -",
    "cat # it's",
    "[ 1 ]",
    "cat > x",
    "A=1 cat",
    "(cat)",
    "if true; then cat; fi",
    "! cat",
    "{ cat; }",
    "~/notify",
    "$HOME/notify",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_may_begin_as_the_shell_allows(command: str) -> None:
    check_receiver(command)


def test_the_output_of_a_command_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    notifier = Notifier("true; hooks.example.com/canary", None)
    notifier.send(NOTICE)
    notifier.close()
    assert "canary" not in "".join(capfd.readouterr())


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(f"sleep 60 & echo $! > {tmp_path}/pid; wait", None, deadline=0.5)
    notifier.send(NOTICE)
    notifier.close()
    assert "the command of --notify was ended after" in caplog.text
    status, begin = Path(f"/proc/{int((tmp_path / 'pid').read_text())}/stat"), time.monotonic()
    with contextlib.suppress(OSError):  # it is gone; until its parent waits for it, it is a zombie
        while status.read_text().split()[2] != "Z":
            assert_at_most(5, since=begin)
            time.sleep(0.01)


def test_a_command_that_fails_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier("exit 3", None)
    notifier.send(NOTICE)
    notifier.close()
    assert "exit code 3" in caplog.text
