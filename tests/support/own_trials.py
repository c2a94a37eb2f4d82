"""Trials of the models in `own_models.py`, in this process: the fixture `run` trains them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnist_lib.model_file import ModelFile
from mnist_lib.results import TrialEvent, TrialResult
from mnist_lib.spec import TrialSpec

OWN = ModelFile.read(Path(__file__).with_name("own_models.py"))
Run = Callable[..., list[TrialEvent]]


def own(
    name: str, epochs: int = 2, batch_size: int = 50, freeze_epochs: int | None = None, **arguments: Any
) -> TrialSpec:
    spec = TrialSpec.of(
        name, source_sha256=OWN.sha256, epochs=epochs, global_batch_size=batch_size, arguments=arguments
    )
    return replace(spec, freeze_epochs=freeze_epochs)


def result_of(events: list[TrialEvent]) -> TrialResult:
    assert isinstance(events[-1], TrialResult), events[-1]
    return events[-1]
