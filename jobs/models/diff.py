"""`jobs.models diff`: how two versions were made, and which test images they predict differently."""

from dataclasses import asdict

from jobs.console.output import CommandResult, table
from jobs.models.options import DiffOptions
from mnist_lib.api import NUMBER, find_version
from mnist_lib.catalog import MODELS
from mnist_lib.errors import SpecError
from mnist_lib.store.contents import Comparison, compare
from mnist_lib.store.objects import Objects
from mnist_lib.store.versions import Version, find
from mnist_lib.wording import percent

MAX_IMAGES_SHOWN = 10


def diff(options: DiffOptions, objects: Objects) -> CommandResult:
    comparisons = [compare(objects, one, other) for one, other in _pairs(options, objects)]
    return CommandResult(list(map(asdict, comparisons)), "\n\n".join(map(_comparison_text, comparisons)))


def _comparison_text(found: Comparison) -> str:
    one, other = map(percent, found.accuracies)
    lines = [f"{found.one} has {one}, {found.other} {other} of the test images right."]
    lines += [f"  {name}: {a} -> {b}" for name, (a, b) in found.made.items()] or ["  They were made in the same way."]
    if found.test_images is None:
        return "\n".join([*lines, "They were tested on different images."])
    count = len(found.differing)
    gained = sum(answers.other == answers.label for answers in found.differing)
    lost = sum(answers.one == answers.label for answers in found.differing)
    lines.append(
        f"They predict {count:,} of {found.test_images:,} test images differently"
        f"; only {found.other} is right on {gained:,}, only {found.one} on {lost:,}."
    )
    if count:
        rows = [list(map(str, asdict(answers).values())) for answers in found.differing[:MAX_IMAGES_SHOWN]]
        lines.append(table(("image", "label", found.one, found.other), rows))
    if count > MAX_IMAGES_SHOWN:
        lines.append(f"... and {count - MAX_IMAGES_SHOWN:,} more; --json prints all.")
    return "\n".join(lines)


def _pairs(options: DiffOptions, objects: Objects) -> list[tuple[Version, Version]]:
    """Return the versions to compare: the two that are named, or of each model those with the two numbers."""
    one, other = options.one, options.other
    if one is None or other is None:
        raise SpecError("version: expected two, as in: jobs.models diff keras@1 keras@2")
    if not (NUMBER.fullmatch(one) and NUMBER.fullmatch(other)):
        return [(find_version(objects, one), find_version(objects, other))]
    pairs = []
    for model in MODELS:
        first, second = (find(objects, model, int(number)) for number in (one, other))
        if first and second:
            pairs.append((first, second))
    if not pairs:
        raise SpecError(f"version: no model has both {one} and {other}; see: jobs.models list")
    return pairs
