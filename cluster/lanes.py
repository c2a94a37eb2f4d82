"""A lane as Ray runs it: a streaming generator task, on one node or as the first of a group of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from cluster import group
from cluster.place import Place, this_place
from cluster.resources import LanePlan

EVENTS_IN_FLIGHT = 16  # what a worker may be ahead of the driver, whose memory they take


class Lanes:
    """Starts tasks on the resources of a lane, that tell their place and then all that `function` yields.

    With a plan of several nodes, the task is the first of a group, as in `group.Others`.
    """

    def __init__(self, function: Callable[..., Iterator[Any]], plan: LanePlan) -> None:
        self._function, self._plan = function, plan
        self._groups: dict[Any, PlacementGroup] = {}  # by generator
        self._task: Any = ray.remote(
            num_returns="streaming",
            num_cpus=plan.cpus,
            num_gpus=plan.gpus,
            max_retries=0,  # ours to retry
            max_calls=1,  # TensorFlow keeps its settings, and its GPU memory, until its process ends
        )(_place_then_events)

    def start(self, *arguments: Any) -> Any:
        """-> the generator of the events."""
        if self._plan.nodes == 1:
            return self._start("DEFAULT", arguments)
        held = group.reserve(self._plan)
        generator = self._start(group.first_of(held), arguments)
        self._groups[generator] = held
        return generator

    def _start(self, where: Any, arguments: Sequence[Any]) -> Any:
        task = self._task.options(
            name=self._function.__name__,
            scheduling_strategy=where,
            _generator_backpressure_num_objects=EVENTS_IN_FLIGHT,
        )
        return task.remote(self._function, *arguments)

    def release(self, generator: Any) -> None:
        """What a lane of several nodes has held; what of it still runs is ended."""
        if generator in self._groups:
            group.release(self._groups.pop(generator))


def _place_then_events(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Place | Any]:
    yield this_place()
    yield from function(*arguments)
