"""`jobs.retrain status` and `history`: what became of the slots of a schedule, and what comes next."""

import itertools
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, tzinfo

from jobs.console.output import CommandResult, table
from jobs.retrain.notices import seconds_of
from jobs.retrain.options import HistoryOptions, StatusOptions
from mnist_lib.catalog import MODELS
from mnist_lib.clock import moment_of
from mnist_lib.retraining.journal import Entry, Journal
from mnist_lib.retraining.policy import counted
from mnist_lib.retraining.timetable import Timetable
from mnist_lib.store.champions import Champion, history
from mnist_lib.store.lease import LeaseTerm, lease_folder, newest_term
from mnist_lib.store.objects import Objects

NEXT_SLOTS = 3


def show_status(options: StatusOptions, objects: Objects) -> CommandResult:
    timetable = Timetable(options.cron, options.tz) if options.cron else None
    zone = timetable.tz if timetable else UTC
    entries = list(Journal(objects, options.name).backwards(most=4 * options.last))
    slots = [entry for entry in entries if not entry.is_open][: options.last]
    going_on = entries[0] if entries and entries[0].is_open else None
    champions = _champions(objects, options.name)[-options.last :]
    coming = _coming(timetable) if timetable else []
    term = newest_term(objects, lease_folder(options.name)) if going_on else None
    document = {
        "schedule": options.name,
        "cron": options.cron,
        "tz": options.tz,
        "going_on": asdict(going_on) if going_on else None,
        "holder": asdict(term) if term else None,
        "slots": [asdict(entry) for entry in slots],
        "champions": [asdict(champion) for champion in champions],
        "next": [moment.isoformat() for moment in coming],
    }
    if not entries:
        return CommandResult(document, f"{options.name}: nothing has happened yet in {objects.where('schedules')}")
    parts = [_now_line(options.name, going_on, term, zone)]
    parts.append(table(["slot", "outcome", "took", "what"], [_row(entry, zone) for entry in slots]))
    if champions:
        rows = [[_local(c.at, zone), f"{c.model}@{c.version}", c.kind, c.why] for c in reversed(champions)]
        parts.append(table(["champion since", "version", "by", "why"], rows))
    if coming:
        parts.append("Next: " + ", ".join(f"{moment:%a %Y-%m-%d %H:%M %Z}" for moment in coming))
    return CommandResult(document, "\n\n".join(parts))


def show_history(options: HistoryOptions, objects: Objects) -> CommandResult:
    zone = Timetable(options.cron, options.tz).tz if options.cron else UTC
    entries = list(Journal(objects, options.name).backwards(most=options.last))
    rows = [[_local(entry.at, zone), *_row(entry, zone), entry.host] for entry in entries]
    text = table(["at", "slot", "what happened", "took", "what", "host"], rows)
    return CommandResult([asdict(entry) for entry in entries], text)


def _now_line(name: str, going_on: Entry | None, term: LeaseTerm | None, zone: tzinfo) -> str:
    if going_on is None:
        return f"{name}: no run is going on"
    if going_on.kind == "interrupted":
        return f"{name}: run {going_on.run} was interrupted and will go on ({going_on.why})"
    by = f"{term.holder} on {term.host}" if term else going_on.host
    return f"{name}: run {going_on.run} is going on since {_local(going_on.begun, zone)}, by {by}"


def _row(entry: Entry, zone: tzinfo) -> list[str]:
    seconds = seconds_of(entry)
    took = "" if seconds is None or entry.kind == "started" else str(timedelta(seconds=seconds))
    return [_local(entry.slot, zone), entry.kind, took, _what(entry)]


def _what(entry: Entry) -> str:
    parts = [entry.why] if entry.why else []
    if entry.missed:
        parts.append(f"{counted(entry.missed)} missed before it")
    if entry.attempt > 1:
        parts.append(f"attempt {entry.attempt}")
    for model, row in entry.results.items():
        parts.append(
            f"{model}@{row['version']} {row['test_accuracy']:.2%}{', the champion' if row['champion'] else ''}"
        )
    return "; ".join(parts)


def _champions(objects: Objects, schedule: str) -> list[Champion]:
    """That this schedule's runs brought, and what became of them."""
    records = itertools.chain.from_iterable(history(objects, model) for model in MODELS)
    run = re.compile(rf"{re.escape(schedule)}-\d{{4}}-\d\d-\d\dT\d\d-\d\d-\d\dZ")
    own = [record for record in records if isinstance(record, Champion) and run.fullmatch(record.run)]
    return sorted(own, key=lambda record: record.at)


def _coming(timetable: Timetable) -> list[datetime]:
    moments, moment = [], datetime.now(UTC)
    for _ in range(NEXT_SLOTS):
        moment = timetable.next(moment)
        moments.append(moment.astimezone(timetable.tz))
    return moments


def _local(text: str, zone: tzinfo) -> str:
    return f"{moment_of(text).astimezone(zone):%Y-%m-%d %H:%M %Z}"
