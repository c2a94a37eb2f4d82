"""Finding the newest record of a log."""

import pytest

from mnist_lib.objects.records import last_number


@pytest.mark.parametrize("last", [0, 1, 2, 3, 4, 7, 8, 100, 10_000])
def test_the_last_number_is_found_with_a_logarithmic_number_of_requests(last: int) -> None:
    asked: list[int] = []

    def exists(number: int) -> bool:
        asked.append(number)
        return number <= last

    assert last_number(exists) == last
    assert len(asked) <= 2 * max(1, last.bit_length()) + 2
