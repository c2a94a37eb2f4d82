"""Faults in the driver are noticed by the simulated worlds. `make mutants` runs these tests alone."""

from pathlib import Path

import pytest

from tests.support.mutants import MUTANTS, Mutant, broken_invariant
from tests.support.simulation.invariants import INVARIANTS

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_fault_in_the_driver_breaks_an_invariant_of_a_simulated_world(mutant: Mutant, tmp_path: Path) -> None:
    broken = broken_invariant(mutant, tmp_path)
    assert broken.split(":")[0] in mutant.invariants, broken or "not noticed"


def test_every_invariant_is_broken_by_a_mutant() -> None:
    assert {*INVARIANTS} == {name for mutant in MUTANTS for name in mutant.invariants}
