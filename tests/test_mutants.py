"""Faults that are put into the code are noticed, by named tests or by the simulated worlds. `make mutants` runs all."""

from collections import Counter
from pathlib import Path

import pytest

from tests.support.job import ROOT
from tests.support.mutants import OF_TESTS, OF_WORLDS
from tests.support.mutants.mutant import Mutant, broken_invariant, failed_test
from tests.support.simulation.invariants import INVARIANTS

MAX_EXCUSED = 4


def as_id(mutant: Mutant) -> str:
    return mutant.name.replace(" ", "-")


@pytest.mark.long
@pytest.mark.parametrize("mutant", OF_WORLDS, ids=as_id)
def test_a_fault_in_the_driver_breaks_an_invariant_of_a_simulated_world(mutant: Mutant, tmp_path: Path) -> None:
    broken = broken_invariant(mutant, tmp_path)
    assert broken.split(":")[0] in mutant.invariants, broken or "not noticed"


@pytest.mark.long
@pytest.mark.mutants
@pytest.mark.parametrize("mutant", OF_TESTS, ids=as_id)
def test_a_fault_fails_one_of_its_tests(mutant: Mutant, tmp_path: Path) -> None:
    assert bool(failed_test(mutant, tmp_path)) == (not mutant.excuse), f"not noticed, though: {mutant.why}"


@pytest.mark.parametrize("mutant", [*OF_WORLDS, *OF_TESTS], ids=as_id)
def test_each_fault_can_be_put_into_the_code(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    assert source.count(mutant.old) == 1
    compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
    for name in mutant.tests:
        file, _, test = name.partition("::")
        assert f"def {test or 'test_'}" in (ROOT / "tests" / file).read_text()
    assert bool(mutant.tests and mutant.why) != bool(mutant.invariants)


def test_there_are_many_different_faults_and_few_are_excused() -> None:
    names = Counter(mutant.name for mutant in (*OF_WORLDS, *OF_TESTS))
    assert len(names) == names.total() >= 60
    assert sum(bool(mutant.excuse) for mutant in OF_TESTS) <= MAX_EXCUSED


def test_every_invariant_is_broken_by_a_mutant() -> None:
    assert {*INVARIANTS} == {name for mutant in OF_WORLDS for name in mutant.invariants}


def test_a_seed_draws_the_same_faults_again() -> None:
    from tests.support.mutants.drawn import draw

    drawn = draw(2, seed=1)
    assert drawn == draw(2, seed=1)
    assert {*drawn}.isdisjoint(draw(2, seed=2))
    for mutant in drawn:
        assert mutant.old == (ROOT / mutant.file).read_text() != mutant.new
        compile(mutant.new, mutant.file, "exec")
