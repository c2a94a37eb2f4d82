"""A process that loads TensorFlow and a model once, and then predicts. Its parent answers people meanwhile."""

import contextlib
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.api import load_answerer
from mnist_lib.errors import MnistError, ModelError
from mnist_lib.pictures.likeness import Answers
from mnist_lib.pictures.sandbox import child_process
from mnist_lib.store.contents import StoredModel

if TYPE_CHECKING:
    from mnist_lib.api import Answerer


class ModelProcess:
    """A model in a process that is started for it. Several threads may call its methods.

    Args:
        load: loads the model; defined at the top of a module, since it is sent to the process.
    """

    def __init__(self, stored: StoredModel, load: Callable[[StoredModel], "Answerer"] = load_answerer) -> None:
        self.name = stored.name
        self.notice = stored.why_all_accepted() or ""
        self.problem = ""
        self._process, self._connection = child_process(__name__)
        self._requests = ThreadPoolExecutor(1)  # the process answers one at a time
        self._loaded = self._requests.submit(self._load, (load, stored))

    @property
    def state(self) -> str:
        return "failed" if self.problem else "ready" if self._loaded.done() else "loading"

    def predict(self, images: NDArray[np.uint8]) -> Answers:
        """Return the answers for images, [n, height, width, channels], as soon as the model is loaded.

        Raises ModelError if the model cannot be loaded or its process has ended.
        """
        self._loaded.result()
        answers: Answers = self._requests.submit(self._answer, images).result()
        return answers

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _load(self, request: Any) -> None:
        try:
            self._answer(request)
        except ModelError as error:
            self.problem = str(error)
            raise

    def _answer(self, request: Any) -> Any:
        try:
            self._connection.send(request)
            answer = self._connection.recv()
        except (EOFError, OSError):
            got = f"one that ended (exit code {self._process.wait()})"
            answer = ModelError(f"{self.name}: expected a process that predicts, got {got}; start again")
            self.problem = str(answer)
        if isinstance(answer, ModelError):
            raise answer
        return answer


class NoModel:
    """In place of a model if there is none yet. Pictures are then chosen at random."""

    name = notice = ""
    state = "failed"
    problem = "there is no champion yet; to have pictures chosen by a model, train one with: python -m jobs.train"

    def predict(self, images: NDArray[np.uint8]) -> Answers:
        """Raise ModelError."""
        raise ModelError(self.problem)


def _serve(connection: "Connection[Any, Any]") -> None:
    """Load the model that comes through the connection, then answer images until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    predict: Answerer | None = None
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
