"""`python -m jobs.doctor`: what would keep a run from working, here and on every node, and how to mend it."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.options import option, parse
from jobs.console.output import as_text, grid, print_result, run_command
from jobs.console.values import existing_folder, folder
from jobs.doctor import checks as findings
from jobs.doctor.checks import Finding, findings_of
from jobs.train.options import STORAGE_HELP
from mnist_lib.store.storage import check_storage

COLORS = {"ok": "green", "warning": "yellow", "fault": "red"}


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Looks at what a run needs, and prints what it finds with the fix beside it. Exits with 0, or as a run would with
    the worst of it."""

    address: str | None = option(
        None, "a running cluster (default: RAY_ADDRESS, or this machine alone)", str, "HOST:PORT"
    )
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL")
    dataset: str = option("mnist-mini", "as for jobs.train", str, "NAME")
    data_dir: Path | None = option(None, "as for jobs.train", existing_folder, "DIR")
    data_source: Path | None = option(None, "as for jobs.train", folder, "DIR")
    json: bool = option(False, "print one JSON document instead of a table")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(doctor, sys.argv[1:] if arguments is None else arguments)


def doctor(arguments: Sequence[str]) -> int:
    options: DoctorOptions = parse("jobs.doctor", DoctorOptions, arguments)
    check_storage(options.storage)
    found = list(_examine(options))
    print_result(json.dumps([*map(findings.document, found)], indent=2) if options.json else _table(found))
    return worst(found)


def _examine(options: DoctorOptions) -> Iterator[Finding]:
    from cluster.connection.address import address_of

    yield from findings_of("packages", findings.versions_here)
    yield from findings_of("storage", lambda: findings.storage(options.storage))
    yield from findings_of("dataset", lambda: findings.dataset(options.dataset, options.data_dir, options.data_source))
    yield from findings_of("token", findings.token)
    address = address_of(options.address)
    if address is None:
        return
    given_by = "--address" if options.address else "RAY_ADDRESS"
    about_head = list(findings_of("head", lambda: findings.head(address, given_by)))
    yield from about_head
    if about_head[0].code is None:
        yield from findings_of("cluster", lambda: _cluster(address))


def _cluster(address: str) -> Iterator[Finding]:
    from cluster.connection.session import session

    with session(address, SOURCE_FOLDERS):
        yield from findings.dashboard()
        yield from findings.nodes()


def worst(found: Sequence[Finding]) -> int:
    """The exit code of the first fault: what comes first keeps a run from getting to what comes after."""
    return next((exit_codes.exit_code_of(finding.code) for finding in found if finding.code), exit_codes.DONE)


def _table(found: Sequence[Finding]) -> str:
    from rich.text import Text

    rows = [(Text(f.mark, style=COLORS[f.mark]), f.what, f.found, f.fix) for f in found]
    return as_text(grid(("", "what", "found", "fix"), rows, fold=("what", "found", "fix")))


if __name__ == "__main__":
    sys.exit(main())
