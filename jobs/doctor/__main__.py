"""`python -m jobs.doctor`: find what would make a run fail, here and on every node, and print the fixes."""

import sys
from collections.abc import Sequence

from jobs.console import exit_codes
from jobs.console.options import parse
from jobs.console.output import CommandResult, entry_point, table
from jobs.console.terminal import step
from jobs.doctor.checks import CHECKS, DoctorOptions, Finding, findings
from jobs.doctor.gpu import devices
from mnist_lib.objects.storage import check_storage

COLORS = {"ok": "green", "warning": "yellow", "fault": "red"}
OPTIONS = {"": DoctorOptions}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    options: DoctorOptions = parse("jobs.doctor", DoctorOptions, arguments)
    check_storage(options.storage)
    checks = {**CHECKS, "GPU": devices}
    with step("checking"):
        found = [finding for what, check in checks.items() for finding in findings(what, check, options)]
    from rich.text import Text

    rows = [(Text(f.mark, style=COLORS[f.mark]), f.what, f.found, f.fix) for f in found]
    text = table(("", "what", "found", "fix"), rows, fold=("what", "found", "fix"))
    return CommandResult([finding.document for finding in found], [text], exit_code(found), json=options.json)


def exit_code(found: Sequence[Finding]) -> int:
    """Return the exit code with which the first fault would end a run; 0 if there is no fault."""
    return next((exit_codes.exit_code_of(finding.code) for finding in found if finding.code), exit_codes.DONE)


if __name__ == "__main__":
    sys.exit(main())
