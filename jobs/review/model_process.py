"""A process that loads TensorFlow and a model once, and then predicts. Its parent answers people meanwhile."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jobs.predict.batches import load_model
from mnist_lib.errors import MnistError, ModelError
from mnist_lib.pictures.sandbox import child_process
from mnist_lib.store.contents import StoredModel

ModelState = Literal["loading", "ready", "failed"]
Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # as in `mnist_lib.loading`
Load = Callable[[StoredModel], Predict]


class ModelProcess:
    """A model in a process of its own. Several threads may call its methods."""

    def __init__(self, stored: StoredModel, load: Load) -> None:
        self.name, self.problem = stored.name, ""
        self.state: ModelState = "loading"
        self._lock, self._loaded = threading.Lock(), threading.Event()
        self._process, self._connection = child_process(__name__)
        threading.Thread(target=self._load, args=(load, stored), daemon=True).start()

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
        probabilities: NDArray[np.float32] = self._answer(images)
        return probabilities

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _load(self, load: Load, stored: StoredModel) -> None:
        try:
            self._answer((load, stored))
            self.state = "ready"
        except ModelError as error:
            self.problem, self.state = str(error), "failed"
        self._loaded.set()

    def _answer(self, request: Any) -> Any:
        try:
            with self._lock:
                self._connection.send(request)
                answer = self._connection.recv()
        except (EOFError, OSError) as error:
            got = f"one that ended (exit code {self._process.wait()})"
            self.problem = f"{self.name}: expected a process that predicts, got {got}; start again"
            self.state = "failed"
            raise ModelError(self.problem) from error
        if isinstance(answer, ModelError):
            raise answer
        return answer


@contextlib.contextmanager
def model_process(stored: StoredModel, load: Load = load_model) -> Iterator[ModelProcess]:
    """Give a model in a process that ends with the block. `load` must be a function of a module."""
    with contextlib.closing(ModelProcess(stored, load)) as process:
        yield process


def _serve(connection: "Connection[Any, Any]") -> None:
    """Load the model that comes through the connection, then answer images until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    predict: Predict | None = None
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            request = connection.recv()
            answer: Any = None
            try:
                if predict is not None:
                    answer = predict(request)
                else:
                    load, stored = request
                    predict = load(stored)
            except MnistError as error:
                answer = ModelError(str(error))
            connection.send(answer)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
