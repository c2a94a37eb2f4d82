"""Eight concurrent processes on one storage: some order of their operations must explain all results."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mnist_lib.objects.storage import open_storage
from mnist_lib.store.champions.promotion import Budget
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.versions import find
from tests.support.store.invariants import all_verified, champion_verified, champions

PROCESSES = 8
VERSIONS_EACH = {"local": 5, "s3": 3}


@dataclass(frozen=True)
class Operation:
    """An operation of a process, with the times when it began and ended."""

    what: str
    begin: int
    end: int
    value: Any


def linearizable(numbered: list[tuple[int, Operation]]) -> bool:
    """Return whether operations can have taken effect in the order of their numbers, each at one instant between its
    beginning and its end. Operations with equal numbers are reads of one state, in any order."""
    latest_begin = 0
    for number in sorted({number for number, _ in numbered}):
        here = [operation for other, operation in numbered if other == number]
        if any(operation.end < latest_begin for operation in here):
            return False  # it ended before an operation with a lower number began
        latest_begin = max([latest_begin, *(operation.begin for operation in here)])
    return True


def log_linearizable(appends: dict[int, Operation], reads: list[Operation]) -> bool:
    """Return whether a log is linearizable, given its appends (by record number) and the reads of its length."""
    # The order: append 1, reads of 1, append 2, reads of 2, ...
    steps = [(2 * number, operation) for number, operation in appends.items()]
    steps += [(2 * read.value + 1, read) for read in reads]
    return linearizable(steps)


def test_the_check_rejects_operations_that_no_order_explains() -> None:
    first, second = Operation("publish", 0, 10, None), Operation("publish", 20, 30, None)
    assert linearizable([(1, first), (2, second)])
    assert not linearizable([(2, first), (1, second)])
    overlapping = Operation("publish", 5, 25, None)
    assert linearizable([(2, first), (1, overlapping)])
    stale = Operation("read", 40, 50, 1)
    assert not log_linearizable({1: first, 2: second}, [stale])
    assert log_linearizable({1: first, 2: second}, [Operation("read", 25, 50, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", pytest.param("s3", marks=pytest.mark.long)])
def test_s4_concurrent_processes_lose_no_version_and_refuse_none_without_a_reason(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    storage = str(tmp_path) if kind == "local" else str(request.getfixturevalue("s3"))
    versions = VERSIONS_EACH[kind]

    def run(name: int) -> list[Operation]:
        command = [sys.executable, "-m", "tests.support.store.publisher", storage, str(name), str(versions)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], env=os.environ)
        assert (done.returncode, done.stderr) == (0, "")
        return [Operation(**json.loads(line)) for line in done.stdout.splitlines()]

    with ThreadPoolExecutor(PROCESSES) as pool:
        operations = [operation for process in pool.map(run, range(1, PROCESSES + 1)) for operation in process]

    objects = open_storage(storage)
    numbers = [(operation.value, operation) for operation in operations if operation.what == "publish"]
    assert sorted(number for number, _ in numbers) == list(range(1, PROCESSES * versions + 1))
    assert all_verified(objects) == list(range(1, PROCESSES * versions + 1))
    assert linearizable(numbers)

    decisions = champions(objects)
    log = [record for record in decisions if record.kind == "promote"]
    promotions = {op.value[0]: op for op in operations if op.what == "promote" and op.value[1]}
    assert sorted(promotions) == sorted(record.version for record in log)
    appends = {record.number: promotions[record.version] for record in log}
    assert log_linearizable(appends, [operation for operation in operations if operation.what == "read"])

    right = {number: right_of(storage, number) for number, _ in numbers}
    counts = [right[record.version] for record in log]
    assert counts == sorted(counts)
    assert champion_verified(objects) == log[-1].version
    refusals = {record.challenger: record for record in decisions if record.kind == "keep"}
    assert max(right, key=lambda number: right[number]) in {*promotions, *refusals}
    for number, record in refusals.items():
        assert number is not None
        # The versions answer the same images correctly, but for those that the better one answers in addition.
        p = 0.5 ** (right[number] - right[record.version])
        assert p >= Budget(record.total, record.comparisons - 1).next_alpha


def right_of(storage: str, number: int) -> int:
    objects = open_storage(storage)
    version = find(objects, "keras", number)
    assert version is not None
    return int(Predictions.read(objects, version).correct.sum())
