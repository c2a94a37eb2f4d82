"""A world with a schedule of every hour, and what its journal says."""

from collections import Counter

from mnist_lib.retraining.journal import Entry
from mnist_lib.retraining.policy import Policy
from tests.support.retraining.world import Settings, World

HOUR, DAY = 3600.0, 86_400.0


HOURLY = "0 * * * *"


def world(machines: int = 1, *, cron: str = HOURLY, longest_run: float = 60.0, **policy: object) -> World:
    made = World(Settings(cron=cron, policy=Policy(**policy), longest_run=longest_run), machines)  # type: ignore[arg-type]
    for machine in made.machines:
        machine.boot()
    made.advance(1)
    return made


def kinds(entries: list[Entry]) -> Counter[str]:
    return Counter(entry.kind for entry in entries)


def done(of: World) -> list[str]:
    return [entry.slot for entry in of.journal() if entry.kind == "done"]
