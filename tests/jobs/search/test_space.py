"""Search spaces: what may be given, and the configurations drawn from them."""

import itertools
import math
from typing import Any

import pytest

from jobs.search.space import Choice, Range, Space
from mnist_lib.errors import SpecError

KNOWN = ("learning_rate", "hidden_units", "optimizer")


@pytest.mark.parametrize(
    ("given", "dimension"),
    [
        ("1e-4..1e-1:log", Range(1e-4, 0.1, log=True)),
        ("0.0 .. 0.9", Range(0.0, 0.9)),
        ("16..512:log", Range(16, 512, log=True, whole=True)),
        ("128,256", Choice((128, 256))),
        ("sgd, adam", Choice(("sgd", "adam"))),
        ([0.1, "x", True], Choice((0.1, "x", True))),
        (0.5, Choice((0.5,))),
    ],
)
def test_a_dimension_is_a_list_or_a_range(given: Any, dimension: Any) -> None:
    space = Space.parse({"learning_rate": given}, None)
    assert space.dimensions == {"learning_rate": dimension}
    assert Space.parse(space.document(), None) == space


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "vary: expected at least one setting, such as learning_rate="),
        (
            {"learning_rat": "1"},
            "vary: 'learning_rat' cannot vary; did you mean learning_rate? known: ",
        ),
        ({"learning_rate": "0..0.1:log"}, "expected numbers above 0 for a logarithmic range, got '0..0.1:log'"),
        ({"learning_rate": "0.1..0.1"}, "expected two finite numbers, the lower one first, got '0.1..0.1'"),
        ({"learning_rate": "a..b"}, "expected a range such as 1e-4..1e-1:log or 16..512, got 'a..b'"),
        ({"learning_rate": "1..2:exp"}, "expected a range such as 1e-4..1e-1:log or 16..512, got '1..2:exp'"),
        ({"learning_rate": "1..nan"}, "expected two finite numbers, the lower one first"),
        ({"learning_rate": []}, "expected values such as 128,256 or a range such as"),
        ({"learning_rate": [None]}, "expected values such as 128,256 or a range such as"),
        ({"learning_rate": {"low": 1}}, "expected values such as 128,256 or a range such as"),
        ({"hidden_units": "128,128"}, "vary: hidden_units: expected each value once, got 128 twice"),
    ],
)
def test_an_invalid_space_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        Space.parse(given, KNOWN)
    assert message in str(error.value)


def test_a_grid_has_every_combination_and_a_limit() -> None:
    space = Space.parse({"hidden_units": "1,2,3", "optimizer": "sgd,adam"}, KNOWN)
    expected = [{"hidden_units": n, "optimizer": name} for n, name in itertools.product((1, 2, 3), ("sgd", "adam"))]
    assert space.grid() == expected
    large = Space.parse({name: [*range(1_000)] for name in KNOWN}, KNOWN)
    with pytest.raises(SpecError, match="expected at most 10,000 combinations for a grid, got 1,000,000,000"):
        large.grid()
    with pytest.raises(SpecError, match="vary: learning_rate: expected a list of values for a grid, got a range"):
        Space.parse({"learning_rate": "0..1"}, KNOWN).grid()


def test_a_configuration_depends_on_its_number_and_the_seed_only() -> None:
    space = Space.parse({"learning_rate": "1e-4..1e-1:log", "hidden_units": "16..64", "optimizer": "sgd,adam"}, KNOWN)
    drawn = [space.configuration(number, seed=0) for number in range(300)]
    assert drawn[7] == space.configuration(7, seed=0) != space.configuration(7, seed=1)
    rates = [float(values["learning_rate"]) for values in drawn]
    assert min(rates) >= 1e-4
    assert max(rates) <= 0.1
    assert 80 <= sum(rate < 1e-3 for rate in rates) <= 120  # a third: each order of magnitude is as likely
    assert {type(values["hidden_units"]) for values in drawn} == {int}
    assert {values["optimizer"] for values in drawn} == {"sgd", "adam"}
    assert all(math.isclose(rate, float(f"{rate:.4g}")) for rate in rates)


def test_examples_have_every_value_of_a_list_and_both_ends_of_a_range() -> None:
    space = Space.parse({"learning_rate": "0.1..0.2", "optimizer": "sgd,adam,rmsprop"}, KNOWN)
    assert [*space.examples()] == [
        {"learning_rate": 0.1, "optimizer": "sgd"},
        {"learning_rate": 0.2, "optimizer": "sgd"},
        {"learning_rate": 0.1, "optimizer": "adam"},
        {"learning_rate": 0.1, "optimizer": "rmsprop"},
    ]
