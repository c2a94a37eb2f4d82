"""Training epochs without validation, checkpoints and a deadline."""

import math

from mnist_lib.data.batches import Plan
from mnist_lib.data.table import Table
from mnist_lib.results import EpochDone
from mnist_lib.spec import TrialSpec
from mnist_lib.store.margins import no_sums
from mnist_lib.training.assignment import Assignment
from mnist_lib.training.checkpoint import TrainingState
from mnist_lib.training.epochs import Compiled, train
from mnist_lib.training.trainer import Trainer


def train_epochs(
    trainer: Trainer, split: Table, plan: Plan, spec: TrialSpec, last: int | None = None, done: int = 0
) -> list[EpochDone]:
    """Train the epochs that follow on those which are done, with the values of the trainer.

    Args:
        last: the last epoch; by default that of the spec.
    """
    compiled = Compiled(trainer, plan, split)
    state = TrainingState(trainer.weights, epoch=done, margins=no_sums(len(split)))
    events = train(compiled, Assignment(spec, until=last), state, [], math.inf)
    return [event for event in events if isinstance(event, EpochDone)]
