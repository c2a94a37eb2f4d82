"""What a person sees while a run trains, on standard error: a live table, or without a terminal a line now and then."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.console.terminal import terminal
from jobs.train.progress import RunProgress, State, TrialProgress

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # from one plain line of a trial to the next
WIDE = 110  # columns, from which on there is room for the node
STYLES = {State.RUNNING: "cyan", State.DIED: "yellow", State.FAILED: "red", State.DONE: "green", State.WAITING: "dim"}

Show = Callable[[TrialProgress], None]  # a trial has changed


def display(progress: RunProgress) -> AbstractContextManager[Show]:
    """The live table where standard error is a terminal that can move its cursor."""
    console = terminal()
    return _lines(progress) if console is None else _live(progress, console)


@contextlib.contextmanager
def nothing_shown(progress: RunProgress) -> Iterator[Show]:
    yield lambda trial: None


@contextlib.contextmanager
def _live(progress: RunProgress, console: Console) -> Iterator[Show]:
    """Gone at the end: the lines above it, and the result, stay."""

    def drawn() -> Group:
        return drawing(progress, console.size)

    with Live(get_renderable=drawn, console=console, refresh_per_second=4, transient=True):
        yield lambda trial: None


@contextlib.contextmanager
def _lines(progress: RunProgress) -> Iterator[Show]:
    told: dict[str, float] = {}  # when, by trial
    every_epoch_is_told = log.isEnabledFor(logging.DEBUG)

    def show(trial: TrialProgress) -> None:
        if every_epoch_is_told:
            return
        now = time.monotonic()
        if trial.state is not State.RUNNING or not trial.epoch:
            told[trial.id] = now
        elif now - told.setdefault(trial.id, now) >= LINE_SECONDS:
            told[trial.id] = now
            left = progress.seconds_left(trial)
            log.info(
                "%s: epoch %d of %d, loss %s, %s right, %s images/s, %s left",
                *(trial.id, trial.epoch, trial.epochs, _loss(trial), _percent(trial.accuracy), _speed(trial)),
                duration(left),
            )

    yield show


def drawing(progress: RunProgress, size: ConsoleDimensions) -> Group:
    """A row per trial as far as there is room, those under way first, then who ended last; and a line for all."""
    wide = size.width >= WIDE
    order = list(State)
    trials = sorted(progress.trials.values(), key=lambda trial: (order.index(trial.state), -trial.ended))  # stable
    room = max(1, size.height - 5)  # the heading, an empty line, two of totals, the cursor's
    again = any(trial.attempt > 1 for trial in trials)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("trial", no_wrap=True, max_width=28 if wide else 14)
    table.add_column("state", no_wrap=True)
    table.add_column("epochs", no_wrap=True)
    for heading in ("loss", "accuracy", "images/s", "left", *(["attempt"] if again else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    if wide:
        table.add_column("node", no_wrap=True)
    for trial in trials[:room]:
        cells: list[RenderableType] = [
            Text(trial.id),
            Text(trial.state.value, style=STYLES[trial.state]),
            _epochs(trial, bar_width=24 if wide else 8) if trial.state is not State.WAITING else "",
            _loss(trial),
            _percent(trial.accuracy if trial.test_accuracy is None else trial.test_accuracy),
            _speed(trial),
            duration(progress.seconds_left(trial)) if trial.state in (State.RUNNING, State.DIED) else "",
            *([str(trial.attempt)] if again else []),
            *([Text(trial.node)] if wide else []),
        ]
        table.add_row(*cells)
    unseen = [Text(f"... and {len(trials) - room} more", style="dim")] if len(trials) > room else []
    return Group(Text(""), table, *unseen, _total(progress))


def duration(seconds: float | None) -> str:
    """As in 45 s, 3:05 or 2:03:05."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _total(progress: RunProgress) -> Text:
    told = {state: progress.count(state) for state in State}
    ended = told[State.DONE] + told[State.FAILED]
    words = [f"{ended} of {len(progress.trials)} trials ended"]
    words += [f"{told[state]} {state.value}" for state in (State.FAILED, State.RUNNING, State.DIED) if told[state]]
    left = progress.total_seconds_left
    if left is not None:
        words.append(f"about {duration(left)} left")
    words.append(f"{duration(time.monotonic() - progress.begin)} so far")
    return Text(", ".join(words), style="bold")


def _epochs(trial: TrialProgress, bar_width: int) -> Table:
    cell = Table.grid(padding=(0, 1, 0, 0))
    cell.add_column(no_wrap=True)
    cell.add_column(no_wrap=True, justify="right")
    bar = ProgressBar(total=trial.epochs, completed=trial.epoch, width=bar_width, finished_style="green")
    cell.add_row(bar, f"{trial.epoch}/{trial.epochs}")
    return cell


def _loss(trial: TrialProgress) -> str:
    return "" if trial.loss is None else f"{trial.loss:.4f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _speed(trial: TrialProgress) -> str:
    return "" if trial.images_per_second is None else f"{trial.images_per_second:,.0f}"
