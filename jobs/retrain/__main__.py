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
    HistoryOptions,
    RetrainOptions,
    ScheduleOptions,
    StatusOptions,
    check_train,
    train_options,
)
from jobs.retrain.retrainer import Pause, Retrainer
from jobs.retrain.slots import Timetable
from jobs.retrain.status import NOTICE_SCHEMA, events_of, notice_of, show_history, show_status, slot_text
from jobs.retrain.work import TrainWork
from jobs.train.commands import plan_of, require_after_dashes
from jobs.train.options import TrainOptions
from jobs.train.plan import require_trusted_code
from mnist_lib.clock import SystemClock, text_of, timestamp
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
    "history": (HistoryOptions, lambda options, _: show_history(options)),
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
    timetable, train = options.timetable(), check_train(train_options(options, flags))
    objects = open_storage(options.storage)
    check_writable(objects)
    log_to_stderr(verbose=options.verbose, timestamps=True)
    clock, host = SystemClock(), socket.gethostname()
    seconds = options.lease_seconds / 3
    flags = [*flags, *options.more_flags]
    work = TrainWork(objects, options.storage, flags, train, options.configuration, stop_seconds=seconds)
    began = clock.now()
    # With --once, the first call comes when a slot is due. The schedule begins before that slot, so that it is run.
    enroll = timetable.latest(began) - timedelta(seconds=1) if options.once else began
    term = LeaseTerm(f"process {os.getpid()}", host, timestamp(began))
    lease = Lease(objects, lease_folder(options.name), term, time_to_live=options.lease_seconds, clock=clock)
    receiver = (options.notify or os.environ.get(RECEIVER) or "").strip()
    notifier = Notifier(receiver, os.environ.get(SECRET)) if receiver else None

    def notify(entry: Entry) -> None:
        if notifier and not set(events_of(entry)).isdisjoint(options.notify_on):
            notifier.send(notice_of(entry, options.name, options.storage, train))

    retrainer = Retrainer(
        options.name,
        timetable,
        options.policy(),
        journal=Journal(objects, options.name),
        lease=lease,
        work=work,
        clock=clock,
        host=host,
        enroll=enroll,
        notify=notify,
        skip_unchanged=options.skip_unchanged,
        on_request=options.now,
    )
    stop = _Stop()
    try:
        if options.now or options.once:
            return _run_once(options, train, objects, retrainer, lease, stop, timetable)
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
    options: RetrainOptions,
    train: TrainOptions,
    objects: Objects,
    retrainer: Retrainer,
    lease: Lease,
    stop: "_Stop",
    timetable: Timetable,
) -> CommandResult | int:
    """Run the schedule until nothing is due. With --now, one slot is due: that of the request."""
    waits = False
    while True:
        pause = _step(retrainer, retry_idle=False)
        if pause.state == "idle":
            return _result(options, train, retrainer, timetable)
        if pause.state == "busy":
            holder = _holder(options, objects)
            if lease.heard:
                hint = "wait for it, or see: jobs.retrain status"
                raise BusyError(f"schedule {options.name}: a run is in progress ({holder}); {hint}")
            if not waits:
                log.info(
                    "waiting for a heartbeat of %s; without one, its run is resumed after %.0f s",
                    holder,
                    options.lease_seconds,
                )
            waits, pause = True, Pause("busy", lease.seconds_between_beats / 5)
        if stop.wait(pause.seconds):
            retrainer.stop()
            return stop.exit_code


def _result(options: RetrainOptions, train: TrainOptions, retrainer: Retrainer, timetable: Timetable) -> CommandResult:
    """Return what this process has done or, if nothing was due, when the next slot is, and how the newest one ended.

    The command ends with the exit code of that slot, so that a scheduler that repeats a failed command sees no success.
    """
    if retrainer.outcome is not None:
        notice = notice_of(retrainer.outcome, options.name, options.storage, train)
        return CommandResult(notice, [notice["text"]], retrainer.outcome.exit_code or exit_codes.DONE)
    newest = retrainer.last_settled
    assert newest is not None
    slot = timetable.next(SystemClock().now())
    ended = f"{newest.kind} (exit code {newest.exit_code})" if newest.exit_code else newest.kind
    text = f"{options.name}: nothing is due; next: {slot_text(slot.astimezone(timetable.tz))}; "
    text += "no slot has been due" if newest.kind == "enrolled" else f"newest slot, {newest.slot}: {ended}"
    document = {
        "schema": NOTICE_SCHEMA,
        "schedule": options.name,
        "outcome": "idle",
        "next": text_of(slot),
        "newest": None if newest.kind == "enrolled" else {"slot": newest.slot, "outcome": newest.kind},
        "exit_code": newest.exit_code,
        "text": text,
    }
    return CommandResult(document, [text], newest.exit_code or exit_codes.DONE)


def _step(retrainer: Retrainer, *, retry_idle: bool = True) -> Pause:
    """Take a step, or log a StoreError and return when to retry. Without `retry_idle`, retry only during a run."""
    try:
        return retrainer.step()
    except StoreError as error:
        if not retry_idle and not retrainer.is_running:
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
