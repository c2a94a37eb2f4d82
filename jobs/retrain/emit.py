"""`jobs.retrain emit SCHEDULER`: the schedule as another scheduler has it, with the command that does the rest."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from cluster.deploy.schedulers import Timer
from cluster.deploy.schedulers.crontab import crontab
from cluster.deploy.schedulers.kubernetes import cronjob, raycronjob
from cluster.deploy.schedulers.systemd import units
from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of
from jobs.console.output import CommandResult
from jobs.retrain.options import EmitOptions, RetrainOptions
from mnist_lib.catalog import require_known
from mnist_lib.store.storage import is_url

# What the command is not told: whether to stay, secrets, and what belongs to this printing.
LEFT_OUT = ("train", "once", "now", "notify", "json", "verbose")


def emit(options: EmitOptions, flags: Sequence[str]) -> CommandResult:
    """`flags`: those of jobs.train."""
    kinds: dict[str, Callable[[], dict[str, str]]] = {
        "crontab": lambda: {"crontab": crontab(_timer(options, flags, here=True))},
        "systemd": lambda: units(_timer(options, flags, here=True)),
        "kubernetes": lambda: {"cronjob.yaml": cronjob(_timer(options, flags, here=False), options.image)},
        "raycronjob": lambda: {"raycronjob.yaml": raycronjob(_timer(options, flags, here=False), options.image)},
    }
    if options.scheduler is None:
        raise UsageError(f"scheduler: expected one of {', '.join(kinds)}")
    require_known("scheduler", options.scheduler, kinds)
    files = kinds[options.scheduler]()
    text = "\n".join(f"# --- {name} ---\n{content}" if len(files) > 1 else content for name, content in files.items())
    return CommandResult(files, text.rstrip())


def _timer(options: EmitOptions, flags: Sequence[str], *, here: bool) -> Timer:
    timetable = options.timetable()
    storage = options.storage
    if not is_url(storage):
        path = Path(storage).expanduser()
        if not here and not path.is_absolute():
            raise UsageError(f"storage: expected a URL or a path in the pod, as in /storage/digits, got {storage!r}")
        storage = str(path.absolute())
    command = [sys.executable if here else "python", "-m", "jobs.retrain", "--once"]
    for field in fields(RetrainOptions):
        value = storage if field.name == "storage" else getattr(options, field.name)
        if field.name not in LEFT_OUT and (value != field.default or field.name in ("name", "cron", "tz")):
            command.extend(flags_of({field.name: value}))
    return Timer(
        name=options.name,
        cron=timetable.cron,
        zone=timetable.zone,
        command=(*command, "--", *flags) if flags else tuple(command),
        folder=Path.cwd(),
        about=f"Retraining of the handwritten digits: schedule {options.name}, {timetable.cron} in {timetable.zone}",
        starting_deadline=options.starting_deadline,
    )
