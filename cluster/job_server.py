"""Ray's job server: sends a command to a cluster over HTTP and follows it until it has ended."""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus

from cluster import ray_private
from cluster.deadlines import CONNECT_SECONDS, JOB_AGENT_SECONDS, JOB_ANSWER_SECONDS, JOB_SERVER_LOST_SECONDS, Wait
from cluster.errors import AuthError, ClusterError, ClusterLostError
from cluster.session import token_advice

DEFAULT_URL = "http://127.0.0.1:8265"
POLL_SECONDS = 0.5
CHARACTERS_PER_POLL = 1 << 20  # a longer log is polled less often, since every answer holds the whole log
TERMINATED = 143  # the exit code after SIGTERM, with which Ray stops a job


class JobExistsError(ClusterError):
    """There is already a job with that id."""


class UnknownJobError(ClusterError):
    """There is no job with that id."""

    code = "E-USAGE"


def url_of(given: str | None) -> str:
    """Return the URL of the job server."""
    return given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DEFAULT_URL


def exit_code_of(job: JobDetails) -> int:
    """Return the exit code of the command of an ended job. Raises ClusterError if the command has none."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        return TERMINATED
    if job.driver_exit_code is None:
        raise ClusterError(f"job {job.submission_id} failed without an exit code: {job.message}")
    code = job.driver_exit_code
    return code if code >= 0 else 128 - code  # -N: killed by signal N


class JobClient:
    def __init__(self, url: str) -> None:
        """
        Args:
            url: the URL of the head's dashboard, as in http://head:8265.

        Raises:
            AuthError: the cluster expects a different token.
            ClusterError: no job server answers within seconds.
        """
        self.url = url.rstrip("/")
        if "@" in url:
            raise ClusterError("expected a URL without a user or password; set Ray's token in RAY_AUTH_TOKEN")
        if not self.url.startswith(("http://", "https://")):
            raise ClusterError(f'expected the URL of the dashboard, as in "http://10.0.0.1:8265", got {url!r}')
        for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
            os.environ.pop(name, None)  # Ray would prefer it to the given URL
        for name in ray_private.UPLOAD_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with self._translated_errors():
            self._client = ray_private.job_client(self.url, CONNECT_SECONDS, JOB_ANSWER_SECONDS)

    def submit(self, job: str | None, command: str, sent: Mapping[str, Path | bytes], metadata: dict[str, str]) -> str:
        """Send files and folders, run the command beside their copies, and return the job's id.

        Args:
            job: its id; None to let Ray choose one.
            sent: the path of each copy, mapped to the file or folder to copy, or to the content of a file.
        """
        with tempfile.TemporaryDirectory() as together:
            for name, source in sent.items():
                copy = Path(together, name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(source, bytes):
                    copy.write_bytes(source)
                elif source.is_dir():
                    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, copy)
            return self._submit(job, command, Path(together), metadata)

    def _submit(self, job: str | None, command: str, folder: Path, metadata: dict[str, str]) -> str:
        deadline = time.monotonic() + JOB_AGENT_SECONDS
        while True:
            try:
                with self._translated_errors(job):
                    return self._client.submit_job(
                        entrypoint=command,
                        submission_id=job,
                        runtime_env={"working_dir": str(folder)},
                        metadata=metadata,
                    )
            except ClusterError as error:
                if ray_private.NO_AGENT not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)

    def job(self, job: str) -> JobDetails:
        """Return the job. Raises UnknownJobError."""
        with self._translated_errors(job):
            return self._client.get_job_info(job)

    def jobs(self) -> dict[str, JobDetails]:
        """Return the submitted jobs by id, the oldest first."""
        with self._translated_errors():
            jobs = sorted(self._client.list_jobs(), key=lambda job: job.start_time or 0)
        return {job.submission_id: job for job in jobs if job.submission_id}

    def log(self, job: str) -> str:
        """Return what the command has printed so far."""
        try:
            with self._translated_errors(job):
                return self._client.get_job_logs(job)
        except UnknownJobError:
            self.job(job)  # raises UnknownJobError if there is no such job; otherwise its log does not exist yet
            return ""

    def follow(self, job: str, write: Callable[[str], None]) -> JobDetails:
        """Write the log as it grows; return the job when it has ended.

        Raises:
            ClusterLostError: the server has not answered for too long (the job may still run), or was restarted.
        """
        seen, wait = 0, Wait(f"an answer of {self.url}", clock=time)
        while True:
            try:
                state, log = self.job(job), self.log(job)  # in this order: the log of an ended job is complete
            except UnknownJobError as error:
                if not seen:
                    raise
                raise ClusterLostError(f"{self.url} no longer knows job {job}: its head was restarted") from error
            except AuthError:
                raise
            except ClusterError as error:
                if wait.seconds > JOB_SERVER_LOST_SECONDS:
                    raise ClusterLostError(
                        f"{self.url} has not answered for {wait.seconds:.0f} s; job {job} may still run"
                    ) from error
                wait.log_if_due()
                time.sleep(POLL_SECONDS)
                continue
            wait.restart()
            write(log[seen:])
            seen = max(seen, len(log))  # the server answers with an empty log while it does not find the file
            if state.status.is_terminal():
                return state
            time.sleep(POLL_SECONDS * (1 + seen / CHARACTERS_PER_POLL))

    @contextlib.contextmanager
    def _translated_errors(self, job: str | None = None) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise AuthError(f"{self.url}: {token_advice()}") from error
        except (requests.RequestException, ConnectionError) as error:
            raise ClusterError(
                f"{self.url}: no Ray job server answers; is the cluster running, and is this the URL of its dashboard"
                " (port 8265 by default)?"
            ) from error
        except (RuntimeError, ValueError) as error:
            if job is not None and "status code 404" in str(error):
                raise UnknownJobError(f"there is no job {job} at {self.url}; `ray job list` shows all") from error
            if "already exists" in str(error):
                raise JobExistsError(f"{self.url}: there is already a job {job}") from error
            *_, last = str(error).strip().splitlines() or [""]  # the last line of the server's traceback
            raise ClusterError(f"{self.url}: {last}") from error
