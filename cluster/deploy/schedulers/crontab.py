"""A schedule for cron: lines to add with `crontab -e`."""

import shlex

from cluster.deploy.schedulers import COMMENT, Timer, require_portable


def crontab(timer: Timer) -> str:
    """Return the lines. Raises SchedulerError for a timetable that only some implementations of cron understand."""
    require_portable(timer.cron, "a crontab")
    command = f"cd {shlex.quote(str(timer.folder))} && {shlex.join(timer.command)}"
    line = command.replace("%", r"\%")  # cron would take % for a new line
    return "\n".join(
        [
            f"# {timer.about}",
            COMMENT.rstrip(),
            "# To be notified of each run, set MNIST_JOBS_NOTIFY=URL on a line above.",
            "# CRON_TZ works with cronie. Debian's cron uses the machine's time zone: set that, or run the daemon.",
            f"CRON_TZ={timer.zone}",
            f"{timer.cron} {line}",
            "# After a boot: resume an interrupted run and run a missed slot.",
            f"@reboot {line}",
            "",
        ]
    )
