"""A schedule for cron: lines to add with `crontab -e`."""

import shlex

from cluster.deploy.schedulers import COMMENT, Timer, UnwritableError, require_portable

MAX_BYTES = 998  # of a command and of a variable; Debian's cron silently drops the rest


def crontab(timer: Timer) -> str:
    """Return the lines. Raises SchedulerError for a timetable that only some implementations of cron understand, and
    UnwritableError for a command that is too long for some of them."""
    require_portable(timer.cron, "a crontab")
    command = _short("command", f"cd {_quoted(str(timer.folder))} && {' '.join(map(_quoted, timer.command))}")
    hint = "# To be notified of each run, set MNIST_JOBS_NOTIFY=URL on a line above."
    return "\n".join(
        [
            f"# {timer.about}",
            COMMENT.rstrip(),
            hint if timer.notify is None else f"MNIST_JOBS_NOTIFY={_short('notify', _variable(timer.notify))}",
            "# CRON_TZ works with cronie. Debian's cron uses the machine's time zone: set that, or run the daemon.",
            f"CRON_TZ={timer.zone}",
            f"{timer.cron} {command}",
            "# After a boot: resume an interrupted run and run a missed slot.",
            f"@reboot {command}",
            "",
        ]
    )


def _quoted(word: str) -> str:
    """Quote a word for the shell and for cron, which turns % into a line break.

    `\\%` gives a literal %. Some versions of cron also turn two backslashes into one, so every backslash of the word
    itself is followed by two quotes, which the shell removes.
    """
    return shlex.quote(word).replace("\\", "\\''").replace("%", r"\%")


def _variable(value: str) -> str:
    """Quote the value of a variable if it begins with a quote, which cron would remove. Values have no escapes."""
    if not value.startswith(("'", '"')):
        return value
    for quote in "'\"":
        if quote not in value:
            return f"{quote}{value}{quote}"
    raise UnwritableError(
        "notify: a crontab cannot hold a command that begins with a quote and has both kinds of quotes"
    )


def _short(what: str, text: str) -> str:
    length = len(text.encode())
    if length > MAX_BYTES:
        raise UnwritableError(
            f"{what}: expected at most {MAX_BYTES} bytes in a crontab, got {length:,}; use emit systemd, or shorten it"
        )
    return text
