"""Faults in the driver, which the simulated worlds must notice."""

from tests.support.mutants.mutant import Mutant

SUPERVISOR = "cluster/supervisor.py"
LANES = "cluster/lanes.py"
QUEUE = "cluster/lanes.py"
LOOP = "jobs/train/supervision.py"
TRIALS = "jobs/train/trials.py"
RECORDER = "jobs/train/recorder.py"
MUTANTS = (
    Mutant(
        name="a trial never resumes from its checkpoint",
        file=TRIALS,
        old="return Assignment(spec, checkpoint, self._files.get(spec.model), deadline, epochs=epochs)",
        new="return Assignment(spec, None, self._files.get(spec.model), deadline)",
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
        file=LANES,
        old="if silent > allowed:",
        new="if silent > 60 * allowed:",
        invariants=("silence",),
        first_world=24,
    ),
    Mutant(
        name="lost nodes are ignored",
        file=LOOP,
        old="overdue(self._now, self._pool.head.dead_nodes, self._has_unread)",
        new="overdue(self._now, (), self._has_unread)",
        invariants=("lost nodes",),
        first_world=19,
    ),
    Mutant(
        name="nodes that join are not used",
        file=SUPERVISOR,
        old="room = max(1, self.plan.count(head.live_nodes))",
        new="room = self.plan.lanes",
        invariants=("capacity",),
        first_world=7,
    ),
    Mutant(
        name="there is one retry too many",
        file=QUEUE,
        old="deaths.total() >= limits.max_failures:",
        new="deaths.total() > limits.max_failures:",
        invariants=("attempts",),
        first_world=8,
    ),
    Mutant(
        name="results are never stored",
        file=TRIALS,
        old="self._recorder.writes.put(partial(self._store, result, with_model=chosen), result.trial, size=size)",
        new="self._recorder.writes.put(lambda: None, result.trial, size=size)",
        invariants=("storing results",),
        first_world=3,
    ),
    Mutant(
        name="checkpoints are never stored",
        file=RECORDER,
        old='self.writes.put(write, event.trial, in_place_of="checkpoint", size=len(event.content))',
        new="self.writes.put(lambda: None, event.trial)",
        invariants=("storing checkpoints",),
        first_world=35,
    ),
    Mutant(
        name="a lane is judged before its unread events",
        file=SUPERVISOR,
        old="if death and (lane.heard_late == MAX_UNREAD_EVENTS or not has_unread(lane.handle)):",
        new="if death:",
        invariants=("healthy lanes",),
        first_world=7,
    ),
    Mutant(
        name="an unread result is thrown away when its node is lost",
        file=SUPERVISOR,
        old="if death and (lane.heard_late == MAX_UNREAD_EVENTS or not has_unread(lane.handle)):",
        new="if death and (death.cause is Cause.NODE_LOST or not has_unread(lane.handle)):",
        invariants=("arrived results",),
        first_world=128,
    ),
    Mutant(
        name="an event of another trial counts",
        file=SUPERVISOR,
        old="if event.trial and (lane.trial is None or event.trial != lane.trial.id):",
        new="if event.trial and lane.trial is None:",
        invariants=("one end",),
        first_world=14,
    ),
    Mutant(
        name="an abandoned lane is still heard",
        file=SUPERVISOR,
        old="        del self._lanes[lane.handle]\n        self._idle.pop(lane.handle, None)\n",
        new=(
            "        lanes = self._lanes\n"
            "        del lanes[lane.handle]\n"
            "        self._idle.pop(lane.handle, None)\n"
            "        if death.may_be_alive:\n"
            "            lanes[lane.handle] = Lane(handle=lane.handle, state_since=now, state=LaneState.ENDING)\n"
        ),
        invariants=("late events",),
    ),
    Mutant(
        name="long intervals between heartbeats are taken for silence",
        file=LANES,
        old="allowed = max(allowed, 10 * self._longest)",
        new="allowed = min(allowed, self._longest)",
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
        file=SUPERVISOR,
        old="            actions.append(Kill(lane.handle, lane.worker if lane.trial else None))\n",
        new="            pass\n",
        invariants=("nothing left",),
        first_world=9,
    ),
    Mutant(
        name="a trial whose lane dies before it begins is queued twice",
        file=SUPERVISOR,
        old="self._queue.put(trials, first=True)",
        new="self._queue.put([*trials, *trials], first=True)",
        invariants=("recorded results",),
        first_world=9,
    ),
    Mutant(
        name="a stored result is not read back",
        file=TRIALS,
        old="result = read_result(folder, spec) if folder.resumed else None",
        new="result = None",
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
        file=LOOP,
        old="return self._source.progress.deadline - self._clock.monotonic()",
        new="return 30.0",
        invariants=("weights",),
        first_world=2,
    ),
    Mutant(
        name="an event that never arrives is awaited a hundred times too long",
        file=LANES,
        old="if now - self.fetching_since > limits.fetch_seconds:",
        new="if now - self.fetching_since > 100 * limits.fetch_seconds:",
        invariants=("bound",),
        first_world=458,
    ),
    Mutant(
        name="every lost worker is reported as a bug",
        file=RECORDER,
        old="trial=lost.trial, code=code,",
        new='trial=lost.trial, code="E-BUG",',
        invariants=("warnings",),
        first_world=5,
    ),
    Mutant(
        name="pauses are a hundred times longer",
        file=SUPERVISOR,
        old="self._start_lanes_at = now + back_off(self._deaths_in_a_row)",
        new="self._start_lanes_at = now + 100 * back_off(self._deaths_in_a_row)",
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
