"""The progress of a run on standard error: a live table on a terminal, otherwise log lines at intervals."""

import contextlib
import enum
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.deadlines import Clock
from cluster.nodes import makespan
from cluster.supervisor import LostAttempt
from jobs.console.terminal import safe_streams, terminal
from mnist_lib.environment import steady_time
from mnist_lib.results import EpochDone, Heartbeat, RungDone, TrialFailure, TrialRecord, TrialResult, TrialStarted
from mnist_lib.run_documents import FailedTrial
from mnist_lib.spec import TrialSpec
from mnist_lib.wording import duration

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # between two log lines of a trial
ANY_LINE_SECONDS = 1.0  # between any two log lines
GAP = 2  # characters between two columns of the table
MAX_TRIAL_WIDTH = 28
MIN_TRIAL_WIDTH = 8
MAX_BAR_WIDTH = 24
MIN_BAR_WIDTH = 4
OPTIONAL = ("node", "images/s", "loss", "time left", "attempt")  # omitted in this order if the terminal is narrow


class State(enum.Enum):
    """The state of a trial, in the order of the live table."""

    RUNNING = "running"
    RETRYING = "retrying"  # its worker died; another attempt follows
    FAILED = "failed"
    DONE = "done"
    WAITING = "waiting"


@dataclass
class TrialProgress:
    id: str
    model: str
    epochs: int  # to train
    validates: bool
    state: State = State.WAITING
    epoch: float = 0  # trained so far, with the fraction of the current one
    started: tuple[float, float] = (0.0, 0.0)  # the value of `time.monotonic()` and the epoch when its attempt started
    loss: float | None = None
    accuracy: float | None = None  # after the last epoch, on validation images or, if there are none, training images
    score_name: str = "accuracy"  # or "balanced accuracy"
    test_accuracy: float | None = None  # None until the trial is done
    images_per_second: float | None = None
    attempt: int = 1
    node: str = ""
    end: int = 0  # 1 for the trial that ended first, 2 for the next; 0 for a trial that has not ended


class RunProgress:
    """The progress of trials, in their order."""

    is_tested = True  # whether trials are measured on the test images

    def __init__(self, trials: Sequence[TrialSpec] = ()) -> None:
        self.begin = time.monotonic()
        self.lanes = 1  # how many trials run at once
        self.deadline = math.inf  # the value of `steady_time()` at which the last trial should end
        self.trials: dict[str, TrialProgress] = {}
        self._epochs: dict[str, tuple[float, float]] = {}  # model -> number and total seconds of its epochs
        self._ended = 0
        for spec in trials:
            self.add(spec, spec.epochs)

    def add(self, spec: TrialSpec, epochs: int) -> None:
        """Show a trial that is to be trained up to this number of epochs."""
        self.trials[spec.id] = TrialProgress(spec.id, spec.model, epochs, spec.validation_percent != 0)

    def restore(self, rows: Sequence[TrialRecord | FailedTrial]) -> None:
        """Show the trials that earlier drivers have finished."""
        for row in rows:
            trial = self.trials[row.id]
            if isinstance(row, TrialRecord):
                trial.epoch = row.trained_epochs
                trial.test_accuracy = row.test_accuracy
            trial.attempt = row.attempts
            self.end(trial, State.DONE if isinstance(row, TrialRecord) else State.FAILED)

    def end(self, trial: TrialProgress, state: State) -> None:
        """Note that a trial has ended."""
        self._ended += 1
        trial.state = state
        trial.end = self._ended

    def update(self, event: object, attempt: int) -> TrialProgress | None:
        """Apply an event of this attempt at a trial; return the trial that it changed, if any."""
        trial = self.trials.get(getattr(event, "trial", ""))
        if trial is None:
            return None
        match event:
            case TrialStarted():
                trial.state = State.RUNNING
                trial.epoch = event.resumed_after
                trial.node = event.node
                trial.attempt = attempt
                trial.started = (time.monotonic(), event.resumed_after)
            case Heartbeat():
                trial.epoch = max(trial.epoch, event.epoch)
            case EpochDone():
                trial.epoch = event.epoch
                trial.loss = event.loss
                trial.accuracy = (event.validation or event.train).score
                trial.score_name = (event.validation or event.train).score_name
                trial.validates = event.validation is not None
                trial.images_per_second = event.images_per_second
                count, seconds = self._epochs.get(trial.model, (0.0, 0.0))
                self._epochs[trial.model] = (count + 1, seconds + event.seconds)
            case TrialResult():
                trial.test_accuracy = event.record.test_accuracy
                trial.images_per_second = event.record.images_per_second
                self.end(trial, State.DONE)
            case RungDone():
                self.end(trial, State.DONE)
            case TrialFailure():
                self.end(trial, State.FAILED)
            case LostAttempt():
                trial.state = State.RETRYING
            case _:
                return None
        return trial

    def count(self, state: State) -> int:
        return sum(trial.state is state for trial in [*self.trials.values()])  # a copy: a search adds trials meanwhile

    def seconds_left(self, trial: TrialProgress) -> float | None:
        """Return the expected seconds until a trial ends, from the mean duration of its model's epochs.

        Before the model's first epoch ends, the trial's own speed is used instead; None if it has trained nothing yet.
        """
        if trial.end:
            return 0.0
        begin, first = trial.started
        if trial.model in self._epochs:
            count, seconds = self._epochs[trial.model]
        elif trial.epoch > first:
            count = trial.epoch - first
            seconds = time.monotonic() - begin
        else:
            return None
        return self._until_deadline((trial.epochs - trial.epoch) * seconds / count)

    @property
    def total_seconds_left(self) -> float | None:
        """The expected seconds until the run ends; None if not known yet."""
        left = [self.seconds_left(trial) for trial in self.trials.values() if not trial.end]
        known = sorted((seconds for seconds in left if seconds is not None), reverse=True)
        lanes = max(self.lanes, self.count(State.RUNNING))
        return self._until_deadline(makespan(known, lanes)) if len(known) == len(left) else None

    def _until_deadline(self, seconds: float) -> float:
        return max(0.0, min(seconds, self.deadline - steady_time()))

    def totals(self) -> list[str]:
        """Return the parts of the line below the table."""
        counts = {state: self.count(state) for state in State}
        ended = counts[State.DONE] + counts[State.FAILED]
        parts = [f"{ended} of {len(self.trials)} trials ended"]
        parts += [f"{counts[s]} {s.value}" for s in (State.FAILED, State.RUNNING, State.RETRYING) if counts[s]]
        if counts[State.WAITING] == len(self.trials):
            parts.append("workers are importing TensorFlow")
        left = self.total_seconds_left
        return parts if left is None else [*parts, f"about {duration(left)} left"]


STYLES = {
    State.RUNNING: "cyan",
    State.RETRYING: "yellow",
    State.FAILED: "red",
    State.DONE: "green",
    State.WAITING: "dim",
}

Show = Callable[[object, int], None]  # to be called with an event, and the number of the attempt at its trial


@contextlib.contextmanager
def display(progress: RunProgress, *, shown: bool = True, clock: Clock = time) -> Iterator[Show]:
    """Show the progress until the block ends."""
    console = terminal() if shown else None
    recorder_logs_epochs = log.isEnabledFor(logging.DEBUG)
    log_if_due = _lines(progress, clock) if shown and console is None and not recorder_logs_epochs else None

    def show(event: object, attempt: int) -> None:
        trial = progress.update(event, attempt)
        if trial is not None and log_if_due is not None:
            log_if_due(trial)

    if console is None:
        yield show
    else:
        # The table is erased at the end; the lines above it, and the result, stay.
        drawn = partial(drawing, progress, console)
        # Rich replaces the streams with its own, which interpret escape sequences; `safe_streams` escapes them first.
        with Live(get_renderable=drawn, console=console, refresh_per_second=4, transient=True), safe_streams():
            yield show


def _lines(progress: RunProgress, clock: Clock) -> Callable[[TrialProgress], None]:
    """Return the function that logs a line about a trial that has changed, at intervals."""
    last_line: dict[str, float] = {}  # by trial
    last_of_any = -math.inf

    def show(trial: TrialProgress) -> None:
        nonlocal last_of_any
        now = clock.monotonic()
        if trial.state is not State.RUNNING or not trial.epoch:
            last_line[trial.id] = now
        elif now - last_line.setdefault(trial.id, now) >= LINE_SECONDS and now - last_of_any >= ANY_LINE_SECONDS:
            last_line[trial.id] = now
            last_of_any = now
            values = (
                ("loss {:.4f}", trial.loss),
                (f"{_accuracy_name(trial)} {trial.score_name} {{:.2%}}", trial.accuracy),
                ("{:,.0f} images/s", trial.images_per_second),
            )
            known = [form.format(value) for form, value in values if value is not None]
            epoch = f"epoch {trial.epoch:.1f} of {trial.epochs}".replace(".0 ", " ")
            log.info("%s: %s", trial.id, ", ".join((epoch, *known, f"{time_left(progress.seconds_left(trial))} left")))

    return show


def drawing(progress: RunProgress, console: Console) -> Group:
    """Return the table, with as many trials as fit, running ones first, and a line of totals."""
    line = ", ".join([*progress.totals(), f"{duration(time.monotonic() - progress.begin)} elapsed"])
    totals = Text(line, style="bold")
    if not progress.trials:
        return Group(Text(""), totals)
    order = list(State)
    trials = sorted(progress.trials.values(), key=lambda trial: (order.index(trial.state), -trial.end))
    room = max(1, console.height - 6)  # an empty line, two lines of headings, two of totals, and the cursor's
    rows = [_cells(progress, trial) for trial in trials[:room]]
    widths = {"state": 8, "loss": 7, "validation": 10, "training": 10, "test": 8, "node": 24}
    widths["epochs"] = max(len("epochs"), *(len(f"{trial.epochs}/{trial.epochs}") for trial in trials))
    widths["trial"] = min(MAX_TRIAL_WIDTH, max(len(trial.id) for trial in trials))
    shown = {heading: widths.get(heading, len(heading)) for heading in rows[0]}
    if all(trial.attempt == 1 for trial in trials):
        del shown["attempt"]
    if not progress.is_tested:
        del shown["test"]
    for heading in OPTIONAL:
        if _total_width(shown) > console.width:
            shown.pop(heading, None)
    free = console.width - _total_width(shown)
    shown["trial"] = max(MIN_TRIAL_WIDTH, shown["trial"] + min(0, free))
    bar_width = min(MAX_BAR_WIDTH, free - GAP)
    balanced = any(trial.score_name != "accuracy" for trial in trials)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, GAP, 0, 0))
    for heading, width in shown.items():
        if heading == "epochs" and bar_width >= MIN_BAR_WIDTH:
            table.add_column(width=bar_width)
        name = "balanced" if heading == "validation" and balanced else "accuracy"
        text = f"{heading}\n{name}" if heading in ("validation", "training", "test") else heading
        left = heading in ("trial", "state", "node")
        table.add_column(text, justify="left" if left else "right", no_wrap=True, width=width, vertical="bottom")
    for trial, row in zip(trials, rows, strict=False):
        cells = [row[heading] for heading in shown]
        if bar_width >= MIN_BAR_WIDTH:
            bar = ProgressBar(total=trial.epochs, completed=trial.epoch, width=bar_width, finished_style="green")
            cells.insert(2, bar)
        table.add_row(*cells)
    more = [Text(f"... and {len(trials) - room} more", style="dim")] if len(trials) > room else []
    return Group(Text(""), table, *more, totals)


def _cells(progress: RunProgress, trial: TrialProgress) -> dict[str, RenderableType]:
    has_time_left = trial.state in (State.RUNNING, State.RETRYING)
    return {
        "trial": trial.id,
        "state": Text(trial.state.value, style=STYLES[trial.state]),
        "epochs": f"{int(trial.epoch)}/{trial.epochs}",
        "loss": _text(trial.loss, ".4f"),
        _accuracy_name(trial): _text(trial.accuracy, ".2%"),
        "test": _text(trial.test_accuracy, ".2%"),
        "images/s": _text(trial.images_per_second, ",.0f"),
        "time left": time_left(progress.seconds_left(trial)) if has_time_left else "",
        "attempt": str(trial.attempt),
        "node": trial.node,
    }


def _total_width(widths: dict[str, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _accuracy_name(trial: TrialProgress) -> str:
    return "validation" if trial.validates else "training"


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def time_left(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)
