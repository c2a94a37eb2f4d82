"""Faults in the driver, which the simulated worlds must notice."""

from tests.support.mutants.mutant import Mutant

FAN_OUT, ATTEMPTS, RECORDER = "cluster/fan_out.py", "cluster/attempts.py", "jobs/train/recorder.py"
MUTANTS = (
    Mutant(
        name="a trial never resumes from its checkpoint",
        file=RECORDER,
        old="return Assignment(spec, checkpoint, self.files.get(spec.model), ends_by, epochs=epochs)",
        new="return Assignment(spec, None, self.files.get(spec.model), ends_by)",
        invariants=("resumption",),
        first_world=17,
    ),
    Mutant(
        name="there is no pause after a death",
        file="cluster/deadlines.py",
        old="return float(min(longest, first * 2.0 ** min(deaths - 1, 30)))",
        new="return 0.0",
        invariants=("back-off",),
    ),
    Mutant(
        name="silence is noticed after sixty times the limit",
        file=ATTEMPTS,
        old="if silent > self._deadline(limits):",
        new="if silent > 60 * self._deadline(limits):",
        invariants=("silence",),
        first_world=24,
    ),
    Mutant(
        name="lost nodes are ignored",
        file=FAN_OUT,
        old="lost = self._cluster.head.dead_nodes",
        new="lost: frozenset[str] = frozenset()",
        invariants=("lost nodes",),
        first_world=19,
    ),
    Mutant(
        name="nodes that join are not used",
        file=FAN_OUT,
        old="max(1, self._plan.count(head.live_nodes))",
        new="self._plan.lanes",
        invariants=("capacity",),
        first_world=7,
    ),
    Mutant(
        name="there is one retry too many",
        file=ATTEMPTS,
        old="deaths.total() > limits.max_failures:",
        new="deaths.total() > limits.max_failures + 1:",
        invariants=("attempts",),
        first_world=8,
    ),
    Mutant(
        name="results are never stored",
        file=RECORDER,
        old="self.writes.put(lambda: self._store(event, number, with_model=chosen), event.trial, size=size)",
        new="self.writes.put(lambda: None, event.trial, size=size)",
        invariants=("storing results",),
        first_world=3,
    ),
    Mutant(
        name="checkpoints are never stored",
        file=RECORDER,
        old='self.writes.put(write, trial, in_place_of="checkpoint", size=len(content))',
        new="self.writes.put(lambda: None, trial)",
        invariants=("storing checkpoints",),
        first_world=35,
    ),
    Mutant(
        name="a lane is judged before its unread events",
        file=FAN_OUT,
        old="for _ in range(MAX_UNREAD_EVENTS):",
        new="for _ in range(0):",
        invariants=("healthy lanes",),
        first_world=7,
    ),
    Mutant(
        name="an unread result is thrown away when its node is lost",
        file=FAN_OUT,
        old="                yield from self._abandon_if_nothing_is_unread(attempt)",
        new=(
            "                death = attempt.overdue(self._limits, self._now, lost)\n"
            "                yield from self._abandon(attempt, death) if death.cause is Cause.NODE_LOST else"
            " self._abandon_if_nothing_is_unread(attempt)"
        ),
        invariants=("arrived results",),
        first_world=128,
    ),
    Mutant(
        name="an event of another trial counts",
        file=FAN_OUT,
        old="elif event.trial and (attempt.trial is None or event.trial != attempt.trial.id):",
        new="elif event.trial and attempt.trial is None:",
        invariants=("one end",),
        first_world=14,
    ),
    Mutant(
        name="an abandoned lane is still heard",
        file=FAN_OUT,
        old="        del self._attempts[attempt.lane]\n        self._cluster.kill(attempt.lane, attempt.worker)\n",
        new=(
            "        heard = Attempt(lane=attempt.lane, worker=attempt.worker, state_since=self._now)\n"
            "        heard.close(self._now)\n"
            "        self._attempts[attempt.lane] = heard\n"
            "        self._cluster.kill(attempt.lane, attempt.worker)\n"
        ),
        invariants=("late events",),
    ),
    Mutant(
        name="long intervals between heartbeats are taken for silence",
        file=ATTEMPTS,
        old="return max(limits.training_seconds, 10 * self._longest)",
        new="return min(limits.training_seconds, self._longest)",
        invariants=("healthy lanes",),
    ),
    Mutant(
        name="a wait is not logged",
        file="cluster/deadlines.py",
        old="if self._clock.monotonic() - self._logged_at < self._log_interval:",
        new="if True:",
        invariants=("announcements",),
    ),
    Mutant(
        name="lanes are not ended with the run",
        file=FAN_OUT,
        old="            self._cluster.kill(attempt.lane, attempt.worker if attempt.trial else None)\n",
        new="            pass\n",
        invariants=("nothing left",),
        first_world=9,
    ),
    Mutant(
        name="a trial whose lane dies before it begins is queued twice",
        file=FAN_OUT,
        old="self._queue.put_first([trial])",
        new="self._queue.put_first([trial, trial])",
        invariants=("recorded results",),
        first_world=9,
    ),
    Mutant(
        name="a stored result is not read back",
        file=RECORDER,
        old="ended = read_result(folder, spec) if folder.resumed else None",
        new="ended = None",
        invariants=("stored results",),
        first_world=17,
    ),
    Mutant(
        name="a stored result seems damaged",
        file="mnist_lib/store/resumption.py",
        old="hashlib.sha256(content).hexdigest() != sha256:",
        new="hashlib.sha256(content).hexdigest() == sha256:",
        invariants=("stored results",),
        first_world=17,
    ),
    Mutant(
        name="a run without a time limit cuts its trials short",
        file=RECORDER,
        old="deadline=deadline,",
        new="deadline=clock.monotonic() + 30,",
        invariants=("weights",),
        first_world=2,
    ),
    Mutant(
        name="an event that never arrives is awaited a hundred times too long",
        file=ATTEMPTS,
        old="if now - self.fetching_since > limits.fetch_seconds:",
        new="if now - self.fetching_since > 100 * limits.fetch_seconds:",
        invariants=("bound",),
        first_world=458,
    ),
    Mutant(
        name="every lost worker is reported as a bug",
        file=RECORDER,
        old="trial=lost.trial, code=cause.code,",
        new='trial=lost.trial, code="E-BUG",',
        invariants=("warnings",),
        first_world=5,
    ),
    Mutant(
        name="pauses are a hundred times longer",
        file=FAN_OUT,
        old="self._start_lanes_at = self._now + back_off(self._deaths_in_a_row)",
        new="self._start_lanes_at = self._now + 100 * back_off(self._deaths_in_a_row)",
        invariants=("capacity",),
        first_world=14,
    ),
    Mutant(
        name="a driver writes into the history of another one that took over",
        file="mnist_lib/store/runs.py",
        old="return next(name for name in names if self.objects.create(name, lines))",
        new="return next(name for name in names if self.objects.create(name, lines) or True)",
        invariants=("take-over",),
        first_world=9,
    ),
    Mutant(
        name="one unanswered question to the head ends a driver",
        file="cluster/nodes.py",
        old="if silent >= self._timeout_seconds:",
        new="if silent >= 0:",
        invariants=("drivers",),
    ),
)
