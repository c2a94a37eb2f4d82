"""`jobs.train` on trials that train nothing: the seconds and memory of the driver itself."""

import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jobs.train import __main__ as train
from jobs.train import worker
from mnist_lib.environment import package_versions
from mnist_lib.results import Accuracy, EpochDone, TrialEvent, TrialRecord, TrialResult, TrialStarted
from mnist_lib.training.assignment import Assignment, Resources


def run_empty_lane(
    assignments: Iterable[Assignment], dataset: list[Any], resources: Resources, checkpoint_seconds: float
) -> Iterator[TrialEvent]:
    """Yield the events of trials of `mnist-mini`, without the files of a model."""
    probabilities = np.full((1_000, 10), 0.1, np.float32)
    for spec in (assignment.spec for assignment in assignments):
        yield TrialStarted(trial=spec.id, pid=0, node="", devices=("CPU:0",), gpus=())
        epoch = EpochDone(trial=spec.id, epoch=1, loss=1.0, train=Accuracy(0, 1), validation=None, seconds=1.0)
        yield epoch
        record = TrialRecord(
            id=spec.id,
            spec=spec,
            test=Accuracy(0, 1_000),
            test_accuracy=0.0,
            test_ci95=(0.0, 0.01),
            validation=None,
            best_epoch=1,
            train_seconds=1.0,
            images_per_second=1.0,
            trained_epochs=1.0,
            setup_seconds=1.0,
            replicas=1,
            devices=("CPU:0",),
            gpus=(),
            node="",
            weights_sha256="0" * 64,
            versions=package_versions(),
        )
        yield TrialResult(
            trial=spec.id,
            record=record,
            history=(epoch,),
            probabilities=probabilities,
            files={"model.keras": b"not a model"},
        )


worker.run_lane = run_empty_lane
begin = time.perf_counter()
code = train.main(["--models", "keras", "--seeds", sys.argv[1], "--epochs", "1", "--storage", sys.argv[2], "--json"])
seconds, kib = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "mib": kib / 1024}))
sys.exit(code)
