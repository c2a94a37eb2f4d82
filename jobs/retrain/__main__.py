"""`python -m jobs.retrain`: the main job by a timetable, as a daemon or, with --once, for another scheduler."""

import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import FrameType
from typing import Any

from jobs.console import exit_codes
from jobs.console.options import parse, split_at_dashes, split_subcommand
from jobs.console.output import CommandResult, log_to_stderr, print_result, print_stderr, run_command
from jobs.retrain import emit as retrain_emit
from jobs.retrain import status as retrain_read
from jobs.retrain.notices import Notifier, document_of, sentence_of, teller
from jobs.retrain.options import (
    EmitOptions,
    HistoryOptions,
    RetrainOptions,
    StatusOptions,
    check_train,
    train_flags,
)
from jobs.retrain.work import TrainWork
from mnist_lib.clock import SystemClock, text_of
from mnist_lib.errors import BusyError, StoreError
from mnist_lib.retraining.journal import Entry, Journal
from mnist_lib.retraining.retrainer import Pause, Retrainer
from mnist_lib.retraining.timetable import Timetable
from mnist_lib.store.lease import Lease, LeaseTerm, lease_folder, newest_term
from mnist_lib.store.objects import Objects
from mnist_lib.store.runs import check_writable
from mnist_lib.store.storage import open_storage

STORE_SECONDS = 30.0  # until a storage that refuses is asked again; with a run going on, sooner
RUNNING_SECONDS = 2.0
SIGNALLED_SECONDS = 5.0  # for what is still to be told when a signal has come

log = logging.getLogger("jobs.retrain")  # __name__ is "__main__" where this is the command

COMMANDS: dict[str, tuple[type[RetrainOptions], Callable[[Any, Sequence[str]], CommandResult]]] = {
    "status": (StatusOptions, lambda options, _: retrain_read.show_status(options, open_storage(options.storage))),
    "history": (HistoryOptions, lambda options, _: retrain_read.show_history(options, open_storage(options.storage))),
    "emit": (EmitOptions, retrain_emit.emit),
}


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, sys.argv[1:] if arguments is None else arguments)


def command(arguments: Sequence[str]) -> int:
    own, after_dashes = split_at_dashes(arguments)
    kinds: dict[str, type[RetrainOptions]] = {
        "": RetrainOptions,
        **{name: kind for name, (kind, _) in COMMANDS.items()},
    }
    about = {name: kind.__doc__ for name, kind in kinds.items()}
    name, own = split_subcommand("python -m jobs.retrain", about, own)
    options: RetrainOptions = parse(f"jobs.retrain {name}".strip(), kinds[name], own)
    options.check()
    flags = train_flags(options, after_dashes)
    if not name:
        return _retrain(options, flags)
    if name == "emit":
        check_train(flags)
    result = COMMANDS[name][1](options, flags)
    print_result(json.dumps(result.document, indent=2) if options.json else result.text)
    return result.exit_code


def _retrain(options: RetrainOptions, flags: Sequence[str]) -> int:
    if options.once and options.now:
        raise exit_codes.UsageError("once, now: expected one of them; --now runs whatever the timetable says")
    timetable, train = options.timetable(), check_train(flags)
    objects = open_storage(options.storage)
    check_writable(objects)
    log_to_stderr(verbose=options.verbose, timestamps=True)
    clock, host = SystemClock(), socket.gethostname()
    began = clock.now()
    # For another scheduler's first call, the slot is due that it calls for.
    enroll = timetable.latest(began) - timedelta(seconds=1) if options.once else began
    term = LeaseTerm(f"process {os.getpid()}", host, text_of(began))
    lease = Lease(objects, lease_folder(options.name), term, time_to_live=options.lease_seconds, clock=clock)
    notifier = Notifier(options.receiver, os.environ.get("MNIST_JOBS_NOTIFY_SECRET")) if options.receiver else None
    retrainer = Retrainer(
        options.name,
        timetable,
        options.policy(),
        journal=Journal(objects, options.name),
        lease=lease,
        work=TrainWork(objects, options.name, options.storage, flags, train, stop_seconds=options.lease_seconds / 3),
        clock=clock,
        host=host,
        enroll=enroll,
        tell=teller(notifier.tell, options.notify_on, options.name, options.storage) if notifier else _tell_nobody,
        skip_unchanged=options.skip_unchanged,
    )
    stop = _Stop()
    try:
        if options.now or options.once:
            return _once(options, objects, retrainer, lease, stop)
        log.info("schedule %s: %s in %s; next: %s", options.name, options.cron, options.tz, _next(timetable, began))
        return _stay(retrainer, stop)
    finally:
        if notifier:
            notifier.close(SIGNALLED_SECONDS if stop.exit_code else None)


def _stay(retrainer: Retrainer, stop: "_Stop") -> int:
    """Until a signal comes."""
    while not stop.wait(_step(retrainer).seconds):
        pass
    retrainer.stop()
    return stop.exit_code


def _once(options: RetrainOptions, objects: Objects, retrainer: Retrainer, lease: Lease, stop: "_Stop") -> int:
    """Until nothing is due; or, with --now, until that run has ended."""
    own = None
    if options.now:
        own = retrainer.run_now()
        if own is None:
            raise _busy(options, objects)
    while True:
        pause = _step(retrainer, patient=False)
        entry = retrainer.settled
        if entry is not None and (pause.state == "idle" or (own is not None and entry.slot == own.slot)):
            return _tell_end(options, entry)
        if pause.state == "busy" and (own is not None or lease.is_fresh()):
            raise _busy(options, objects)
        if stop.wait(pause.seconds):
            retrainer.stop()
            return stop.exit_code


def _step(retrainer: Retrainer, *, patient: bool = True) -> Pause:
    """`patient`: a storage that refuses is asked again; with a run going on, it always is."""
    try:
        return retrainer.step()
    except StoreError as error:
        if not patient and not retrainer.is_running:
            raise
        seconds = RUNNING_SECONDS if retrainer.is_running else STORE_SECONDS
        log.warning("%s; trying again in %.0f s", error, seconds)
        return Pause("waiting", seconds)


def _busy(options: RetrainOptions, objects: Objects) -> BusyError:
    term = newest_term(objects, lease_folder(options.name))
    who = f"{term.holder} on {term.host}, since {term.since}" if term else "another process"
    return BusyError(f"schedule {options.name}: a run is going on, by {who}; wait for it, or see: jobs.retrain status")


def _tell_end(options: RetrainOptions, entry: Entry) -> int:
    document = document_of(entry, options.name, options.storage)
    print_result(json.dumps(document, indent=2) if options.json else sentence_of(entry, options.name))
    return entry.exit_code or exit_codes.DONE


def _tell_nobody(entry: Entry) -> None:
    pass


def _next(timetable: Timetable, now: datetime) -> str:
    return f"{timetable.next(now).astimezone(timetable.tz):%a %Y-%m-%d %H:%M %Z}"


class _Stop:
    """SIGINT and SIGTERM end what goes on, softly; the second one at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.exit_code = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def wait(self, seconds: float) -> bool:
        """True once a signal has come."""
        return self._event.wait(seconds)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(128 + number)  # the run's process is ended by the kernel
        self.exit_code = 128 + number
        self._event.set()  # first: nobody may read what is told
        print_stderr("stopping; the same command goes on with what is not done")


if __name__ == "__main__":
    sys.exit(main())
