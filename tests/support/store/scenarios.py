"""The operations that change a store, each with the state before and after, for faults at every step."""

from collections.abc import Callable
from dataclasses import dataclass

from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.appointment import rollback
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.publishing import collect, publish
from mnist_lib.store.versions import Version, find
from tests.support.store.fake_versions import about, files


@dataclass(frozen=True)
class Scenario:
    act: Callable[[Objects], object]
    versions: tuple[list[int], list[int]]  # numbers that exist before and after `act`
    champion: tuple[int, int]  # version before and after `act`

    def prepare(self, objects: Objects) -> None:
        """Publish four versions, each better than the one before, and promote the first three in turn."""
        for right in (50, 100, 150, 199):
            version = published(objects, right)
            if right < 199:
                promote(objects, version, Rule())


def published(objects: Objects, right: int) -> Version:
    """Publish, as run `run-<right>`, a version that answers `right` of 200 images correctly."""
    return publish(objects, "keras", f"run-{right}", files(right), about(right=right))


def _promote_fourth(objects: Objects) -> None:
    version = find(objects, "keras", 4)
    assert version is not None
    promote(objects, version, Rule())


SCENARIOS = {
    "publish": Scenario(lambda objects: published(objects, 198), ([1, 2, 3, 4], [1, 2, 3, 4, 5]), (3, 3)),
    "promote": Scenario(_promote_fourth, ([1, 2, 3, 4], [1, 2, 3, 4]), (3, 4)),
    "rollback": Scenario(
        lambda objects: rollback(objects, "keras", "mnist", to=1), ([1, 2, 3, 4], [1, 2, 3, 4]), (3, 1)
    ),
    "gc": Scenario(lambda objects: collect(objects, "keras", keep=1), ([1, 2, 3, 4], [2, 3, 4]), (3, 3)),
}
