"""`jobs.retrain emit`: the schedule as a configuration of another scheduler, which runs `jobs.retrain --once`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of
from jobs.console.output import CommandResult
from jobs.console.terminal import Drawn
from jobs.retrain.notices import check_receiver
from jobs.retrain.options import EmitOptions, RetrainOptions, check_train, train_options
from jobs.retrain.schedulers import STORAGE, Timer, cronjob, crontab, units
from jobs.search.options import SearchOptions
from jobs.train.options import TrainOptions
from mnist_lib.objects.storage import check_storage, folder_of
from mnist_lib.settings import options_of, values_of


def emit(options: EmitOptions, flags: Sequence[str]) -> CommandResult:
    """Return the contents of each configuration file; `flags` are the options after the dashes."""
    train = check_train(train_options(options, flags))
    check_storage(options.storage)
    if options.scheduler == "kubernetes":
        _require_in_container(train)
        files = {"cronjob.yaml": cronjob(_timer(options, flags, here=False), options.image)}
    elif options.scheduler == "systemd":
        files = units(_timer(options, flags, here=True))
    else:
        files = {"crontab": crontab(_timer(options, flags, here=True))}
    text = "\n".join(f"# --- {name} ---\n{content}" if len(files) > 1 else content for name, content in files.items())
    return CommandResult(files, [Drawn(text.rstrip())])  # unchanged: options have no control characters


def _require_in_container(train: TrainOptions) -> None:
    """Raise UsageError if the run needs a file of this machine, which a container does not have."""
    own: dict[str, Sequence[object]] = {
        "models": [*train.model_files],
        "dataset": [folder] if (folder := train.data().folder) else [],
        "tfds_import": [train.tfds_import] if train.tfds_import else [],
        "data_source": [train.data_source] if train.data_source else [],
        "space": [train.space] if isinstance(train, SearchOptions) and train.space else [],
    }
    for name, values in own.items():
        if values:
            got = ", ".join(map(str, values))
            raise UsageError(
                f"{name}: expected no file of this machine, since the manifest does not mount any, got {got}; add it to"
                " the image and to the manifest by hand, or put a dataset into a bucket"
            )


def _timer(options: EmitOptions, flags: Sequence[str], *, here: bool) -> Timer:
    """Return the timer of the schedule. `here`: whether the command runs on this machine, not in a container."""
    timetable, folder = options.timetable(), folder_of(options.storage)
    if folder and not here and not Path(os.path.normpath(folder)).is_relative_to(STORAGE):
        raise UsageError(
            f"storage: expected a URL or an absolute path in {STORAGE}, where the manifest mounts its volume, got"
            f" {options.storage!r}; use --storage {STORAGE}/NAME"
        )
    receiver = options.notify and options.notify.strip()
    if receiver and here:
        check_receiver(receiver)
    values, declared = values_of(options, "driver"), options_of(RetrainOptions, "driver")
    changed = {name: values[name] for name, field in declared.items() if values[name] != field.default}
    own = {
        "name": options.name,
        "cron": options.cron,
        "tz": options.tz,
        **changed,
        "storage": str(folder or options.storage),
    }
    command = [sys.executable if here else "python", "-m", "jobs.retrain", "--once", *flags_of(own)]
    return Timer(
        name=options.name,
        cron=timetable.cron,
        zone=timetable.zone,
        command=(*command, "--", *flags) if flags else tuple(command),
        folder=Path.cwd(),
        starting_deadline=options.starting_deadline,
        notify=receiver or None,
    )
