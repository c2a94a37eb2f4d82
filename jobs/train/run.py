"""A run, from the cluster and the dataset to the stored models. It never imports TensorFlow."""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self

from cluster.nodes import live_nodes, wait_for_plan
from cluster.ray_lanes import RayLanes
from cluster.session import end_children, end_of_node
from cluster.supervisor import Supervisor
from cluster.tasks import driver_node, put
from jobs.console.exit_codes import TrainingError
from jobs.console.signals import stoppable
from jobs.console.terminal import step
from jobs.train import worker
from jobs.train.commands import annexes
from jobs.train.display import display
from jobs.train.options import TrainOptions
from jobs.train.plan import AnyPlan, flags_of_defaults, weights_texts
from jobs.train.planning import cluster_session, lanes_for, with_versions
from jobs.train.recorder import Recorder
from jobs.train.run_dataset import RunDataset
from jobs.train.supervision import Loop, TrialSource
from jobs.train.trials import Trials
from mnist_lib.environment import moment_of, now_text, steady_time
from mnist_lib.errors import IntegrityError
from mnist_lib.model_file import Call, trust
from mnist_lib.models.pretrained import Pretrained
from mnist_lib.objects.protocol import failpoint
from mnist_lib.report.aggregation import Tally, folds_summary, label_errors
from mnist_lib.report.summary import Stored, summarize
from mnist_lib.report.texts import objections_text
from mnist_lib.results import TrialRecord, TrialResult
from mnist_lib.run_documents import FailedTrial, PartOfRun, SearchSummary, Summary, Timing
from mnist_lib.settings import field_values
from mnist_lib.spec import TrialSpec
from mnist_lib.store.champions.appointment import champion
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Decision, Rule
from mnist_lib.store.contents import contents_of, stored_weights
from mnist_lib.store.datasets import store_state
from mnist_lib.store.history import DriverConnected, LanesPlanned
from mnist_lib.store.publishing import publish
from mnist_lib.store.reference import record_last_run
from mnist_lib.store.resumption import delete_trial_state, forget_result
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import Version
from mnist_lib.wording import counted

log = logging.getLogger(__name__)

STORE_SECONDS = 5.0  # of a time limit, reserved for the steps after training: storing, the report, the end of Ray


@contextlib.contextmanager
def run_on_cluster(
    plan: AnyPlan, folder: RunFolder, code: Mapping[str, Any], begin: float, advice: str = ""
) -> Iterator["Run[AnyPlan]"]:
    """Join or start the cluster, begin to prepare the dataset there, and yield the run.

    Args:
        advice: what to print when the user interrupts the run.
    """
    options = plan.options
    objects = folder.objects
    for annex in annexes(wanted=options.report).values():
        annex.load_in_background()
    for text in weights_texts(plan):
        log.info("%s", text)
    plan = with_versions(plan, folder)
    weights = {version.facts.weights_sha256: stored_weights(objects, version) for version in plan.warm_starts.values()}
    files = {file.sha256: file for of_model in plan.weights.values() for file in of_model.values()}
    deadline = deadline_of(options, begin - folder.seconds_worked()) - STORE_SECONDS
    with cluster_session(options) as cluster_seconds, stoppable(advice, end_children, end_of_node()):
        pretrained = put(Pretrained(files, weights))
        data = RunDataset(folder, plan, pretrained)
        start = steady_time() - begin - cluster_seconds
        phases = {"start": round(start, 3), "cluster": round(cluster_seconds, 3)}
        folder.append_history(DriverConnected(phases=phases))
        yield Run(plan=plan, folder=folder, code=code, begin=begin, deadline=deadline, data=data, pretrained=pretrained)


def deadline_of(options: TrainOptions, begin: float) -> float:
    """Return the value of `steady_time()` at which a run should end, or infinity.

    Args:
        begin: when the command began, by `steady_time()`, less the time that earlier drivers worked on the run.
    """
    until = moment_of(options.finish_by).timestamp() if options.finish_by else math.inf
    return until if options.max_seconds is None else min(until, begin + options.max_seconds)


@dataclass(frozen=True, kw_only=True)
class Run(Generic[AnyPlan]):
    """A run of `jobs.train` or `jobs.search` on a cluster. What its earlier drivers have finished is not repeated."""

    plan: AnyPlan
    folder: RunFolder
    code: Mapping[str, Any]  # the result of `code_version`
    begin: float  # the value of `steady_time()` when the command began
    deadline: float = math.inf  # the value of `steady_time()` at which the last trial should end
    data: RunDataset
    pretrained: Any = None  # Ray's reference to what trials start from

    @property
    def options(self) -> TrainOptions:
        return self.plan.options

    def with_defaults(self) -> Self:
        """Return the run with the defaults that the number of images decides; wait for this number if necessary."""
        plan = self.plan.resolve_defaults(lambda: len(self.data.info.train))
        if flags := " ".join(flags_of_defaults(plan.options, self.options.unresolved)):
            log.info("%s: default for its number of images: %s", self.data.name, flags)
        return replace(self, plan=plan)

    def train(self) -> Summary:
        """Train all trials of the plan, store the results, and return the summary.

        Raises:
            DataError: the dataset is missing or damaged; nothing is trained.
            ResourcesError, ClusterLostError: as in `Loop.run`.
            VersionsError: the workers have different package versions.
            StoreError: the storage cannot be written, or another process took over the run.
        """
        pool = None
        if not self.folder.resumed:  # the earlier driver may have left fewer trials
            pool = self.pool("trials", len(self.plan.trials))
            pool.start_ahead()  # they import TensorFlow while the dataset is prepared
        run = self.with_defaults()
        return run.train_trials(run.plan.trials, pool=pool)

    def train_trials(
        self, trials: Sequence[TrialSpec], search: SearchSummary | None = None, pool: RayLanes | None = None
    ) -> Summary:
        """Train these trials on the connected cluster, store the results, and return the summary, as `train` does.

        Args:
            search: what the summary says about the search that has found the settings of these trials.
            pool: the lanes for the trials; by default, new lanes for the trials that no earlier driver has finished.
        """
        files = self.plan.files
        trust([Call(files[s.model], s.model, s.arguments, s.weights) for s in trials if s.model in files])
        with Recorder(self.folder) as recorder:
            results = Trials(recorder, trials, files)
            if results.unfinished:
                if pool is None:
                    pool = self.pool("trials", len(results.unfinished))
                    pool.start_ahead()
                self.drive(results, recorder, pool, self.deadline)
        # A run of which nothing can be stored stays unfinished, so that the same command trains it again.
        if self.options.require_all or not results.tallies:
            _require_all(results.rows)
        return self.store(results, search)

    def pool(self, of: PartOfRun, trials: int) -> RayLanes:
        """Wait until at least one trial fits on the nodes, and return lanes for the trials. The lanes start later."""
        options = self.options
        plan = wait_for_plan(lambda: lanes_for(options, trials, live_nodes()), options.wait_for_resources or 0.0)
        log.info("starting %s for %s on %s", plan, counted(trials, "trial") if of == "trials" else of, options.dataset)
        resources = options.resources(self._first_planned_cpus(of, plan.cpus), plan.gpus)
        inputs = [self.data.images, self.pretrained, driver_node()]
        return RayLanes(worker.run_lane, plan, options.limits(), inputs, resources, options.checkpoint_seconds)

    def _first_planned_cpus(self, of: PartOfRun, planned: int) -> int:
        """Return the CPUs per trial that an earlier driver has planned; if none has, record and return `planned`."""
        for entry in self.folder.history() if self.folder.resumed else ():
            if isinstance(entry, LanesPlanned) and entry.of == of:
                if entry.cpus != planned:
                    log.info("each trial keeps the threads of %s, as when the run began", counted(entry.cpus, "CPU"))
                return entry.cpus
        self.folder.append_history(LanesPlanned(of=of, cpus=planned))
        self.folder.flush()  # before anything is trained
        return planned

    def drive(self, source: TrialSource, recorder: Recorder, pool: RayLanes, deadline: float = math.inf) -> None:
        """Train the trials of the source. `deadline`: when the last trial should end, by `steady_time()`."""
        options = self.options
        self.data.wait()
        source.progress.lanes = pool.plan.lanes
        source.progress.deadline = deadline
        supervisor = Supervisor(options.limits(), pool.plan, options.max_concurrent)
        with display(source.progress, shown=not options.quiet) as show:
            Loop(pool, supervisor, source, recorder, show=show).run()

    # Results

    def store(self, results: Trials, search: SearchSummary | None = None) -> Summary:
        """Store the models, the report and the summary of trained trials, and delete what only resuming needed.

        Args:
            search: as in `train_trials`.

        Returns:
            the summary.
        """
        facts = self.data.info
        trained = steady_time()
        shown = not self.options.quiet
        for tally in results.tallies.values():
            self._require_model(tally)
        folds = folds_summary(results.of_folds, self.data.content()) if results.of_folds else None
        errors = label_errors([tally.chosen for tally in results.tallies.values()], facts, self.data.content)
        store_state(self.folder.objects, facts.name, facts.fingerprint, self.data.state())  # promotions compare states
        with step("storing the models", shown=shown):
            stored = {model: self._publish(tally.chosen) for model, tally in sorted(results.tallies.items())}
        summary = summarize(
            run=self.folder.run,
            dataset=self.data.summary(),
            facts=facts,
            tallies=results.tallies,
            stored=stored,
            trials=results.rows,
            timing=Timing(
                wall_seconds=steady_time() - self.begin,
                start_seconds=self.data.begin - self.begin,
                prepare_seconds=self.data.prepared - self.data.begin,
                trials_seconds=trained - self.data.prepared,
                store_seconds=steady_time() - trained,
            ),
            ended=now_text(),
            earlier=self.data.earlier,
            search=search,
            folds=folds,
            label_errors=errors,
        )
        for text, annex in annexes(wanted=self.options.report).items():
            with step(text, shown=shown):
                annex.add(self.folder, summary, results.tallies, self.data.content, self.code, type(self.options))
        failpoint("run.before_summary")
        self.folder.complete(summary)
        finish(self.folder, summary, report=self.options.report)
        return summary

    def _require_model(self, tally: Tally) -> None:
        """Raise IntegrityError if no result of a model has its files. Warn if those of a better trial are lost."""
        best = tally.best_trial
        chosen = tally.chosen
        if not chosen.files:
            forget_result(self.folder, best)
            raise IntegrityError(
                f"{best}: expected the files of its model, got none, since the result of a better trial was lost;"
                f" nothing is stored yet; the same command trains {best} again"
            )
        if chosen.trial != best:
            log.warning("%s: its model and a better trial's result are lost; storing %s instead", best, chosen.trial)

    def _publish(self, result: TrialResult) -> Stored:
        """Publish the chosen trial of a model as a version, and promote it if the rule allows it."""
        folder = self.folder
        model = result.record.spec.model
        files, about = contents_of(result, self.data.info, folder.run, self.code)
        version = publish(folder.objects, model, folder.run, files, about)
        decision = self._objection() or promote(
            folder.objects, version, Rule(**field_values(self.options, Rule)), self.data.predict
        )
        return Stored(
            version=version.number,
            champion=self._is_champion(version),
            promotion=decision.why,
            significance=decision.budget.document() if decision.budget else None,
        )

    def _objection(self) -> Decision | None:
        """Return the refusal of every version of this run if its dataset has changed unexpectedly, or None."""
        dataset = self.data.summary()
        if not dataset.objections or self.options.promote == "never":
            return None
        return Decision(False, objections_text(dataset.name, dataset.objections))

    def _is_champion(self, version: Version) -> bool:
        try:
            newest = champion(self.folder.objects, version.model, self.data.info.name)
        except IntegrityError:  # the log of champions is damaged
            return False
        return newest is not None and newest.version == version.number


def finish(folder: RunFolder, summary: Summary, *, report: bool) -> None:
    """Do the steps that follow the summary of a run, also for a driver that was killed before or during them."""
    record_last_run(folder, summary)
    failpoint("run.before_forget")
    delete_trial_state(folder, [trial.id for trial in summary.trials])
    for annex in annexes(wanted=report).values():
        annex.update(folder.objects, folder.run)


def _require_all(trials: Sequence[TrialRecord | FailedTrial]) -> None:
    """Raise TrainingError if a trial has failed for a reason that may not recur."""
    lost = [(trial.id, trial.error) for trial in trials if isinstance(trial, FailedTrial) and trial.error.retry]
    if lost:
        (trial, error), *others = lost
        more = f" (and {counted(len(others), 'other trial')})" if others else ""
        raise TrainingError(
            f"{trial}{more}: {error.message}; nothing is stored yet; the same command trains what is missing",
            error.code,
        )
