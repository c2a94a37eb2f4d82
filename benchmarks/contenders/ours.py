"""This project's training loop with a model of the catalog, on all train images."""

import math
import sys

from stopwatch import BATCH_SIZE, digits, measure

from mnist_lib.data.batches import Plan
from mnist_lib.data.table import Table
from mnist_lib.models.building import build_model
from mnist_lib.results import EpochDone
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.epochs import Compiled, resume, train
from mnist_lib.training.prediction import accuracy_of
from mnist_lib.training.strategy import configure_process, mirrored_strategy
from mnist_lib.training.trainer import Trainer

model_name, threads, replicas, precision = sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
spec = TrialSpec.of(model_name, precision=precision, epochs=int(sys.argv[2]))
resources = Resources(cpus=threads, cpu_replicas=replicas)
configure_process(resources, spec)

data = digits()
images = Table.of(data.train_images, data.train_labels)
model = build_model(spec, (28, 28, 1), 10)
trainer = Trainer(model, spec, mirrored_strategy(resources))
plan = Plan(len(images), BATCH_SIZE, replicas)
trainer.compile(images, plan)
compiled = Compiled(trainer, plan, images)
assignment = Assignment(spec)
start, _ = resume(compiled, assignment)
events = train(compiled, assignment, start, [], math.inf)
epochs = (event for event in events if isinstance(event, EpochDone))


def train_epoch(number: int) -> None:
    next(epochs)


measure(
    train_epoch,
    lambda: accuracy_of(trainer.predictor.probabilities(trainer.weights, data.test_images), data.test_labels).correct,
)
