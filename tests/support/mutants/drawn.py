"""`make mutants-drawn N=20 SEED=1`: draw small faults, put each into the code, and print which tests notice it.

Cosmic Ray's operators say which faults are possible. They are drawn from the files that the mutants by hand name. One
that no test notices is worth a test, or changes nothing; then `EXCUSED` says why.
"""

import difflib
import os
import random
import re
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.support.job import ROOT
from tests.support.mutants import OF_TESTS, OF_WORLDS
from tests.support.mutants.mutant import Mutant, put_into_a_copy, run_tests

FILES = sorted({mutant.file for mutant in (*OF_TESTS, *OF_WORLDS)})
# `|` joins types nearly everywhere, equal objects are mostly identical, and these operations fail for most operands.
LEFT_OUT = ("BitOr_", "_Eq_Is", "_NotEq_IsNot", "_Is_Eq", "_IsNot_NotEq", "_Pow", "Shift", "_BitXor", "_Mod")
OPERATORS = {
    name: get_operator(name)()
    for name in operator_names()
    if not get_operator(name).arguments() and not any(part in name for part in LEFT_OUT)
}

ALL, FAST = [Path("tests", name) for name in ("cluster", "jobs", "mnist_lib")], "not slow and not long"

# Why a fault changes nothing, by a regular expression for the fault.
EXCUSED = {
    r"-> @dataclass\(frozen=(False, kw_only=True|True, kw_only=False)": "mypy checks it where the class is used",
}


@cache
def _possible(file: str) -> list[list[tuple[str, int]]]:
    """Return the possible faults of a file, grouped by their position: the operator, and which of its occurrences."""
    positions = defaultdict[object, list[tuple[str, int]]](list)
    nodes = [*ast_nodes(get_ast((ROOT / file).read_text()))]
    for name, operator in OPERATORS.items():
        places = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, place in enumerate(places):
            positions[place].append((name, occurrence))
    return [*positions.values()]


def draw(count: int, seed: int) -> list[Mutant]:
    """Return different faults: each position of a file is equally likely, and each file by its number of lines."""
    generator = random.Random(seed)
    sources = {file: (ROOT / file).read_text() for file in FILES}
    drawn = dict[str, Mutant]()
    while len(drawn) < count:
        (file,) = generator.choices(FILES, [source.count("\n") for source in sources.values()])
        name, occurrence = generator.choice(generator.choice(_possible(file)))
        old, new = sources[file], mutate_code(sources[file], OPERATORS[name], occurrence)
        if not is_python(new):
            continue
        _, _, place, *lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
        removed, added = (" ".join(line[1:].strip() for line in lines if line[0] == sign).strip() for sign in "-+")
        change = f"{removed} -> {added}"
        at = place.split()[1].strip("-").partition(",")[0]
        drawn[change] = Mutant(name=f"{file}:{at}: {change}", file=file, old=old, new=new)
    return [*drawn.values()]


def is_python(source: str) -> bool:
    """Return whether a file compiles. Cosmic Ray also writes `if not one := other`."""
    try:
        compile(source, "", "exec")
    except SyntaxError:
        return False
    return True


def noticed(mutant: Mutant) -> str:
    """Return the test that notices a fault, of the file's own tests or the fast ones; "" if none does."""
    folder = Path("tests", mutant.file).parent
    own = folder / f"test_{Path(mutant.file).stem}.py"
    with tempfile.TemporaryDirectory() as copy:
        put_into_a_copy(mutant, Path(copy))
        for tests, marks in (([own], "not long"), ([folder], FAST), (ALL, FAST)):
            if (ROOT / tests[0]).exists() and (failed := run_tests([*map(str, tests)], marks, Path(copy))):
                return failed
    return ""


def main() -> int:
    count, seed = map(int, sys.argv[1:3])
    print(f"{count} faults from seed {seed}", flush=True)
    begin, open_ones = time.monotonic(), 0
    mutants = draw(count, seed)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, test in zip(mutants, pool.map(noticed, mutants), strict=True):
            excuse = next((why for fault, why in EXCUSED.items() if re.search(fault, mutant.name)), "")
            open_ones += not (test or excuse)
            print(f"{test or excuse or 'NOT NOTICED'}\n    {mutant.name}", flush=True)
    print(f"{count - open_ones} of {count} noticed or excused, {time.monotonic() - begin:.0f} s")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
