"""What tests of the user's models share."""

from collections.abc import Iterator, Sequence

import pytest

from mnist_lib.data.dataset import Dataset
from mnist_lib.model_file import ModelFile
from mnist_lib.models.pretrained import NOTHING, Pretrained
from mnist_lib.results import CheckpointTaken, TrialEvent
from mnist_lib.spec import TrialSpec
from mnist_lib.training import trial
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.trial import WorkerPlace, run_trials
from tests.support.digits import few_digits
from tests.support.own_trials import OWN, Run
from tests.support.results import epochs_in


@pytest.fixture
def run(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(trial, "configure_process", lambda *_: None)  # done by the fixture `tensorflow`
    few = few_digits(digits)

    def run(
        spec: TrialSpec,
        source: ModelFile = OWN,
        replicas: int = 1,
        checkpoint: bytes | None = None,
        before: Sequence[TrialEvent] = (),
        *,
        resumed: bool = False,
        pretrained: Pretrained = NOTHING,
        checkpoint_seconds: float = 0,
    ) -> list[TrialEvent]:
        """Train in a new lane. resumed: train again in that lane, from the checkpoint of the first epoch."""
        events: list[TrialEvent] = []

        def assignments() -> Iterator[Assignment]:
            yield Assignment(spec, checkpoint, source, epochs=epochs_in(before))
            if resumed:
                (taken,) = [event for event in events if isinstance(event, CheckpointTaken)]
                yield Assignment(spec, taken.content, source, epochs=epochs_in(events))

        resources = Resources(cpus=2, cpu_replicas=replicas)
        place, given = WorkerPlace(node="here"), (lambda: pretrained)
        for event in run_trials(assignments(), lambda: few, resources, place, checkpoint_seconds, pretrained=given):
            events.append(event)  # at once, since `assignments` reads them
        return events

    return run
