"""Trials from start to end, as a generator of events that a worker runs. It does not need Ray.

Trials run one after the other in one process, a *lane*, which starts TensorFlow and compiles only once.
"""

import functools
import math
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from mnist_lib.data.batches import Plan
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.made_up import MadeUp
from mnist_lib.data.table import TRAIN, Table
from mnist_lib.environment import package_versions
from mnist_lib.errors import MnistError, ModelError
from mnist_lib.intervals import accuracy_interval
from mnist_lib.model_file import SOURCE_FILE, ModelFile
from mnist_lib.models.building import build_model, warm_start
from mnist_lib.models.pretrained import Pretrained
from mnist_lib.report.tensorboard import event_file
from mnist_lib.results import (
    EpochDone,
    Evaluating,
    LaneReady,
    TrialEvent,
    TrialFailure,
    TrialRecord,
    TrialResult,
    TrialStarted,
)
from mnist_lib.spec import TrialSpec
from mnist_lib.store.margins import MARGINS, Margins
from mnist_lib.training.assignment import CHECKPOINT_SECONDS, Assignment, Resources
from mnist_lib.training.checkpoint import TrainingState
from mnist_lib.training.epochs import Compiled, epochs_so_far, resume, rung_done, train
from mnist_lib.training.evaluation import evaluate_on_test, num_evaluated
from mnist_lib.training.gpus import gpu_facts, refused_by_gpu
from mnist_lib.training.prediction import accuracy_of
from mnist_lib.training.strategy import configure_process, devices_of, mirrored_strategy
from mnist_lib.training.trainer import Trainer, learning_rates
from mnist_lib.wording import one_line

# Compiled models that a lane holds; the least recently used one is removed first. Without its values, a model of dense
# layers or a small convolutional network takes about 17 MB, most of it for what TensorFlow and XLA compile.
MAX_COMPILED = 24


@dataclass(frozen=True, kw_only=True)
class WorkerPlace:
    """Where a lane runs, and since when. Results record where."""

    node: str
    gpus: tuple[str, ...] = ()  # ids of the granted GPUs
    import_began: float | None = None  # the value of `time.monotonic()` when the process began to import TensorFlow


def run_trials(
    assignments: Iterable[Assignment],
    load: Callable[[], Dataset],
    resources: Resources,
    place: WorkerPlace,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    pretrained: Callable[[], Pretrained] = Pretrained,
) -> Iterator[TrialEvent]:
    """Train trials one after the other and yield their events.

    Each trial yields `LaneReady`, `TrialStarted`, `EpochDone` after each epoch, `Heartbeat` within long ones,
    `CheckpointTaken` at intervals, after an epoch or within one, `Evaluating` before and during the evaluation on the
    test images, and `TrialResult`, `RungDone` (in a search) or `TrialFailure` at its end. A failed trial does not end
    the lane.

    A process keeps its number of threads. So the lane ends before a trial that needs another number of threads; that
    trial has not begun and gets another lane.

    Args:
        assignments: taken one at a time, each when the one before it has ended.
        load: returns the dataset; called after TensorFlow has started, so that the data can arrive in the meantime. Its
            exceptions other than MnistError are raised, since they end the lane.
        checkpoint_seconds: minimum time between checkpoints, which are taken between two chunks; 0: a checkpoint after
            each epoch, and none within one.
        pretrained: returns the weights that trials start from; called with `load`.
    """
    lane = _Lane(resources, place, checkpoint_seconds, pretrained)
    phase_began = place.import_began
    for assignment in assignments:
        spec = assignment.spec
        if not lane.suits(spec):
            return
        lane.begin(phase_began)
        phase_began = None
        try:
            lane.configure(spec)
        except Exception as error:
            yield _failure(spec, error)
            continue
        try:
            lane.load(load)
        except MnistError as error:
            yield _failure(spec, error)
            continue
        yield LaneReady(trial=spec.id)
        try:
            yield from lane.run(assignment)
        except Exception as error:
            yield _failure(spec, error, assignment.source)


def _failure(spec: TrialSpec, error: Exception, source: ModelFile | None = None) -> TrialFailure:
    code, message = _code_and_message(spec, error, source)
    details = "" if isinstance(error, MnistError) or code == "E-OOM" else traceback.format_exc()
    return TrialFailure(trial=spec.id, code=code, message=message, details=details)


def _code_and_message(spec: TrialSpec, error: Exception, source: ModelFile | None) -> tuple[str, str]:
    if isinstance(error, MnistError):
        return error.code, str(error)
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return (
            "E-OOM",
            f"training ran out of memory ({type(error).__name__}); lower --batch-size, or train a smaller model",
        )
    if source is not None:
        place = source.place_of(error) or source.place(spec.model)
        return ModelError.code, f"{place}: {type(error).__name__}: {one_line(error)}"
    return MnistError.code, f"{type(error).__name__}: {error}"


class _Lane:
    def __init__(
        self,
        resources: Resources,
        place: WorkerPlace,
        checkpoint_seconds: float,
        pretrained: Callable[[], Pretrained],
    ) -> None:
        self._resources = resources
        self._place = place
        self._pretrained = functools.cache(pretrained)
        self._checkpoint_seconds = checkpoint_seconds
        self._strategy: tf.distribute.Strategy | None = None
        self._threads: int | None = None  # of this process, once it is configured
        self._data: Dataset | None = None
        self._compiled: dict[TrialSpec, Compiled] = {}

    def begin(self, phase_began: float | None = None) -> None:
        """Begin to measure what the lane does before a trial trains. `phase_began`: by default now."""
        self._phases: dict[str, float] = {}
        self._phase_began = time.monotonic() if phase_began is None else phase_began

    def suits(self, spec: TrialSpec) -> bool:
        """Return whether this process can train a trial with the threads that it needs."""
        return self._threads in (None, self._resources.threads_for(spec))

    def configure(self, spec: TrialSpec) -> None:
        """Configure TensorFlow for a trial, unless it is already configured."""
        if self._strategy is None:
            configure_process(self._resources, spec)
            self._threads = self._resources.threads_for(spec)
            self._refused_by_gpu = refused_by_gpu()
            self._strategy = mirrored_strategy(self._resources)
            self._end_phase("import")

    def load(self, load: Callable[[], Dataset]) -> None:
        """Load the dataset, unless it is already loaded."""
        if self._data is None:
            self._data = load().in_memory()
            self._end_phase("data")

    def _end_phase(self, name: str) -> None:
        now = time.monotonic()
        self._phases[name], self._phase_began = round(now - self._phase_began, 3), now

    @property
    def _dataset(self) -> Dataset:
        assert self._data is not None, "call `load` first"
        return self._data

    def run(self, assignment: Assignment) -> Iterator[TrialEvent]:
        """Train a trial and yield its events from `TrialStarted` on."""
        begin = time.monotonic()
        spec = assignment.spec
        if reason := self._dataset.report.refused.get(spec.model):
            raise ModelError(reason)
        compiled = self._compile(spec, assignment.source)
        try:
            state, notices = resume(compiled, assignment)
            self._end_phase("compile")
            yield TrialStarted(
                trial=spec.id,
                pid=os.getpid(),
                node=self._place.node,
                devices=devices_of(self._strategy),
                gpus=self._place.gpus,
                notices=(*compiled.notices, *notices),
                resumed_after=epochs_so_far(state, compiled.plan),
                phases=self._phases,
            )
            setup_seconds = time.monotonic() - begin
            # A rung is scored without a history.
            history = [*assignment.epochs[: state.epoch]] if assignment.until is None else []
            state = yield from train(compiled, assignment, state, history, self._checkpoint_seconds)
            if assignment.until is not None and spec.configuration is not None:
                yield from rung_done(compiled, spec, state)
            else:
                yield from self._result(compiled, assignment, state, history, setup_seconds)
        finally:
            compiled.trainer.release()

    def _result(
        self,
        compiled: Compiled,
        assignment: Assignment,
        state: TrainingState,
        history: list[EpochDone],
        setup_seconds: float,
    ) -> Iterator[TrialEvent]:
        """Evaluate the best epoch on the test images and those of the trial's fold, and yield the result."""
        spec = assignment.spec
        test = self._dataset.test
        plan = compiled.plan
        yield (evaluating := Evaluating(trial=spec.id))
        tested = yield from evaluate_on_test(compiled, self._dataset, spec, state.weights, evaluating)
        probabilities = tested.probabilities
        of_fold = None
        validation = state.best.validation
        if compiled.fold is not None:
            (of_fold,) = yield from compiled.trainer.predictor.evaluate(state.weights, compiled.fold.images, evaluating)
            validation = accuracy_of(of_fold, compiled.fold.labels, compiled.class_sizes)
        rates = learning_rates(spec, plan.steps)
        last_steps = [(done.epoch - 1) * plan.steps + plan.steps_for(done.train.total) - 1 for done in history]
        devices = devices_of(self._strategy)
        source = {SOURCE_FILE: assignment.source.content} if assignment.source else {}
        margins = {MARGINS: Margins.of(state.margins, compiled.train).file()} if state.margins.any() else {}
        measured = accuracy_of(probabilities, test.labels)
        record = TrialRecord(
            id=spec.id,
            spec=spec,
            test=measured,
            test_accuracy=measured.value,
            test_balanced_accuracy=accuracy_of(probabilities, test.labels, np.bincount(test.labels)).score,
            test_ci95=accuracy_interval(probabilities.argmax(axis=1) == test.labels, groups=self._dataset.test_groups),
            validation=validation,
            best_epoch=state.best.epoch,
            trained_epochs=state.epoch - 1 + history[-1].train.total / len(compiled.train),
            train_seconds=state.seconds,
            images_per_second=sum(done.train.total for done in history) / state.seconds,
            setup_seconds=setup_seconds,
            cpus=self._resources.cpus,
            replicas=len(devices),
            devices=devices,
            gpus=self._place.gpus,
            node=self._place.node,
            rejected=tested.rejected,
            weights_sha256=compiled.trainer.model.stored(state.weights).sha256(),
            versions={**package_versions(), **gpu_facts()},
        )
        yield TrialResult(
            trial=spec.id,
            record=record,
            history=tuple(history),
            probabilities=probabilities,
            of_fold=of_fold,
            files={**compiled.trainer.model.files(state.weights), **tested.files, **margins, **source},
            tensorboard=event_file(
                history, rates[last_steps], state.best.epoch, probabilities, test, self._dataset.classes
            ),
        )

    def _compile(self, spec: TrialSpec, source: ModelFile | None) -> Compiled:
        """Compile the model of a trial, unless an earlier trial of the same group did."""
        group = spec.compile_group
        if group in self._compiled:
            self._compiled[group] = self._compiled.pop(group)  # the last one is the most recently used
        else:
            while len(self._compiled) >= MAX_COMPILED:  # a search may have hundreds of groups
                del self._compiled[next(iter(self._compiled))]
            train, held_out = self._splits(spec)
            validation, fold = (held_out, None) if spec.fold is None else (None, held_out)
            notices: tuple[str, ...] = ()
            batch_size = min(spec.global_batch_size, len(train))
            if batch_size < spec.global_batch_size:
                notices = (f"limited the global batch of {spec.global_batch_size} to all {batch_size} training images",)
            image_shape = self._dataset.image_shape
            num_replicas = len(devices_of(self._strategy))
            model = build_model(spec, image_shape, len(self._dataset.classes), source, self._pretrained())
            is_slow = not self._resources.gpus and not model.fast_in_xla_on_cpu
            made_up = MadeUp()
            if spec.none_class:
                made_up = MadeUp(self._dataset.made_up, self._dataset.counter_examples(TRAIN))
            plan = Plan(len(train), batch_size, num_replicas, math.prod(image_shape), is_slow, made_up)
            start = warm_start(model, spec, image_shape, self._dataset.classes, source, self._pretrained())
            notices += (start.notice,) if start.notice else ()
            trainer = Trainer(model, spec, self._strategy, start.initial_weights, xla=not self._refused_by_gpu)
            trainer.compile(train, plan)
            if self._refused_by_gpu and not spec.deterministic:
                notices = (*notices, f"{spec.model} is trained without XLA: {self._refused_by_gpu}")
            if trainer.refused_by_xla is not None:
                refused = f"{spec.model} is trained without XLA, which cannot compile {trainer.refused_by_xla}"
                notices = (*notices, refused)
            if spec.freeze_epochs and not any(trainer.is_frozen):
                no_effect = "--freeze-epochs freezes nothing: a file or a version gives no weight, or every one"
                notices = (*notices, no_effect)
            if not trainer.weights.trainable:
                notices = (*notices, f"{spec.model} has nothing to train: none of its weights is trainable")
            sizes = None
            if held_out is not None and spec.score == "balanced-accuracy":  # together, folds hold out all train images
                labels = held_out.labels if fold is None else self._dataset.train.labels
                sizes = np.bincount(labels, minlength=len(self._dataset.classes))
            num_tested = num_evaluated(self._dataset, spec, len(train)) + (0 if fold is None else len(fold))
            self._compiled[group] = Compiled(trainer, plan, train, validation, notices, fold, sizes, num_tested)
        return self._compiled[group]

    def _splits(self, spec: TrialSpec) -> tuple[Table, Table | None]:
        """Return the images to train on, and those of the trial's fold or, without folds, those for validation."""
        if spec.fold is None or spec.folds is None:
            return self._dataset.train_and_validation(spec.validation_percent)
        return self._dataset.train_and_fold(spec.fold, spec.folds)
