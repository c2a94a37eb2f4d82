"""What a further trial in a lane costs in addition to its training: start, evaluation and the files of its model."""

import json
import sys
import time

from stopwatch import digits

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.results import TrialFailure, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.trial import WorkerPlace, run_trials

data = digits()
train, test = Table.of(data.train_images, data.train_labels), Table.of(data.test_images, data.test_labels)
dataset = Dataset.of("bench", "1", train, test)
specs = [TrialSpec.of(sys.argv[3], seed=seed, epochs=1) for seed in range(int(sys.argv[2]) + 1)]
seconds, begin = [], time.perf_counter()
for event in run_trials(
    map(Assignment, specs), lambda: dataset, Resources(cpus=int(sys.argv[4])), WorkerPlace(node="here")
):
    if isinstance(event, TrialFailure):
        raise SystemExit(event.message)
    if isinstance(event, TrialResult):
        now = time.perf_counter()
        seconds.append(now - begin - event.record.train_seconds)
        begin = now
print(json.dumps({"seconds": seconds[1:], "correct": 0}))  # the first trial includes the compilation
