"""Small faults that are put into the driver on purpose. Each must be noticed by one of the invariants that it names.

A mutant replaces one piece of source text in a copy of the project, in which worlds are then simulated.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.job import ROOT

COPIED = ("cluster", "jobs", "mnist_lib", "tests")
WORLDS = 1_000  # that are simulated at most


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Args:
        name: what the driver does wrong.
        file, old, new: in this file, `old` is replaced by `new`.
        invariants: one of them must be broken, see `tests.support.simulation.invariants`.
    """

    name: str
    file: str
    old: str
    new: str
    invariants: tuple[str, ...]


FAN_OUT, ATTEMPTS, RECORDER = "cluster/fan_out.py", "cluster/attempts.py", "jobs/train/recorder.py"
MUTANTS = (
    Mutant(
        "a trial never resumes from its checkpoint",
        RECORDER,
        "return Assignment(spec, checkpoint, self.files.get(spec.model), ends_by, epochs=epochs)",
        "return Assignment(spec, None, self.files.get(spec.model), ends_by)",
        ("resumption",),
    ),
    Mutant(
        "there is no pause after a death",
        "cluster/deadlines.py",
        "return float(min(longest, first * 2.0 ** min(deaths - 1, 30)))",
        "return 0.0",
        ("back-off",),
    ),
    Mutant(
        "silence is noticed after sixty times the limit",
        ATTEMPTS,
        "if silent > self._deadline(limits):",
        "if silent > 60 * self._deadline(limits):",
        ("silence",),
    ),
    Mutant(
        "lost nodes are ignored",
        FAN_OUT,
        "lost = self._cluster.head.dead_nodes",
        "lost: frozenset[str] = frozenset()",
        ("lost nodes",),
    ),
    Mutant(
        "nodes that join are not used",
        FAN_OUT,
        "max(1, self._plan.count(head.live_nodes))",
        "self._plan.lanes",
        ("capacity",),
    ),
    Mutant(
        "there is one retry too many",
        ATTEMPTS,
        "deaths.total() > limits.max_failures:",
        "deaths.total() > limits.max_failures + 1:",
        ("attempts",),
    ),
    Mutant(
        "results are never stored",
        RECORDER,
        "self.writes.put(lambda: self._store(event, number, with_model=chosen), event.trial, size=size)",
        "self.writes.put(lambda: None, event.trial, size=size)",
        ("storing results",),
    ),
    Mutant(
        "checkpoints are never stored",
        RECORDER,
        'self.writes.put(write, trial, in_place_of="checkpoint", size=len(content))',
        "self.writes.put(lambda: None, trial)",
        ("storing checkpoints",),
    ),
    Mutant(
        "a lane is judged before its unread events",
        FAN_OUT,
        "for _ in range(MAX_UNREAD_EVENTS):",
        "for _ in range(0):",
        ("healthy lanes",),
    ),
    Mutant(
        "an unread result is thrown away when its node is lost",
        FAN_OUT,
        "                yield from self._abandon_if_nothing_is_unread(attempt)",
        "                death = attempt.overdue(self._limits, self._now, lost)\n"
        "                yield from self._abandon(attempt, death) if death.cause is Cause.NODE_LOST else"
        " self._abandon_if_nothing_is_unread(attempt)",
        ("arrived results",),
    ),
    Mutant(
        "an event of another trial counts",
        FAN_OUT,
        "elif event.trial and (attempt.trial is None or event.trial != attempt.trial.id):",
        "elif event.trial and attempt.trial is None:",
        ("one end",),
    ),
    Mutant(
        "an abandoned lane is still heard",
        FAN_OUT,
        "        del self._attempts[attempt.lane]\n        self._cluster.kill(attempt.lane, attempt.worker)\n",
        "        heard = Attempt(lane=attempt.lane, worker=attempt.worker, state_since=self._now)\n"
        "        heard.close(self._now)\n"
        "        self._attempts[attempt.lane] = heard\n"
        "        self._cluster.kill(attempt.lane, attempt.worker)\n",
        ("late events",),
    ),
    Mutant(
        "long intervals between heartbeats are taken for silence",
        ATTEMPTS,
        "return max(limits.training_seconds, 10 * self._longest)",
        "return min(limits.training_seconds, self._longest)",
        ("healthy lanes",),
    ),
    Mutant(
        "a wait is not logged",
        "cluster/deadlines.py",
        "if self._clock.monotonic() - self._logged_at < self._log_interval:",
        "if True:",
        ("announcements",),
    ),
    Mutant(
        "lanes are not ended with the run",
        FAN_OUT,
        "            self._cluster.kill(attempt.lane, attempt.worker if attempt.trial else None)\n",
        "            pass\n",
        ("nothing left",),
    ),
    Mutant(
        "a trial whose lane dies before it begins is queued twice",
        FAN_OUT,
        "self._queue.put_first([trial])",
        "self._queue.put_first([trial, trial])",
        ("recorded results",),
    ),
    Mutant(
        "a stored result is not read back",
        RECORDER,
        "ended = read_result(folder, spec) if folder.resumed else None",
        "ended = None",
        ("stored results",),
    ),
    Mutant(
        "a stored result seems damaged",
        "mnist_lib/store/resumption.py",
        "and len(probabilities) == images",
        "and len(probabilities) != images",
        ("stored results",),
    ),
    Mutant(
        "a run without a time limit cuts its trials short",
        RECORDER,
        "deadline=deadline,",
        "deadline=clock.monotonic() + 30,",
        ("weights",),
    ),
    Mutant(
        "an event that never arrives is awaited a hundred times too long",
        ATTEMPTS,
        "if now - self.fetching_since > limits.fetch_seconds:",
        "if now - self.fetching_since > 100 * limits.fetch_seconds:",
        ("bound",),
    ),
    Mutant(
        "every lost worker is reported as a bug",
        RECORDER,
        "trial=lost.trial, code=cause.code,",
        'trial=lost.trial, code="E-BUG",',
        ("warnings",),
    ),
    Mutant(
        "pauses are a hundred times longer",
        FAN_OUT,
        "self._start_lanes_at = self._now + back_off(self._deaths_in_a_row)",
        "self._start_lanes_at = self._now + 100 * back_off(self._deaths_in_a_row)",
        ("capacity",),
    ),
    Mutant(
        "the writes of a driver are not refused after another one took over",
        "mnist_lib/objects/lease.py",
        "        if is_superseded(self.objects, self.folder, self.number):",
        "        if False:",
        ("take-over",),
    ),
    Mutant(
        "one unanswered question to the head ends a driver",
        "cluster/nodes.py",
        "if silent >= self._timeout_seconds:",
        "if silent >= 0:",
        ("drivers",),
    ),
)


def broken_invariant(mutant: Mutant, folder: Path) -> str:
    """Return the invariant that the mutant breaks first, and the seed of the world; "" if it breaks none."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} has {text.count(mutant.old)} times: {mutant.old}"
    path.write_text(text.replace(mutant.old, mutant.new))
    command = [sys.executable, "-m", "tests.support.simulation.campaign", str(WORLDS), "0", "--first"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
