"""`jobs.retrain emit`: a schedule as a file for cron, systemd or Kubernetes.

Each file is an example in cluster/deploy with the values of the schedule. systemd runs the daemon; cron and Kubernetes
run `jobs.retrain --once`. No file contains the URL of `notify`, since every user of a machine can read commands; a
comment in each file says where to set it.
"""

import importlib.resources
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of
from jobs.console.output import CommandResult, print_stderr
from jobs.console.terminal import Drawn
from jobs.retrain.options import EmitOptions, RetrainOptions, check_train, train_options
from jobs.train.commands import plan_of
from jobs.train.options import TrainOptions
from mnist_lib.objects.storage import check_storage, folder_of
from mnist_lib.settings import options_of, values_of

MAX_CRON_BYTES = 998  # of a command; Debian's cron silently drops the rest
EXAMPLES = importlib.resources.files("cluster") / "deploy"
STORAGE = Path("/storage")  # the only folder of the container that outlives it, a volume in the manifest


def emit(options: EmitOptions, flags: Sequence[str]) -> CommandResult:
    """Return the file for a scheduler; `flags` are the options after the dashes."""
    train = check_train(train_options(options, flags))
    options.timetable()
    check_storage(options.storage)
    if options.scheduler == "kubernetes":
        _require_in_container(options, train)
        file = "cronjob.yaml"
        text = cronjob(options, ["python", "-m", "jobs.retrain", "--once", *_flags(options, flags)])
    elif options.scheduler == "systemd":
        file = f"mnist-jobs-{options.name}.service"
        text = service(options, [sys.executable, "-m", "jobs.retrain", *_flags(options, flags)])
    else:
        file = "crontab"
        text = crontab(options, [sys.executable, "-m", "jobs.retrain", "--once", *_flags(options, flags)])
    if options.notify:
        print_stderr(
            "notify is left out, since others may read this file; its comments say where to set MNIST_JOBS_NOTIFY"
        )
    # Printed as it is, since options have no control characters.
    return CommandResult({file: text}, [Drawn(text.rstrip())])


def _flags(options: EmitOptions, after_dashes: Sequence[str]) -> list[str]:
    """Return flags: options of the schedule that differ from their defaults, then "--" and the options of its runs."""
    values = values_of(options, "stored")
    declared = options_of(RetrainOptions, "stored")
    changed = {name: values[name] for name, field in declared.items() if values[name] != field.default}
    changed["storage"] = str(folder_of(options.storage) or options.storage)  # the working folder may differ
    return [*flags_of(changed), *(["--", *after_dashes] if after_dashes else [])]


def _require_in_container(options: EmitOptions, train: TrainOptions) -> None:
    """Raise UsageError if the run needs a file or folder of this machine, which a container does not have."""
    plan = plan_of(train)
    storage = folder_of(options.storage)
    of_this_machine = {
        "storage": storage and not storage.is_relative_to(STORAGE),
        "models": plan.files,
        "weights": any(plan.weights.values()),
        "dataset": train.data().folder,
        "tfds_import": train.tfds_import,
        "data_source": train.data_source,
    }
    for name, value in of_this_machine.items():
        if value:
            advice = "use a bucket, or add files to the image and to the manifest by hand"
            if name == "storage":
                advice = f"use a bucket or --storage {STORAGE}/NAME"
            raise UsageError(
                f"{name}: expected no path of this machine, since the container has only its volume {STORAGE}, got one;"
                f" {advice}"
            )


def _filled(example: str, values: Mapping[str, str]) -> str:
    """Return the text of an example. `values`: the pattern of a text that occurs once -> the text in its place."""
    pattern = "|".join(f"({pattern})" for pattern in values)
    texts = [*values.values()]
    text = (EXAMPLES / example).read_text("utf-8")
    return re.sub(pattern, lambda match: texts[int(match.lastindex or 0) - 1], text, flags=re.MULTILINE)


def crontab(options: EmitOptions, words: Sequence[str]) -> str:
    """Return lines to add with `crontab -e`. Raises UsageError for a command that cron would cut."""
    command = f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(words)}"
    length = len(command.encode())
    if "%" in command or length > MAX_CRON_BYTES:
        got = "one with %" if "%" in command else f"{length:,}"
        expected = f"expected at most {MAX_CRON_BYTES} bytes without % in a crontab"
        raise UsageError(f"command: {expected}, got {got}; use emit systemd, or shorten it")
    values = {
        r"^CRON_TZ=.*": f"CRON_TZ={options.tz}",
        r"^0 3 .*": f"{options.cron} {command}",
        r"^@reboot .*": f"@reboot {command}",
    }
    return _filled("crontab", values)


def service(options: EmitOptions, words: Sequence[str]) -> str:
    """Return a unit of systemd that runs the daemon."""
    values = {
        r"^WorkingDirectory=.*": f"WorkingDirectory={str(Path.cwd()).replace('%', '%%')}",
        r"^ExecStart=.*": f"ExecStart={' '.join(map(_systemd_word, words))}",
        r"nightly\.service": f"{options.name}.service",
        r"schedule nightly": f"schedule {options.name}",
        r"nightly\.env": f"{options.name}.env",
    }
    return _filled("systemd/mnist-jobs-nightly.service", values)


def _systemd_word(word: str) -> str:
    """Quote a word for ExecStart, which uses no shell but expands % and $."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return word if re.fullmatch(r"[A-Za-z0-9_./:=,+@$%-]+", word) else '"' + word.replace('"', '\\"') + '"'


def cronjob(options: EmitOptions, words: Sequence[str]) -> str:
    """Return the manifest of a CronJob."""
    # Kubernetes replaces $(NAME) and turns $$ into $.
    command = "".join(f"                - {_yaml(word.replace('$', '$$'))}\n" for word in words)
    values = {
        r"name: mnist-nightly$": f"name: mnist-{options.name}",
        r"schedule: .*": f"schedule: {_yaml(str(options.cron))}",
        r"timeZone: .*": f"timeZone: {_yaml(options.tz)}",
        r"image: .*": f"image: {_yaml(options.image)}",
        r"command:\n(?: +- .*\n)+": f"command:\n{command}",
    }
    return _filled("kubernetes/cronjob.yaml", values)


def _yaml(text: str) -> str:
    """Quote a text for YAML, which reads texts of JSON."""
    return json.dumps(text, ensure_ascii=False)
