"""Notices against a real web server: delivered, signed, tried again, given up."""

import http.server
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from jobs.console.exit_codes import UsageError
from jobs.retrain.notices import Notifier

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of the specification's own example
NOTICE = {"schedule": "nightly", "outcome": "done"}


class Receiver(http.server.ThreadingHTTPServer):
    """Answers with each of `answers` in turn, the last one for ever; keeps what it got."""

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.got = list(answers), list[tuple[dict[str, str], bytes]]()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/canary-of-a-secret"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        answers = self.server.answers
        self.send_response(answer := answers.pop(0) if len(answers) > 1 else answers[0])
        if 300 <= answer < 400:
            self.send_header("Location", "/login")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    made: list[Receiver] = []
    yield made
    for receiver in made:
        receiver.shutdown()
        receiver.server_close()


def test_a_notice_arrives_and_its_signature_is_what_a_library_of_the_standard_verifies(
    receivers: list[Receiver],
) -> None:
    receivers.append(Receiver(204))
    notifier = Notifier(receivers[0].url, SECRET)
    notifier.tell(NOTICE)
    notifier.close()
    ((headers, body),) = receivers[0].got
    assert Webhook(SECRET).verify(body, headers) == NOTICE
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)


def test_after_a_500_it_is_sent_again_as_the_same_notice(receivers: list[Receiver]) -> None:
    receivers.append(Receiver(500, 503, 200))
    notifier = Notifier(receivers[0].url, SECRET)
    notifier.tell(NOTICE)
    notifier.close()
    assert len(receivers[0].got) == 3
    assert len({headers["webhook-id"] for headers, _ in receivers[0].got}) == 1  # so that it is acted on once


def test_it_is_given_up_after_its_deadline_and_the_next_one_is_sent(
    receivers: list[Receiver], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    receivers.append(Receiver(500))
    notifier = Notifier(receivers[0].url, None, deadline=1.5)
    begin = time.monotonic()
    notifier.tell(NOTICE)
    assert time.monotonic() - begin < 0.1  # a run does not wait for it
    notifier.tell(NOTICE)
    notifier.close()
    assert time.monotonic() - begin < 10
    assert len({headers["webhook-id"] for headers, _ in receivers[0].got}) == 2
    assert "127.0.0.1 was not told for 1 s (HTTP 500); given up" in caplog.text
    assert "canary" not in caplog.text


def test_a_redirect_is_no_delivery(receivers: list[Receiver], caplog: pytest.LogCaptureFixture) -> None:
    receivers.append(Receiver(302))
    notifier = Notifier(receivers[0].url, None)
    notifier.tell(NOTICE)
    notifier.close()
    assert "HTTP 302" in caplog.text


@pytest.mark.parametrize("receiver", ["ftp://canary", " htps://canary"])
def test_a_url_of_another_kind_is_refused_and_not_run(receiver: str) -> None:
    with pytest.raises(UsageError, match="notify: expected a URL with http:// or https://, or a command") as refused:
        Notifier(receiver, None)
    assert "canary" not in str(refused.value)


def test_a_url_is_one_with_a_space_before_it_too(receivers: list[Receiver]) -> None:
    receivers.append(Receiver(200))
    notifier = Notifier(" " + receivers[0].url.replace("http", "HTTP", 1) + "\n", None)
    notifier.tell(NOTICE)
    notifier.close()
    assert len(receivers[0].got) == 1


def test_a_refusal_is_not_repeated(receivers: list[Receiver], caplog: pytest.LogCaptureFixture) -> None:
    receivers.append(Receiver(401))
    notifier = Notifier(receivers[0].url, None)
    notifier.tell(NOTICE)
    notifier.close()
    assert len(receivers[0].got) == 1
    assert "HTTP 401" in caplog.text


def test_where_nobody_listens_nothing_fails(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier("http://127.0.0.1:1/canary-of-a-secret", None, deadline=0.5)
    notifier.tell(NOTICE)
    notifier.close()
    assert "127.0.0.1 was not told" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize("secret", ["whsec_", "whsec_canaryc" + "ana"[:2], ""])
def test_what_is_no_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(UsageError, match="MNIST_JOBS_NOTIFY_SECRET: expected whsec_ and base64") as refused:
        Notifier("http://127.0.0.1:1", secret)
    assert "canary" not in str(refused.value)


def test_a_command_reads_the_notice(tmp_path: Path) -> None:
    notifier = Notifier(f"cat > {tmp_path}/notice", None)
    notifier.tell(NOTICE)
    notifier.close()
    assert json.loads((tmp_path / "notice").read_text()) == NOTICE


def test_a_command_that_fails_is_told_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier("exit 3", None)
    notifier.tell(NOTICE)
    notifier.close()
    assert "exit code 3" in caplog.text
