"""A simulated world with an hourly schedule, and queries of its journal."""

from collections import Counter

from jobs.retrain.journal import Entry
from tests.support.retraining.world import Settings, World

HOUR, DAY = 3600.0, 86_400.0
HOURLY = "0 * * * *"


def hourly_world(machines: int = 1, *, longest_run: float = 60.0, max_attempts: int = 3) -> World:
    """Return a world whose machines have booted; runs take up to `longest_run` seconds."""
    world = World(Settings(cron=HOURLY, max_attempts=max_attempts, longest_run=longest_run), machines)
    for machine in world.machines:
        machine.boot()
    world.advance(1)
    return world


def kinds(entries: list[Entry]) -> Counter[str]:
    return Counter(entry.kind for entry in entries)


def done_slots(world: World) -> list[str]:
    return [entry.slot for entry in world.journal() if entry.kind == "done"]
