"""A process that loads TensorFlow and a model once, and then predicts. Its parent answers people meanwhile."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnist_lib.environment import import_keras
from mnist_lib.errors import MnistError, ModelError
from mnist_lib.store.contents import StoredModel, image_shape_of

ModelState = Literal["loading", "ready", "failed"]

TITLE = "jobs.review.model_process"


class ModelProcess:
    """A model in a process of its own. Several threads may call its methods."""

    def __init__(self, stored: StoredModel) -> None:
        self.name, self.problem = stored.name, ""
        self.state: ModelState = "loading"
        self._lock, self._loaded = threading.Lock(), threading.Event()
        self._connection, other = Pipe()
        self._process = subprocess.Popen(
            # -P: modules are found as in this process, not in the working folder.
            [sys.executable, "-P", "-m", TITLE, str(other.fileno())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # what a user's model prints
            process_group=0,  # Ctrl-C is for the command, which then ends this process
        )
        other.close()
        threading.Thread(target=self._load, args=(stored,), daemon=True).start()

    def wait(self) -> None:
        """Wait until the model is loaded. Raises ModelError if it cannot be."""
        self._loaded.wait()
        if self.state == "failed":
            raise ModelError(self.problem)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of the classes, [n, classes], for images, [n, height, width, channels].

        Raises ModelError if the model cannot be loaded or its process has ended.
        """
        self.wait()
        with self._lock:
            answer = self._exchange(images)
        if isinstance(answer, MnistError):
            raise ModelError(f"{self.name}: {answer}")
        probabilities: NDArray[np.float32] = answer
        return probabilities

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _load(self, stored: StoredModel) -> None:
        with self._lock:
            try:
                problem = self._exchange(stored)
            except ModelError as error:
                problem = error
        self.state, self.problem = ("ready", "") if problem is None else ("failed", str(problem))
        self._loaded.set()

    def _exchange(self, value: Any) -> Any:
        try:
            self._connection.send(value)
            return self._connection.recv()
        except (EOFError, OSError) as error:
            got = f"one that ended (exit code {self._process.wait()})"
            raise ModelError(f"{self.name}: expected a process that predicts, got {got}; start again") from error


@contextlib.contextmanager
def model_process(stored: StoredModel) -> Iterator[ModelProcess]:
    """Give a model in a process that ends with the block."""
    process = ModelProcess(stored)
    try:
        yield process
    finally:
        process.close()


def _serve(connection: "Connection[Any, Any]") -> None:
    """Load the model that comes through the connection, then answer images until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError):
        stored = connection.recv()
        predict = None
        try:
            import_keras(gpus=False)
            from mnist_lib.export.loading import build, predictor

            predict = predictor(build(stored))
            predict(np.zeros((1, *image_shape_of(stored.manifest["dataset"], stored.name)), np.uint8))  # compiles
            connection.send(None)
        except MnistError as error:
            connection.send(ModelError(str(error)))
        while predict is not None:
            images = connection.recv()
            try:
                connection.send(predict(images))
            except MnistError as error:
                connection.send(ModelError(str(error)))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
