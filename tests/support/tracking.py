"""A real MLflow server on SQLite."""

import contextlib
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.bounds import wait_until


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Serve MLflow until the block ends, and yield its URI.

    `mlflow server` runs the same application, beside another one for language models, which needs pandas.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "flask", "--app", "mlflow.server:app", "run", "--port", port]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def is_up() -> bool:
        assert server.poll() is None, (folder / "log").read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                return bool(answer.read() == b"OK")
        except (urllib.error.URLError, ConnectionError):
            return False

    try:
        wait_until(is_up, "MLflow did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
