"""Following a job on a job server that stops answering. `tests/jobs/submit` uses a real one."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from ray.job_submission import JobStatus

from cluster import job_server, ray_private
from cluster.errors import ClusterLostError
from cluster.job_server import JobClient
from tests.support.simulation.clock import VirtualClock

PROMISED_SECONDS = 90.0
RUNNING = SimpleNamespace(
    submission_id="r.1",
    status=JobStatus.RUNNING,
    entrypoint="",
    message="",
    start_time=0,
    driver_exit_code=None,
    metadata={},
)


@pytest.mark.parametrize("answers", ["no longer", "refused"])
def test_f7_the_death_of_the_head_of_a_followed_job_is_reported_within_90_s(
    answers: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = VirtualClock()
    died_at = 10.0

    class Client:
        def __init__(self, url: str, connect_seconds: float, answer_seconds: float) -> None:
            self._seconds = answer_seconds if answers == "no longer" else 0.0

        def get_job_info(self, job: str) -> Any:
            self._answer()
            return RUNNING

        def get_job_logs(self, job: str) -> str:
            self._answer()
            return "a line\n"

        def _answer(self) -> None:
            if clock.now >= died_at:
                clock.sleep(self._seconds)
                raise requests.ConnectionError

    monkeypatch.setattr(ray_private, "job_client", Client)
    monkeypatch.setattr(job_server, "time", clock)
    with caplog.at_level(logging.WARNING), pytest.raises(ClusterLostError, match=r"r\.1 may still run"):
        JobClient("http://head:8265").follow("r.1", lambda text: None)
    assert clock.now - died_at <= PROMISED_SECONDS
    assert "waiting for an answer of http://head:8265" in caplog.text
