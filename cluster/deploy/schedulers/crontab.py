"""For cron: lines to be added by `crontab -e`."""

import shlex

from cluster.deploy.schedulers import Timer, require_plain


def crontab(timer: Timer) -> str:
    """Raises SchedulerError for what only some crons understand."""
    require_plain(timer.cron, "a crontab")
    command = f"cd {shlex.quote(str(timer.folder))} && {shlex.join(timer.command)}"
    line = command.replace("%", r"\%")  # for cron it is a new line
    return "\n".join(
        [
            f"# {timer.about}",
            "# cron only starts it: what was missed, what still runs and what is done already, the command finds out",
            "# itself, by the slot's own run and the schedule's lease.",
            "# MNIST_JOBS_NOTIFY=URL, on a line above, names who is told.",
            "# CRON_TZ is of cronie. Debian's cron goes by the machine's time zone: set that, or run the daemon.",
            f"CRON_TZ={timer.zone}",
            f"{timer.cron} {line}",
            "# After a start of the machine: goes on with a run that was cut off, and with what was missed.",
            f"@reboot {line}",
            "",
        ]
    )
