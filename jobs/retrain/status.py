"""What people read about a schedule: the subcommand `status`, and the notice of a journal entry."""

import contextlib
import itertools
import re
import shlex
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any

from jobs.console import exit_codes
from jobs.console.output import CommandResult, table
from jobs.retrain.journal import Entry, Journal, ModelResult
from jobs.retrain.options import StatusOptions
from jobs.retrain.slots import Timetable, missed_text
from jobs.train.commands import options_types, stored_command
from mnist_lib.data.sources.scan import listed
from mnist_lib.documents import builtins_of
from mnist_lib.environment import moment_of
from mnist_lib.errors import MnistError
from mnist_lib.objects.lease import LeaseTerm, lease_folder, newest_term
from mnist_lib.objects.storage import open_storage
from mnist_lib.report.texts import growth_texts, label_errors_text, new_test_text
from mnist_lib.wording import and_balanced, counted, duration, interval_text, percent

NOTICE_SCHEMA = 1
# Kind of a journal entry -> event. The events of a "done" entry depend on its results.
EVENT_OF = {"started": "recovery", "failed": "failure", "unchanged": "skip", "skipped": "skip"}
# Kind of a journal entry -> what its notice begins with, unless there is more to say.
HEADLINES = {
    "started": "its process died, and the run is resumed",
    "unchanged": "nothing has changed, so nothing was run",
    "skipped": "a slot was skipped",
}
ERROR_CODE = re.compile(r"error\[(E-[A-Z-]+)\]")
NEXT_SLOTS = 3
EVERY_MINUTE = "* * * * *"  # any valid expression will do: only the time zone of the timetable is used
ENTRIES_PER_EVENT = 2  # number of journal entries to read per event shown, since each attempt has a start and an end


def show_status(options: StatusOptions) -> CommandResult:
    objects = open_storage(options.storage)
    timetable = Timetable(options.cron or EVERY_MINUTE, options.tz)
    zone = timetable.tz
    entries = list(Journal(objects, options.name).newest(ENTRIES_PER_EVENT * options.last))
    slots = [entry for entry in entries if entry.kind != "started"][: options.last]
    active = entries[0] if entries and entries[0].is_open else None
    coming = itertools.islice(timetable.slots_after(datetime.now(UTC)), NEXT_SLOTS if options.cron else 0)
    upcoming = [slot.astimezone(zone) for slot in coming]
    term = newest_term(objects, lease_folder(options.name)) if active else None
    document = {
        "schedule": options.name,
        "cron": options.cron,
        "tz": options.tz,
        "going_on": active,
        "holder": term,
        "slots": slots,
        "next": [moment.isoformat() for moment in upcoming],
    }
    if not entries:
        where = objects.where("schedules")
        return CommandResult(document, [f"schedule {options.name} has not been started: it has no entry in {where}"])
    lines = [_state(options.name, active, term, zone), ""]
    lines.append(table(["slot", "result", "duration", "details"], [_row(entry, zone) for entry in slots]))
    if slots and slots[0].data and slots[0].data.accept:
        lines += ["", f"To accept the change: {slots[0].data.accept}"]
    if slots and _is_worth_resuming(slots[0]):
        with contextlib.suppress(MnistError):  # the run, or what is stored about it, is gone or damaged
            command = stored_command(slots[0].run, options.storage, options_types())
            lines += ["", f"To resume {slots[0].run}:", command]
    if upcoming:
        lines += ["", "Next: " + ", ".join(map(slot_text, upcoming))]
    return CommandResult(document, lines)


def events_of(entry: Entry) -> list[str]:
    """Return the keys of `options.EVENTS` that apply to an entry."""
    if entry.kind != "done":
        return [EVENT_OF[entry.kind]] if entry.kind in EVENT_OF else []
    rows, data = entry.results.values(), entry.data
    found = {
        "success": entry.exit_code == exit_codes.DONE,
        "failure": entry.failed_trials,
        "promotion": any(row.champion for row in rows),
        "rejection": not all(row.champion for row in rows),
        "dataset-changed": data is not None and data.objections,
        "damaged": data is not None and data.newly_damaged,
        "unusual": any(row.new_test_before for row in rows) or (data is not None and data.unusual),
    }
    return [event for event, applies in found.items() if applies]


def notice_of(entry: Entry, schedule: str, storage: str, command: str) -> dict[str, Any]:
    """Return an entry as a JSON document. `text` is for people, and is what Slack's webhooks display.

    Args:
        command: the name of the command that the schedule runs, such as jobs.train.
    """
    next_command = entry.data.accept if entry.data else None
    if _is_worth_resuming(entry):
        next_command = shlex.join(["python", "-m", command, "--resume", entry.run, "--storage", storage])
    return {
        "schema": NOTICE_SCHEMA,
        "events": events_of(entry),
        "schedule": schedule,
        "host": socket.gethostname(),
        "slot": entry.slot,
        "outcome": entry.kind,
        "at": entry.at,
        "seconds": seconds_of(entry),
        "run": entry.run or None,
        "attempt": entry.attempt,
        "missed": entry.missed,
        "exit_code": entry.exit_code,
        "cause": entry.why or None,
        "data": builtins_of(entry.data),
        "models": builtins_of(entry.results),
        "next_command": next_command,
        "text": text_of_entry(entry, schedule) + (f" Next: {next_command}" if next_command else ""),
    }


def _is_worth_resuming(entry: Entry) -> bool:
    final = (exit_codes.exit_code_of("E-USAGE"), exit_codes.exit_code_of("E-TRAINING"))
    error = ERROR_CODE.match(entry.why)
    would_fail_again = entry.exit_code in final or (error is not None and exit_codes.is_final(error[1]))
    return entry.kind == "failed" and bool(entry.run) and not would_fail_again


def text_of_entry(entry: Entry, schedule: str) -> str:
    """Return what happened to a slot, for a notice: what matters most in a short sentence, and all of it in another."""
    event = "resumed, since its process died" if entry.kind == "started" else entry.kind
    parts = [f"Slot {entry.slot}: {event}", *_causes(entry), *_data(entry)]
    for model, row in entry.results.items():
        champion = "the champion" if row.champion else "not the champion"
        accuracy = f"{percent(row.test_accuracy)} test accuracy{_mean_text(row)}{and_balanced(row.balanced_accuracy)}"
        new, is_repeated = _on_new_pictures(row), entry.data is not None and entry.data.objections
        why = "" if is_repeated else f" ({row.why})"
        parts.append(f"{model}@{row.version} has {accuracy}{new} and is {champion}{why}")
    return f"{headline(entry, schedule)} {'; '.join(parts)}."


def headline(entry: Entry, schedule: str) -> str:
    """Return what matters most about a slot as a sentence."""
    return f"{schedule}: {'; '.join(_headlines(entry)) or HEADLINES.get(entry.kind, entry.kind)}."


def _headlines(entry: Entry) -> Iterator[str]:
    """Yield what happened to a slot as phrases, the most important first."""
    if entry.kind == "failed":
        yield "failed: " + ERROR_CODE.sub(r"\1", entry.why) if entry.why else "failed"
    data = entry.data
    if data is not None and data.objections:
        yield f"{data.name} has changed unexpectedly, so no model was promoted"
    if entry.failed_trials:
        yield f"{counted(entry.failed_trials, 'trial')} failed"
    if data is not None and data.newly_damaged:
        yield f"{counted(data.newly_damaged, 'picture')} cannot be read"
    promoted = [f"{model}@{row.version}" for model, row in entry.results.items() if row.champion]
    if promoted:
        rows = [*entry.results.values()]
        accuracy = f", with {percent(rows[0].test_accuracy)}" if len(rows) == 1 else ""
        yield f"new champion: {listed(promoted)}{accuracy}"
    if data is not None and data.unusual:
        name, *others = data.unusual
        yield f"unusually many new images in {name}{f' and {len(others)} more' if others else ''}"
    if any(row.new_test_before for row in entry.results.values()):
        yield "the accuracy on new images has fallen"
    if entry.results and not promoted and not (data and data.objections):
        yield "no new champion"


def _mean_text(row: ModelResult) -> str:
    """Return the mean accuracy of the trials with its 95% interval as a phrase; "" if they are not known."""
    if row.mean_test_accuracy is None or row.ci95 is None:
        return ""
    mean = f"mean of {row.trials:,} trials {percent(row.mean_test_accuracy)}, " if (row.trials or 1) > 1 else ""
    return f" ({mean}{interval_text(row.ci95)})"


def seconds_of(entry: Entry) -> float | None:
    """Return the seconds from the first attempt of a slot, or from its last resumption, to this entry."""
    return (moment_of(entry.at) - moment_of(entry.begun)).total_seconds() if entry.begun else None


def _state(name: str, active: Entry | None, term: LeaseTerm | None, zone: tzinfo) -> str:
    if active is None:
        return f"{name}: no run is in progress"
    if active.kind == "interrupted":
        return f"{name}: run {active.run} was interrupted and will be resumed ({active.why})"
    process = f"{term.holder} on {term.host}" if term else active.host
    return f"{name}: run {active.run} has been in progress since {_local(active.begun, zone)} ({process})"


def _row(entry: Entry, zone: tzinfo) -> list[str]:
    seconds = seconds_of(entry)
    took = "" if seconds is None or entry.kind == "started" else duration(seconds)
    details = [*_causes(entry), *_data(entry), *([f"attempt {entry.attempt}"] if entry.attempt > 1 else [])]
    for model, row in entry.results.items():
        champion = ", the champion" if row.champion else ""
        accuracy = percent(row.test_accuracy) + and_balanced(row.balanced_accuracy)
        details.append(f"{model}@{row.version} {accuracy}{_on_new_pictures(row)}{champion}")
    return [_local(entry.slot, zone), entry.kind, took, "; ".join(details)]


def _causes(entry: Entry) -> list[str]:
    return [*([entry.why] if entry.why else []), *([missed_text(entry.missed)] if entry.missed else [])]


def _data(entry: Entry) -> list[str]:
    """Return what is new in the data of a run, as a phrase in a list, or an empty list."""
    data = entry.data
    if data is None:
        return []
    counts = {"added": data.added, "removed": data.removed, "relabelled": data.relabelled}
    parts = [f"{counted(count, 'image')} {kind}" for kind, count in counts.items() if count]
    if data.since is not None:
        parts = [f"{', '.join(parts) or 'no image has changed'} since {data.since}"]
    if data.objections:
        parts.append(f"changed unexpectedly: {'; '.join(data.objections)}")
    if data.unusual:
        parts.append(f"unusual: {listed(growth_texts(data.unusual))}")
    if corrected := data.corrected:
        disputed = data.disputed_holdout
        favours = f", {disputed:,} of the test because a model disputed them" if disputed else ""
        parts.append(f"{counted(corrected, 'label')} corrected{favours}")
    if data.label_errors:
        parts.append(label_errors_text(data.label_errors))
    return [f"{data.name}: {', '.join(parts)}"] if parts else []


def _on_new_pictures(row: ModelResult) -> str:
    text = new_test_text(row.new_test, row.new_test_before)
    return f", {text}" if text else ""


def slot_text(moment: datetime) -> str:
    return f"{moment:%a %Y-%m-%d %H:%M %Z}"


def _local(text: str, zone: tzinfo) -> str:
    return f"{moment_of(text).astimezone(zone):%Y-%m-%d %H:%M %Z}"
