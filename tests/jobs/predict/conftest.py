"""A function that runs the command in the process of the tests, which has already loaded TensorFlow."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.predict.__main__ import main

PredictCommand = Callable[..., tuple[int, str, str]]  # returns (exit code, standard output, standard error)


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str]) -> Iterator[PredictCommand]:
    loggers = [logging.getLogger(package) for package in ("jobs", "mnist_lib", "cluster")]
    before = [(logger.level, [*logger.handlers]) for logger in loggers]

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    yield run
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers
