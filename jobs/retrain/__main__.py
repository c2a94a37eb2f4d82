"""`python -m jobs.retrain`: run jobs.train on a schedule, as a daemon or, with --once, from another scheduler."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from types import FrameType
from typing import Any

from jobs.console import exit_codes
from jobs.console.options import parse, split_at_dashes, split_subcommand
from jobs.console.output import CommandResult, entry_point, log_to_stderr, print_stderr
from jobs.retrain.emit import emit
from jobs.retrain.journal import Entry, Journal
from jobs.retrain.notices import RECEIVER, SECRET, Notifier
from jobs.retrain.options import (
    EmitOptions,
    RetrainOptions,
    ScheduleOptions,
    StatusOptions,
    check_train,
    train_options,
)
from jobs.retrain.retrainer import Pause, Retrainer
from jobs.retrain.status import NOTICE_SCHEMA, events_of, notice_of, show_status, slot_text
from jobs.retrain.work import TrainWork
from jobs.train.commands import plan_of, require_after_dashes
from jobs.train.plan import require_trusted_code
from mnist_lib.environment import SystemClock, text_of, timestamp
from mnist_lib.errors import BusyError, StoreError
from mnist_lib.objects.lease import Lease, LeaseTerm, lease_folder, newest_term
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage
from mnist_lib.store.runs import check_writable

RETRY_SECONDS = 30.0  # pause after a storage error
RUNNING_RETRY_SECONDS = 2.0  # the same, while a run is in progress
SIGNALLED_DELIVERY_SECONDS = 5.0  # timeout for the remaining notices after a signal

log = logging.getLogger("jobs.retrain")  # __name__ is "__main__" under `python -m`

COMMANDS: dict[str, tuple[type[ScheduleOptions], Callable[[Any, Sequence[str]], CommandResult | int]]] = {
    "": (RetrainOptions, lambda options, flags: _retrain(options, flags)),
    "status": (StatusOptions, lambda options, _: show_status(options)),
    "emit": (EmitOptions, emit),
}
OPTIONS = {name: kind for name, (kind, _) in COMMANDS.items()}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult | int:
    own, after_dashes = split_at_dashes(arguments)
    about = {name: kind.__doc__ for name, kind in OPTIONS.items()}
    name, own = split_subcommand("python -m jobs.retrain", about, own)
    kind, run = COMMANDS[name]
    require_after_dashes(own, kind)
    options = parse(f"jobs.retrain {name}".strip(), kind, own)
    options.check()
    if isinstance(options, RetrainOptions):
        require_trusted_code(plan_of(train_options(options, after_dashes)), after_dashes)
    result = run(options, after_dashes)
    return result if isinstance(result, int) else replace(result, json=options.json)


def _retrain(options: RetrainOptions, flags: Sequence[str]) -> CommandResult | int:
    if options.once and options.now:
        raise exit_codes.UsageError("once, now: expected one of them, got both; use --now to start a run immediately")
    timetable = options.timetable()
    train = check_train(train_options(options, flags))
    objects = open_storage(options.storage)
    check_writable(objects)
    log_to_stderr(verbose=options.verbose, timestamps=True)
    clock = SystemClock()
    began = clock.now()
    host = socket.gethostname()
    term = LeaseTerm(f"process {os.getpid()}", host, timestamp(began))
    receiver = (options.notify or os.environ.get(RECEIVER) or "").strip()
    notifier = Notifier(receiver, os.environ.get(SECRET)) if receiver else None

    def notify(entry: Entry) -> None:
        if notifier and not set(events_of(entry)).isdisjoint(options.notify_on):
            notifier.send(notice_of(entry, options.name, options.storage, train.COMMAND))

    retrainer = Retrainer(
        schedule=options.name,
        timetable=timetable,
        max_attempts=options.max_attempts,
        journal=Journal(objects, options.name),
        lease=Lease(objects, lease_folder(options.name), term, time_to_live=options.lease_seconds, clock=clock),
        work=TrainWork(objects, options.storage, flags, train, options.train or {}, options.lease_seconds / 3),
        clock=clock,
        host=host,
        # With --once, the first call comes when a slot is due. The schedule begins before that slot, so it is run.
        enroll=timetable.latest(began) - timedelta(seconds=1) if options.once else began,
        notify=notify,
        skip_unchanged=options.skip_unchanged,
        on_request=options.now,
    )
    stop = _Stop()
    try:
        if options.now or options.once:
            return _run_once(options, train.COMMAND, objects, retrainer, stop)
        upcoming = slot_text(timetable.next(began).astimezone(timetable.tz))
        log.info("schedule %s: %s in %s; next: %s", options.name, options.cron, options.tz, upcoming)
        while not stop.wait(_step(retrainer).seconds):
            pass
        retrainer.stop()
        return stop.exit_code
    finally:
        if notifier:
            notifier.close(SIGNALLED_DELIVERY_SECONDS if stop.exit_code else None)


def _run_once(
    options: RetrainOptions, command: str, objects: Objects, retrainer: Retrainer, stop: "_Stop"
) -> CommandResult | int:
    """Run the schedule until nothing is due. With --now, one slot is due: that of the request."""
    waits = False
    while True:
        pause = _step(retrainer, retry_idle=False)
        if pause.state == "idle":
            return _result(options, command, retrainer)
        if pause.state == "busy":
            holder = _holder(options, objects)
            if retrainer.lease.heard:
                hint = "wait for it, or see: jobs.retrain status"
                raise BusyError(f"schedule {options.name}: a run is in progress ({holder}); {hint}")
            if not waits:
                log.info("waiting up to %.0f s for a heartbeat of %s", options.lease_seconds, holder)
            waits = True
            pause = Pause("busy", retrainer.lease.seconds_between_beats / 5)
        if stop.wait(pause.seconds):
            retrainer.stop()
            return stop.exit_code


def _result(options: RetrainOptions, command: str, retrainer: Retrainer) -> CommandResult:
    """Return what this process has done or, if nothing was due, when the next slot is, and how the newest one ended.

    The command ends with the exit code of that slot, so that a scheduler that repeats a failed command sees no success.
    """
    if retrainer.outcome is not None:
        notice = notice_of(retrainer.outcome, options.name, options.storage, command)
        return CommandResult(notice, [notice["text"]], retrainer.outcome.exit_code or exit_codes.DONE)
    newest = retrainer.last_settled
    assert newest is not None
    slot = retrainer.timetable.next(SystemClock().now())
    text = f"{options.name}: nothing is due; next: {slot_text(slot.astimezone(retrainer.timetable.tz))}; "
    text += f"newest slot, {newest.slot}: {newest.kind}"
    text += f" (exit code {newest.exit_code})" if newest.exit_code else ""
    document = {
        "schema": NOTICE_SCHEMA,
        "schedule": options.name,
        "outcome": "idle",
        "next": text_of(slot),
        "newest": {"slot": newest.slot, "outcome": newest.kind},
        "exit_code": newest.exit_code,
        "text": text,
    }
    return CommandResult(document, [text], newest.exit_code or exit_codes.DONE)


def _step(retrainer: Retrainer, *, retry_idle: bool = True) -> Pause:
    """Take a step, or log an error and return when to retry. Without `retry_idle`, retry only during a run.

    An OSError says that the process of a run could not be started. Its attempt counts as one that has died.
    """
    try:
        return retrainer.step()
    except (StoreError, OSError) as error:
        if not retry_idle and isinstance(error, StoreError) and not retrainer.is_running:
            raise
        seconds = RUNNING_RETRY_SECONDS if retrainer.is_running else RETRY_SECONDS
        log.warning("%s; trying again in %.0f s", error, seconds)
        return Pause("waiting", seconds)


def _holder(options: RetrainOptions, objects: Objects) -> str:
    term = newest_term(objects, lease_folder(options.name))
    return f"{term.holder} on {term.host}, since {term.since}" if term else "another process"


class _Stop:
    """Waits for SIGINT or SIGTERM. A second signal ends the process at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.exit_code = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def wait(self, seconds: float) -> bool:
        """Wait at most the given seconds for a signal; return whether one has arrived."""
        return self._event.wait(seconds)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(128 + number)  # the kernel terminates the process of the run
        self.exit_code = 128 + number
        self._event.set()  # before printing, which can block
        print_stderr("stopping; run the same command to resume")


if __name__ == "__main__":
    sys.exit(main())
