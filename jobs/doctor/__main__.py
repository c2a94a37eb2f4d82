"""`python -m jobs.doctor`: find what would make a run fail, here and on every node, and print the fixes."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.datasets import DataOptions
from jobs.console.options import JsonOptions, StorageOptions, parse
from jobs.console.output import CommandResult, entry_point, table
from jobs.console.terminal import step
from jobs.doctor import checks
from jobs.doctor.checks import Finding, run_check
from mnist_lib.objects.storage import check_storage
from mnist_lib.settings import option

COLORS = {"ok": "green", "warning": "yellow", "fault": "red"}


# How a dataset is read, which is not checked:
UNUSED = ("tfds_import", "train_split", "test_split", "image_size", "channels", "strict")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(DataOptions, StorageOptions, JsonOptions, without=UNUSED):
    """Check what a run needs, and print each finding with its fix. The exit code is 0 if there is
    no fault, otherwise the one with which the first fault would end a run."""

    address: str | None = option(None, "Ray cluster to check (default: RAY_ADDRESS or none)", "HOST:PORT")
    gpu: bool = option(False, "train each model for three epochs on the GPUs of this machine, and compare with the CPU")


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    options: DoctorOptions = parse("jobs.doctor", DoctorOptions, arguments)
    check_storage(options.storage)
    with step("checking"):
        findings = list(_examine(options))
    document = [finding.document for finding in findings]
    return CommandResult(document, [_table(findings)], exit_code(findings), json=options.json)


def _examine(options: DoctorOptions) -> Iterator[Finding]:
    from cluster.session import address_of

    yield from run_check("packages", checks.versions_here)
    yield from run_check("storage", lambda: checks.storage(options.storage))
    yield from run_check("dataset", lambda: checks.dataset(options.data()))
    yield from run_check("token", checks.token)
    if options.gpu:
        yield from checks.devices(options.data_dir)
    address = address_of(options.address)
    if address is None:
        return
    given_by = "--address" if options.address else "RAY_ADDRESS"
    head = list(run_check("head", lambda: checks.head(address, given_by)))
    yield from head
    if head[0].code is None:
        yield from run_check("cluster", lambda: _cluster(address))


def _cluster(address: str) -> Iterator[Finding]:
    from cluster.session import session

    with session(address, SOURCE_FOLDERS):
        yield from checks.dashboard()
        yield from checks.nodes()


def exit_code(findings: Sequence[Finding]) -> int:
    """Return the exit code with which the first fault would end a run; 0 if there is no fault."""
    return next((exit_codes.exit_code_of(finding.code) for finding in findings if finding.code), exit_codes.DONE)


def _table(findings: Sequence[Finding]) -> str:
    from rich.text import Text

    rows = [(Text(f.mark, style=COLORS[f.mark]), f.what, f.found, f.fix) for f in findings]
    return table(("", "what", "found", "fix"), rows, fold=("what", "found", "fix"))


if __name__ == "__main__":
    sys.exit(main())
