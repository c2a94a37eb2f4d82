"""Ray's job server: sends a command to a cluster over HTTP, and follows it until it has really ended."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.connection.tokens import what_to_set
from cluster.errors import AuthError, ClusterError, ClusterLostError

DEFAULT_URL = "http://127.0.0.1:8265"
CONNECT_SECONDS, ANSWER_SECONDS = 4.0, 60.0
AGENT_SECONDS = 30.0  # after the job server, the head's agent comes up, which runs jobs
POLL_SECONDS = 0.5
CHARACTERS_PER_POLL = 1 << 20  # a longer log is asked for less often: it comes whole
LOST_SECONDS = 120.0
TERMINATED = 143  # what SIGTERM, by which Ray stops a job, makes of a process


class JobExistsError(ClusterError):
    """A job has that id already."""


class UnknownJobError(ClusterError):
    """No job has that id."""

    code = "E-USAGE"


def url_of(given: str | None) -> str:
    """Of the job server to ask."""
    return given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DEFAULT_URL


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the server knows of one."""

    id: str
    status: str  # as Ray names it: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED
    command: str
    message: str
    began: float | None  # Unix time
    driver_exit_code: int | None
    metadata: dict[str, str]

    @property
    def ended(self) -> bool:
        return JobStatus(self.status).is_terminal()

    @property
    def exit_code(self) -> int:
        """The driver's own.

        Raises:
            ClusterError: there was no driver that could have ended.
        """
        if self.status == JobStatus.SUCCEEDED:
            return 0
        if self.status == JobStatus.STOPPED:
            return TERMINATED
        if self.driver_exit_code is None:
            raise ClusterError(f"job {self.id} failed before its command began or ended: {self.message}")
        return self.driver_exit_code if self.driver_exit_code >= 0 else 128 - self.driver_exit_code  # by a signal


class JobClient:
    """Args:
        url: of the head's dashboard, as in http://head:8265.

    Raises:
        AuthError: it wants another token than the one that is set here.
        ClusterError: no job server answers there within seconds.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if "@" in url:
            raise ClusterError("expected a URL without a user or password in it; Ray's token goes into RAY_AUTH_TOKEN")
        if not self.url.startswith(("http://", "https://")):
            raise ClusterError(f'expected the URL of the dashboard, as in "http://10.0.0.1:8265", got {url!r}')
        for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
            os.environ.pop(name, None)  # Ray would take it for the one that is given
        for part in (
            "dashboard.modules.dashboard_sdk",
            "_private.runtime_env.working_dir",
            "_private.runtime_env.packaging",
        ):
            logging.getLogger(f"ray.{part}").setLevel(logging.ERROR)  # they tell of each upload
        with self._told():
            self._client = _Client(self.url)

    def submit(self, job: str | None, command: str, packages: Sequence[Path], metadata: dict[str, str]) -> str:
        """Sends the packages, and the command to be run beside them -> the job's id.

        Args:
            job: None for an id of Ray's.
            packages: folders that lie in one.
        """
        # All else that lies there stays here; what is sent becomes the command's working folder.
        left_out = ["/*", "!/.", *(f"!/{folder.name}" for folder in packages), "__pycache__"]
        deadline = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                with self._told(job):
                    return self._client.submit_job(
                        entrypoint=command,
                        submission_id=job,
                        runtime_env={"working_dir": str(packages[0].parent), "excludes": left_out},
                        metadata=metadata,
                    )
            except ClusterError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)

    def job(self, job: str) -> Job:
        """Raises UnknownJobError."""
        with self._told(job):
            return _job(self._client.get_job_info(job))

    def jobs(self) -> list[Job]:
        """Those that were submitted, the oldest first."""
        with self._told():
            details = [entry for entry in self._client.list_jobs() if entry.submission_id]
        return sorted(map(_job, details), key=lambda job: job.began or 0)

    def log(self, job: str) -> str:
        """What its command has printed so far."""
        try:
            with self._told(job):
                return self._client.get_job_logs(job)
        except UnknownJobError:
            self.job(job)  # there it is: no file has been begun
            return ""

    def stop(self, job: str) -> None:
        """Asks its command to end."""
        with self._told(job):
            self._client.stop_job(job)

    def follow(self, job: str, write: Callable[[str], None]) -> Job:
        """Writes the log as it grows -> the job, ended.

        A server that does not answer for a while is asked again: the job goes on without us.

        Raises:
            ClusterLostError: it has not answered for too long.
        """
        seen, answered_at = 0, time.monotonic()
        while True:
            try:
                state, log = self.job(job), self.log(job)  # in this order: the log of one that has ended is whole
            except UnknownJobError as error:
                if not seen:
                    raise
                raise ClusterLostError(f"{self.url} no longer knows job {job}: its head was started anew") from error
            except AuthError:
                raise
            except ClusterError as error:
                if time.monotonic() - answered_at > LOST_SECONDS:
                    raise ClusterLostError(
                        f"{self.url} has not answered for {LOST_SECONDS:.0f} s; job {job} may go on without it"
                    ) from error
                time.sleep(POLL_SECONDS)
                continue
            answered_at = time.monotonic()
            write(log[seen:])
            seen = max(seen, len(log))  # it is empty where the server has not found it
            if state.ended:
                return state
            time.sleep(POLL_SECONDS * (1 + seen / CHARACTERS_PER_POLL))

    @contextlib.contextmanager
    def _told(self, job: str | None = None) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise AuthError(f"{self.url}: {what_to_set()}") from error
        except (requests.RequestException, ConnectionError) as error:
            raise ClusterError(
                f"{self.url}: no job server of Ray's answers; is the cluster running, and this its dashboard's URL"
                " (port 8265 by default)?"
            ) from error
        except (RuntimeError, ValueError) as error:
            if job is not None and "status code 404" in str(error):
                raise UnknownJobError(f"job {job} is not known at {self.url}; `list` shows all") from error
            if "already exists" in str(error):
                raise JobExistsError(f"{self.url}: a job {job} exists already") from error
            *_, last = str(error).strip().splitlines() or [""]  # of the server's traceback
            raise ClusterError(f"{self.url}: {last}") from error


class _Client(JobSubmissionClient):
    """Waits for no answer for ever."""

    def _do_request(self, *arguments: Any, **options: Any) -> requests.Response:
        return super()._do_request(*arguments, timeout=(CONNECT_SECONDS, ANSWER_SECONDS), **options)


def _job(details: JobDetails) -> Job:
    return Job(
        id=str(details.submission_id),
        status=str(details.status),
        command=details.entrypoint,
        message=str(details.message or ""),
        began=details.start_time / 1_000 if details.start_time else None,
        driver_exit_code=details.driver_exit_code,
        metadata=details.metadata or {},
    )
