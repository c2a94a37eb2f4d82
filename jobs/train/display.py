"""The progress of a run on standard error: a live table on a terminal, otherwise log lines at intervals."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.deadlines import Clock
from jobs.console.terminal import safe_streams, terminal
from jobs.train.progress import RunProgress, State, TrialProgress
from mnist_lib.wording import duration

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # between two log lines of a trial
ANY_LINE_SECONDS = 1.0  # between any two log lines
GAP = 2  # characters between two columns of the table
MAX_TRIAL_WIDTH, MIN_TRIAL_WIDTH = 28, 8
MAX_BAR_WIDTH, MIN_BAR_WIDTH = 24, 4
OPTIONAL = ("node", "images/s", "loss", "time left", "attempt")  # omitted in this order if the terminal is narrow
STYLES = {
    State.RUNNING: "cyan",
    State.RETRYING: "yellow",
    State.FAILED: "red",
    State.DONE: "green",
    State.WAITING: "dim",
}

Show = Callable[[TrialProgress], None]  # to be called when a trial has changed


@contextlib.contextmanager
def display(progress: RunProgress, *, shown: bool = True, clock: Clock = time) -> Iterator[Show]:
    """Show the progress until the block ends."""
    if not shown:
        yield lambda trial: None
    elif console := terminal():
        # The table is erased at the end; the lines above it, and the result, stay.
        drawn = partial(drawing, progress, console)
        # Rich replaces the streams with its own, which interpret escape sequences; `safe_streams` escapes them first.
        with Live(get_renderable=drawn, console=console, refresh_per_second=4, transient=True), safe_streams():
            yield lambda trial: None
    else:
        yield _lines(progress, clock)


def _lines(progress: RunProgress, clock: Clock) -> Show:
    last_line: dict[str, float] = {}  # by trial
    last_of_any = -math.inf
    recorder_logs_epochs = log.isEnabledFor(logging.DEBUG)

    def show(trial: TrialProgress) -> None:
        if recorder_logs_epochs:
            return
        nonlocal last_of_any
        now = clock.monotonic()
        if trial.state is not State.RUNNING or not trial.epoch:
            last_line[trial.id] = now
        elif now - last_line.setdefault(trial.id, now) >= LINE_SECONDS and now - last_of_any >= ANY_LINE_SECONDS:
            last_line[trial.id] = last_of_any = now
            log.info(
                "%s: epoch %s, loss %s, %s accuracy %s, %s images/s, %s left",
                *(
                    trial.id,
                    f"{trial.epoch:.1f} of {trial.epochs}".replace(".0 ", " "),
                    _text(trial.loss, ".4f") or "-",
                    _accuracy_name(trial),
                ),
                *(_text(trial.accuracy, ".2%") or "-", _text(trial.images_per_second, ",.0f") or "-"),
                time_left(progress.seconds_left(trial)),
            )

    return show


def drawing(progress: RunProgress, console: Console) -> Group:
    """Return the table, with as many trials as fit, running ones first, and a line of totals."""
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
    for heading in OPTIONAL:
        if _total_width(shown) > console.width:
            shown.pop(heading, None)
    free = console.width - _total_width(shown)
    shown["trial"] = max(MIN_TRIAL_WIDTH, shown["trial"] + min(0, free))
    bar_width = min(MAX_BAR_WIDTH, free - GAP)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, GAP, 0, 0))
    for heading, width in shown.items():
        if heading == "epochs" and bar_width >= MIN_BAR_WIDTH:
            table.add_column(width=bar_width)
        text = f"{heading}\naccuracy" if heading in ("validation", "training", "test") else heading
        left = heading in ("trial", "state", "node")
        table.add_column(text, justify="left" if left else "right", no_wrap=True, width=width, vertical="bottom")
    for trial, row in zip(trials, rows, strict=False):
        cells = [row[heading] for heading in shown]
        if bar_width >= MIN_BAR_WIDTH:
            bar = ProgressBar(total=trial.epochs, completed=trial.epoch, width=bar_width, finished_style="green")
            cells.insert(2, bar)
        table.add_row(*cells)
    more = [Text(f"... and {len(trials) - room} more", style="dim")] if len(trials) > room else []
    return Group(Text(""), table, *more, _totals(progress))


def _cells(progress: RunProgress, trial: TrialProgress) -> dict[str, RenderableType]:
    has_time_left = trial.state in (State.RUNNING, State.RETRYING)
    return {
        "trial": Text(trial.id),
        "state": Text(trial.state.value, style=STYLES[trial.state]),
        "epochs": f"{int(trial.epoch)}/{trial.epochs}",
        "loss": _text(trial.loss, ".4f"),
        _accuracy_name(trial): _text(trial.accuracy, ".2%"),
        "test": _text(trial.test_accuracy, ".2%"),
        "images/s": _text(trial.images_per_second, ",.0f"),
        "time left": time_left(progress.seconds_left(trial)) if has_time_left else "",
        "attempt": str(trial.attempt),
        "node": Text(trial.node),
    }


def _total_width(widths: dict[str, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _accuracy_name(trial: TrialProgress) -> str:
    return "validation" if trial.validates else "training"


def _totals(progress: RunProgress) -> Text:
    counts = {state: progress.count(state) for state in State}
    ended = counts[State.DONE] + counts[State.FAILED]
    parts = [f"{ended} of {len(progress.trials)} trials ended"]
    parts += [f"{counts[s]} {s.value}" for s in (State.FAILED, State.RUNNING, State.RETRYING) if counts[s]]
    if counts[State.WAITING] == len(progress.trials):
        parts.append("workers are importing TensorFlow")
    left = progress.total_seconds_left
    if left is not None:
        parts.append(f"about {duration(left)} left")
    parts.append(f"{duration(time.monotonic() - progress.begin)} elapsed")
    return Text(", ".join(parts), style="bold")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def time_left(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)
